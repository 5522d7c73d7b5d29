"""A writer, or an engine, on a real registry whose commits wait, or fail, when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opusd.agents.spec import Launch
from opusd.agents.worktree import Place, Worktrees
from opusd.core import admission, commands, timekeeping
from opusd.core.admission import Facts
from opusd.core.errors import NotFound, StorageUnavailable
from opusd.core.pauses import Pauses
from opusd.core.room import Room
from opusd.core.state import State
from opusd.dispatcher.desk import Desk
from opusd.dispatcher.engine import Engine
from opusd.dispatcher.workdirs import Workdirs
from opusd.dispatcher.writer import Writer
from opusd.store.base import Batch, Detail, Record
from opusd.store.sqlite import SqliteStore
from opusd.testing.clock import FakeClock
from opusd.testing.pool import ScriptedPool
from opusd.testing.shape import shape_of
from opusd.testing.stores import FailingStore
from tests.core.world import PERSON, limits, submission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opusd.agents.follow import Listening
    from opusd.core.decision import Decision
    from opusd.core.job import Change, Event, Job, Outcome, Spec

BOUND = 5.0
BEGUN = {"clock": {"boot": FakeClock().boot(), "offset": FakeClock().offset()}}
"""What an earlier daemon kept of the clock: so the first decision here keeps nothing of it."""


class Paced(FailingStore):
    """`hold()` makes commits wait at the door, one after the other, until they are `let` through."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store)
        self.batches: list[Batch] = []  # those that came to the door
        self.written: list[Batch] = []
        self.arrived = asyncio.Condition()  # told when a batch comes to the door, and when it is on disk
        self._door = asyncio.Semaphore(0)
        self._held = False
        self.linger: Callable[[], int] = lambda: 0  # turns of the loop until the writer hears of its commit
        self.told = asyncio.Event()  # not set: the writer does not hear yet that its commit is on disk
        self.told.set()
        self.unreadable = 0  # so many reads of records fail
        self._readable = asyncio.Event()
        self._readable.set()
        self._find = store.records
        self.records = self._records
        self._find_details = store.details
        self.details = self._details

    def pause_reading(self) -> None:
        """Reads of records wait until `resume_reading`."""
        self._readable.clear()

    def resume_reading(self) -> None:
        self._readable.set()

    async def _records(self, ids: Sequence[int]) -> list[Record]:
        await self._read()
        return await self._find(ids)

    async def _details(self, ids: Sequence[int]) -> dict[int, Detail]:
        await self._read()
        return await self._find_details(ids)

    async def _read(self) -> None:
        await self._readable.wait()
        if self.unreadable:
            self.unreadable -= 1
            raise StorageUnavailable("the registry can't be read: disk I/O error")

    def hold(self) -> None:
        self._held = True

    def let(self, times: int = 1) -> None:
        """Let so many commits through that wait, or will."""
        for _ in range(times):
            self._door.release()

    def open_door(self) -> None:
        self._held = False
        self._door.release()

    async def commit(self, batch: Batch) -> None:
        self.batches.append(batch)
        async with self.arrived:
            self.arrived.notify_all()
        if self._held:
            await self._door.acquire()
        await super().commit(batch)
        self.written.append(batch)
        async with self.arrived:
            self.arrived.notify_all()
        await turns(self.linger())
        await self.told.wait()

    async def wrote(self, count: int) -> None:
        """Until so many commits are on disk since the beginning."""
        async with asyncio.timeout(BOUND), self.arrived:
            await self.arrived.wait_for(lambda: len(self.written) >= count)

    async def came(self, count: int) -> None:
        """Until so many commits have come to the door since the beginning."""
        async with asyncio.timeout(BOUND), self.arrived:
            await self.arrived.wait_for(lambda: len(self.batches) >= count)


def submitting(**fields: Any) -> Callable[[Decision], Job]:
    """What decides on one new job."""

    def decide(decision: Decision) -> Job:
        [(job, _)] = admission.submit(decision, [submission(**fields)], Facts(), PERSON)
        assert not isinstance(job, int)
        return job

    return decide


def cancelling(number: int) -> Callable[[Decision], Job]:
    def decide(decision: Decision) -> Job:
        job = decision.state.jobs.get(number)
        if job is None:
            raise NotFound(f"there is no job {number}")
        return commands.cancel(decision, job, reason=None, grace=10_000_000, cascade=False)

    return decide


def noting(kind: str) -> Callable[[Decision], str]:
    """What writes a row into the audit trail and changes no job; it gives its kind."""

    def decide(decision: Decision) -> str:
        decision.note(kind)
        return kind

    return decide


