"""The composition root: builds the parts, starts them in order, stops them in reverse. Only this place knows all."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from opusd import memory
from opusd.agents.pool import AgentPool
from opusd.agents.worktree import Worktrees
from opusd.clock import Clock, SystemClock
from opusd.collector import Collector, resting
from opusd.config import Config, ConfigError
from opusd.config.machine import Machine
from opusd.config.shown import shown
from opusd.core import budgets, cooling, sizes, timekeeping
from opusd.core.breather import trouble
from opusd.core.errors import Conflict, OpusError
from opusd.core.pauses import Pauses
from opusd.core.room import lacking
from opusd.core.state import State
from opusd.dispatcher.answers import AnswerVerbs
from opusd.dispatcher.capacity import CapacityVerbs
from opusd.dispatcher.desk import Desk
from opusd.dispatcher.engine import Engine
from opusd.dispatcher.entrance import Entrance
from opusd.dispatcher.feed import Feed
from opusd.dispatcher.hearing import Hearing
from opusd.dispatcher.intake import Intake
from opusd.dispatcher.jobs import JobVerbs
from opusd.dispatcher.launching import Launching
from opusd.dispatcher.notifications import NotificationVerbs
from opusd.dispatcher.reads import ReadVerbs
from opusd.dispatcher.roll import Roll
from opusd.dispatcher.rooms import offer
from opusd.dispatcher.schedules import ScheduleVerbs
from opusd.dispatcher.steering import SteeringVerbs
from opusd.dispatcher.system import SystemVerbs
from opusd.dispatcher.tally import Tally
from opusd.dispatcher.tokens import Attempts
from opusd.dispatcher.upkeep import Upkeep
from opusd.dispatcher.waits import Waits
from opusd.dispatcher.workdirs import Workdirs
from opusd.dispatcher.workers import WorkerVerbs
from opusd.dispatcher.worktrees import WorktreeVerbs
from opusd.notify import Supervisor
from opusd.observers.notifier import Notifier
from opusd.observers.sending import Sender
from opusd.rpc.callers import Callers
from opusd.rpc.place import exposed
from opusd.rpc.server import RpcServer
from opusd.store.sqlite import SqliteStore
from opusd.threads import started
from opusd.triggers.schedules import Schedules
from opusd.wiring import check_agents, connection_values, lacking_files, launch_values, retention_values

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from opusd.core.job import Change, Event
    from opusd.core.limits import Limits
    from opusd.store.base import Snapshot, Store

_CLOSE_SECONDS: Final = 5.0
_GIVE_BACK_SECONDS: Final = 600.0
_THREADS: Final = 4
_POOL_NET: Final = 20_000
"""Above what pool.resize allows: only a scheduler that can't count ever meets it."""
_QUIET_KINDS: Final = frozenset({"job.submitted", "job.queued", "job.blocked", "job.scheduled", "job.updated"})
"""Too many to be told of at level info: `opusctl history` and the audit trail have them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are, as the command line says. `load` reads the configuration; again at a reload."""

    state_dir: Path
    socket: Path
    load: Callable[[], Config]
    umask: int | None = None  # of the agents
    logs: Callable[[Config], frozenset[str]] = lambda _: frozenset({"info", "warning", "error"})
    """Sets up the log; the levels that are written."""