async def turns(count: int = 1) -> None:
    """So many turns of the loop: what is ready runs."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


async def rebuilt(store: Any, rules: Any) -> State:
    """What a start would make of the registry."""
    snapshot = await store.load_active()
    state = State(rules)
    state.load(snapshot.others, snapshot.alike)
    state.last_job, state.last_event = snapshot.last_job, snapshot.last_event
    state.pauses = Pauses(snapshot.settings.get("paused", ()))
    state.timeline = timekeeping.restore({**BEGUN, **snapshot.settings}, 0)
    return state


class Bench:
    """`say(event)` waits for a record of the log; `released` is what the writer told of, as (kind, cursor)."""

    def __init__(self, store: Paced, **changed: Any) -> None:
        self.store = store
        self.clock = FakeClock()
        self.rules = limits(**changed)
        self.state = State(self.rules)
        self.state.timeline = timekeeping.restore(BEGUN, 0)
        self.events: list[Event] = []
        self.changes: list[Change] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.decided = 0
        self.watchers: list[Callable[[list[Change], list[Event]], None]] = []
        self._logged = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def released(self, changes: list[Change], events: list[Event]) -> None:
        self.changes += changes
        self.events += events
        for watch in self.watchers:
            watch(changes, events)

    def changed(self, decision: Decision | None) -> None:
        self.decided += 1

    def say(self, event: str, **fields: Any) -> None:
        self.log.append((event, fields))
        task = asyncio.get_running_loop().create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._logged:
            self._logged.notify_all()

    async def said(self, event: str, times: int = 1) -> None:
        async with asyncio.timeout(BOUND), self._logged:
            await self._logged.wait_for(lambda: [name for name, _ in self.log].count(event) >= times)

    async def is_as_rebuilt(self) -> None:
        """Memory is what a start would make of the registry."""
        again = await rebuilt(self.store, self.rules)
        assert shape_of(self.state) == shape_of(again)
        assert (self.state.last_job, self.state.last_event) == (again.last_job, again.last_event)

    async def kinds(self) -> list[str]:
        """The audit trail as it is on disk."""
        return [event.kind for event in await self.store.events(0, 1000)]

    async def recovers(self, wait: float) -> None:
        """Let the time pass after which a commit is tried again."""
        async with asyncio.timeout(BOUND):
            await self.clock.until_waiting()
        self.clock.advance(wait)


class WriterBench(Bench):
    def __init__(self, store: Paced, **changed: Any) -> None:
        super().__init__(store, **changed)
        self.writer = Writer(self.state, store, self.clock, released=self.released, changed=self.changed, log=self.say)
        self.running: asyncio.Task[None] | None = None

    def run(self) -> asyncio.Task[None]:
        self.running = asyncio.create_task(self.writer.run())
        return self.running

    def submit(self, **fields: Any) -> asyncio.Future[Job]:
        return self.writer.command(submitting(**fields), PERSON.actor)

    def note(self, kind: str) -> asyncio.Future[str]:
        return self.writer.fact(noting(kind))


class ScriptedWorktrees(Worktrees):
    """Worktrees without git: `made` is what was asked for, and `refusal` may be told to come of it."""

    def __init__(self, root: Path, base: dict[str, str]) -> None:
        super().__init__(root, base)
        self.made: list[tuple[str, str, Place]] = []
        self.planned: list[str] = []
        self.refusal: Exception | None = None

    def plan(self, name: str, cwd: str, title: str) -> Place:
        self.planned.append(name)
        return Place(workdir=str(self.path(name)), branch=f"opus/{name}")

    def make(self, name: str, cwd: str, place: Place) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.made.append((name, cwd, place))


class EngineBench(Bench):
    """An engine with a pool that the test plays; `prepare` may be told to refuse."""

    def __init__(self, store: Paced, **changed: Any) -> None:
        super().__init__(store, **changed)
        self.worktrees = ScriptedWorktrees(Path("/worktrees"), {})
        self.workdirs = Workdirs(self.worktrees, self.state, store)
        self.engine = Engine(
            self.state,
            store,
            self.clock,
            prepare=self._prepare,
            listen=self._listen,
            workdirs=self.workdirs,
            released=self.released,
            log=self.say,
            room=self._look,
        )
        self.room = Room()
        self.looks = 0  # how often the engine asked what room the machine has
        self.desk = Desk(self.engine)
        self.writer = self.engine.writer
        self.pool = ScriptedPool(report=self.engine.report)
        self.refusal: Exception | None = None
        self.prepared: list[tuple[Job, Spec]] = []
        self.listening: Callable[[Job], Listening | None] = lambda _: None
        self.writing: asyncio.Task[None] | None = None
        self.turning: asyncio.Task[None] | None = None

    def _look(self) -> Room:
        self.looks += 1
        return self.room

    def _listen(self, job: Job, outcome: Outcome) -> Listening | None:
        return self.listening(job)

    def _prepare(self, job: Job, spec: Spec, outcome: Outcome, token: str) -> Launch:
        if self.refusal is not None:
            raise self.refusal
        self.prepared.append((job, spec))
        run = job.run
        assert run is not None
        return Launch(
            job=job.id, attempt=run.attempt, attempt_id=run.attempt_id, argv=["true"], env={"T": token}, workdir="/"
        )

    async def begin(self, *, dispatch: bool = True) -> None:
        self.writing = asyncio.create_task(self.writer.run())
        await self.engine.recover(self.pool)
        if dispatch:
            self.dispatch()

    def dispatch(self) -> None:
        """What is submitted before this is read from the registry when it is launched."""
        self.turning = asyncio.create_task(self.engine.run())

    async def stop(self) -> None:
        if self.turning is not None:
            self.turning.cancel()
            with suppress(asyncio.CancelledError):
                await self.turning
        self.store.open_door()
        async with asyncio.timeout(BOUND):
            await self.engine.drained()
        self.engine.close()
        self.writer.close()
        if self.writing is not None:
            async with asyncio.timeout(BOUND):
                await asyncio.wait([self.writing])

    async def submit(self, **fields: Any) -> Job:
        async with asyncio.timeout(BOUND):
            return await self.writer.command(submitting(**fields), PERSON.actor)

    async def launched(self, count: int) -> None:
        await self.pool.until(lambda: len(self.pool.launches) >= count, BOUND)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Until something that is on disk makes this true."""
        event = asyncio.Event()

        def look(changes: list[Change], events: list[Event]) -> None:
            if happened():
                event.set()

        self.watchers.append(look)
        look([], [])
        async with asyncio.timeout(BOUND):
            await event.wait()
            await self.desk.settled()
        self.watchers.remove(look)


@asynccontextmanager
async def paced(folder: Path) -> AsyncIterator[Paced]:
    store = SqliteStore(folder / "opusd.db")
    await store.open()
    try:
        yield Paced(store)
    finally:
        await store.close()