class Daemon:
    """One daemon: `run` until `stop`. `log(event, level="info", **fields)` writes a record."""

    def __init__(
        self,
        settings: Settings,
        config: Config,
        *,
        log: Callable[..., None],
        clock: Clock | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._levels = settings.logs(config)
        self._settings = settings
        self._config = config
        self._log = log
        self._clock = clock or SystemClock()
        self._supervisor = supervisor or Supervisor()
        self._stopping = asyncio.Event()
        self._runs = settings.state_dir / "runs"
        self._machine = Machine(settings.state_dir)
        self._store: Store = SqliteStore(settings.state_dir / "opusd.db")
        self._feed = Feed(0)
        self._waits = Waits()
        self._collector = Collector()

    def stop(self) -> None:
        """End the daemon: nothing new starts, agents are left running for the next start."""
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop` or SIGTERM. StoreError and OutcomeUnknown come out of here; everything is closed behind them."""
        asyncio.get_running_loop().set_default_executor(started(_THREADS, "opusd"))
        async with AsyncExitStack() as stack:
            pool = AgentPool(runs=self._runs, report=self._report, limit=_POOL_NET)
            stack.push_async_callback(pool.close)
            await pool.open()
            await self._store.open()
            stack.push_async_callback(self._store.close)
            await self._load(pool)
            await self._serve(stack, pool)

    # --- building ---------------------------------------------------------------------------------

    async def _load(self, pool: AgentPool) -> None:
        """From the registry to memory. The snapshot is not kept: it would keep every job that ends later."""
        with resting():
            snapshot = await self._store.load_active()
            newest = await self._store.events(snapshot.last_event - 1, 1)
            self._build(snapshot, newest[0].time if newest else 0, pool)

    def _build(self, snapshot: Snapshot, seen: int, pool: AgentPool) -> None:
        self._pool = pool
        self._state = _remembered(self._config.limits(), snapshot, seen)
        self._tally = Tally(snapshot)
        self._roll = Roll(self._state)
        self._build_engine()
        self._build_rooms(snapshot)
        self._build_server(pool)

    def _build_engine(self) -> None:
        """What decides, writes and launches, and the desk before it."""
        settings = self._settings
        self._launching = Launching(
            base=dict(os.environ),
            socket=str(settings.socket),
            zone=self._clock.zone,
            umask=settings.umask,
            **launch_values(self._config),
        )
        self._workdirs = Workdirs(Worktrees(settings.state_dir / "worktrees", os.environ), self._state, self._store)
        self._engine = Engine(
            self._state,
            self._store,
            self._clock,
            prepare=self._launching.prepare,
            listen=self._launching.listen,
            workdirs=self._workdirs,
            released=self._released,
            log=self._log,
            room=self._machine.room,
        )
        self._desk = Desk(self._engine)

    def _build_rooms(self, snapshot: Snapshot) -> None:
        """What lives beside the engine: it hears of what happens, or makes things happen in time."""
        config, desk, writer = self._config, self._desk, self._engine.writer
        self._feed.cursor = snapshot.last_event
        self._feed.attach(desk)
        self._waits.attach(desk)
        self._hearing = Hearing(desk, self._feed)
        self._engine.hearing = self._hearing.heard
        self._notifier = Notifier(
            self._store,
            writer,
            self._clock,
            send=Sender(os.environ, self._clock, self._log).send,
            log=self._log,
            settings=snapshot.settings,
            cursor=snapshot.last_event,
        )
        self._notifier.configure(config.notifications)
        self._intake = Intake(
            policies=config.retry, env_secret=config.security.env_secret, home=os.environ.get("HOME", "/")
        )
        entrance = Entrance(desk, self._intake)
        self._schedules = Schedules(writer, entrance, self._clock, log=self._log, settings=snapshot.settings)
        self._upkeep = Upkeep(
            desk, self._runs, self._workdirs, forgotten=self._tally.forgotten, log=self._log, **retention_values(config)
        )

    def _build_server(self, pool: AgentPool) -> None:
        """Who answers which method, and who may ask."""
        desk = self._desk
        reads = ReadVerbs(desk, self._tally, pool.read_output, self._waits.begun)
        rooms = [
            JobVerbs(desk, self._intake),
            AnswerVerbs(desk),
            reads,
            CapacityVerbs(desk, self._tally),
            SteeringVerbs(desk, reads, self._waits),
            WorkerVerbs(desk, self._hearing, self._roll),
            self._waits,
            self._feed,
            self._upkeep,
            WorktreeVerbs(desk, self._workdirs),
            NotificationVerbs(self._notifier),
            ScheduleVerbs(desk, self._schedules),
            SystemVerbs(desk, self._waits, about=self._about, reload=self._reload, stop=self.stop),
        ]
        alive = Attempts(self._state)
        callers = Callers(
            attempt_of=pool.attempt_of,
            held_by=self._roll.held_by,
            attempt_by_id=alive.by_id,
            attempt_by_token=alive.by_token,
        )
        self._server = RpcServer(
            offer(rooms),
            identify=callers.identify,
            lower=callers.lower,
            on_error=self._on_error,
            **connection_values(self._config),
        )

    async def _serve(self, stack: AsyncExitStack, pool: AgentPool) -> None:
        """Recover first, listen next, dispatch last; then wait for the end, or for a part that fails."""
        engine, writer = self._engine, self._engine.writer
        writing = asyncio.create_task(writer.run(), name="writer")
        stack.push_async_callback(self._close_writer, writing)
        stack.callback(self._workdirs.close)
        await engine.recover(pool)
        stack.callback(engine.close)
        listening = self._supervisor.listening
        await self._server.serve(self._settings.socket, listening[0] if listening else None)
        stack.push_async_callback(self._quiet, writing)
        writer.fact(sizes.forget)
        writer.fact(lambda decision: decision.note("daemon.started", detail={"pid": os.getpid()}), "daemon")
        self._handle_signals(stack)
        parts: list[Coroutine[Any, Any, None]] = [engine.run(), self._upkeep.run(), self._notifier.run()]
        parts += [self._schedules.run(), self._give_back()]
        if self._supervisor.watchdog is not None:
            parts.append(self._watchdog(self._supervisor.watchdog))
        tasks = [asyncio.create_task(part) for part in parts]
        stack.push_async_callback(_cancel, tasks)
        self._supervisor.ready(f"{len(self._state.jobs)} unfinished jobs")
        self._log("daemon.started", pid=os.getpid(), jobs=len(self._state.jobs), socket=str(self._settings.socket))
        stopping = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([writing, stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done:
            task.result()

    async def _quiet(self, writing: asyncio.Task[None]) -> None:
        """No new dispatch, no new calls; replies and the last facts are let out. Without a writer there are none."""
        self._supervisor.stopping()
        self._state.draining = True
        patience = 0.0 if writing.done() else _CLOSE_SECONDS
        await self._server.close(patience)
        self._workdirs.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._engine.drained()
        self._engine.writer.fact(lambda decision: decision.note("daemon.stopped"), "daemon")
        self._log("daemon.stopped", pid=os.getpid())

    async def _close_writer(self, writing: asyncio.Task[None]) -> None:
        self._engine.writer.close()
        await asyncio.wait([writing])
        writing.result()  # whether the last commits are kept may be unknown

    # --- what the parts tell each other -------------------------------------------------------------

    def _released(self, changes: list[Change], events: list[Event]) -> None:
        self._tally.released(changes)
        self._desk.released(changes)
        self._roll.released(changes)
        self._feed.released(changes, events)
        self._waits.released(changes)
        self._notifier.released(events)
        self._collector.changed(len(changes), len(self._state.jobs))
        if "info" not in self._levels:
            return
        for event in events:
            level = "debug" if event.kind in _QUIET_KINDS else "info"
            if level in self._levels and not event.kind.startswith("daemon."):  # said in full where it happens
                self._log(event.kind, level=level, **_about_event(event))

    def _report(self, report: Any) -> None:
        self._engine.report(report)

    def _on_error(self, error: BaseException, method: str) -> None:
        self._log("call.failed", level="error", method=method, exc_info=error)

    def _about(self) -> dict[str, Any]:
        config = self._config
        degraded = [*lacking(self._state.limits, self._machine.room()), *trouble(self._state, self._clock.now())]
        if not self._pool.punches_holes:
            degraded.append("the file system of the state folder can't punch holes: long output is cut short instead")
        if (open_folder := exposed(self._settings.socket)) is not None:
            degraded.append(open_folder)
        degraded += [*lacking_files(config), *self._notifier.trouble()]
        return {
            "degraded": degraded,
            "connections": self._server.connections,
            "socket": str(self._settings.socket),
            "state_dir": str(self._settings.state_dir),
            "punches_holes": self._pool.punches_holes,
            "config": {**shown(config, self._state.max_concurrent), **connection_values(config)},
        }

    def _reload(self) -> None:
        """Take over a configuration that was read again; a bad one changes nothing."""
        try:
            config = self._settings.load()
            check_agents(config)
        except ConfigError as error:
            message = f"the configuration was not changed: {error}"
            raise Conflict(message) from error
        self._config = config
        self._state.relimit(config.limits())
        self._collector.settle(len(self._state.jobs))
        self._engine.writer.fact(sizes.forget)
        self._launching.configure(**launch_values(config))
        self._server.configure(**connection_values(config))
        self._upkeep.configure(**retention_values(config))
        self._intake.configure(policies=config.retry, env_secret=config.security.env_secret)
        self._notifier.configure(config.notifications)
        self._schedules.configure()
        self._levels = self._settings.logs(config)
        self._engine.poke()
        self._log("config.reloaded")

    # --- the machine ------------------------------------------------------------------------------

    def _handle_signals(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number, act in ((signal.SIGTERM, self.stop), (signal.SIGINT, self.stop), (signal.SIGHUP, self._hang_up)):
            loop.add_signal_handler(number, act)
            stack.callback(loop.remove_signal_handler, number)

    def _hang_up(self) -> None:
        self._supervisor.reloading(int(self._clock.monotonic() * 1e6))
        try:
            self._reload()
        except OpusError as error:
            self._log("config.refused", level="error", message=error.message)
        self._supervisor.ready()

    async def _give_back(self) -> None:
        """What a crowd took and left; nothing asks for it while it waits, so now and then is enough."""
        while not await self._clock.wait(self._stopping, _GIVE_BACK_SECONDS):
            await asyncio.get_running_loop().run_in_executor(None, memory.give_back)

    async def _watchdog(self, seconds: float) -> None:
        """The loop itself says that it turns; a loop that hangs says nothing."""
        while not await self._clock.wait(self._stopping, seconds / 3):
            self._supervisor.alive()


def _remembered(limits: Limits, snapshot: Snapshot, seen: int) -> State:
    """The registry in memory, with what people and providers said of the queue as a whole."""
    state, kept = State(limits), snapshot.settings
    state.load(snapshot.others, snapshot.alike)
    state.last_job, state.last_event = snapshot.last_job, snapshot.last_event
    state.cooling = cooling.restore(kept)
    state.days = budgets.restore(kept)
    state.pauses = Pauses(kept.get("paused", ()))
    sizes.restore(state, kept)
    state.timeline = timekeeping.restore(kept, seen)
    return state


def _about_event(event: Event) -> dict[str, Any]:
    fields = {"job": event.job, "attempt": event.attempt, "actor": event.actor, "to": event.after}
    if event.job is None and event.detail is not None:  # of the daemon itself: nothing in it is a job's
        fields |= {name: event.detail.get(name) for name in ("reason", "schedule")}
    return {name: value for name, value in fields.items() if value is not None}


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
