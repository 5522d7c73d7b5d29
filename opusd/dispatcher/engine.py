"""Turns the core's decisions into attempts, and what happens to attempts into facts for the core.

One loop: do what is due now, learn when the next thing is due, sleep exactly that long. Effects (launch, stop)
are acts after the commit of what they follow from. Must not know the wire.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from opusd.agents.adapters.text import Text
from opusd.agents.follow import Follower, Listening
from opusd.agents.spec import Adopted, Ended, Launch, NeverRan, Report, Started, Unknown
from opusd.core import attempts, breather, scheduler
from opusd.core.attempts import End
from opusd.core.job import Job, Outcome
from opusd.core.retry import FailureClass
from opusd.core.room import Room
from opusd.dispatcher.endings import Endings, ended
from opusd.dispatcher.liveness import Liveness
from opusd.dispatcher.starts import Starts, in_words
from opusd.dispatcher.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from opusd.agents.adapters.base import Observation
    from opusd.agents.attempt import Key
    from opusd.agents.spec import Chunk
    from opusd.clock import Clock
    from opusd.core.decision import Decision
    from opusd.core.job import Change, Event, Spec
    from opusd.core.state import State
    from opusd.dispatcher.workdirs import Workdirs
    from opusd.store.base import Store

_LONGEST_SLEEP: Final = 30.0
_LOOK_EVERY: Final = 1.0


class Pool(Protocol):
    """What the engine asks of the pool; reports come back through `Engine.report`."""

    def start(self, launch: Launch) -> None: ...
    def stop(self, job: int, attempt: int, grace: float) -> None: ...
    def set_deadline(self, job: int, attempt: int, seconds: float | None) -> None: ...
    def running(self) -> list[Key]: ...
    async def read_output(self, job: int, attempt: int, offset: int, limit: int, wait_s: float) -> Chunk: ...
    async def recover(self, running: Sequence[tuple[int, int, str, float | None]]) -> None: ...


class Engine:
    """`prepare(job, spec, outcome, token)` makes an attempt's Launch, or raises OpusError for a class `config` failure.

    `workdirs` has its folder ready before that. `listen(job, outcome)` says how its output is understood; None: its
    exit says all. `released` is told of all that is on disk; `log(event, **fields)` takes what a person should know.
    `hearing` is told what attempts say of themselves while they run. `room()` reads what room the machine has.
    """

    def __init__(  # noqa: PLR0913 - each is a neighbour that it asks or tells
        self,
        state: State,
        store: Store,
        clock: Clock,
        *,
        prepare: Callable[[Job, Spec, Outcome, str], Launch],
        listen: Callable[[Job, Outcome], Listening | None],
        workdirs: Workdirs,
        released: Callable[[list[Change], list[Event]], None],
        log: Callable[..., None],
        room: Callable[[], Room] = Room,
    ) -> None:
        self.state = state
        self.store = store
        self.clock = clock
        self.pool: Pool | None = None
        self.loop_lag = 0.0
        self.liveness = Liveness(state)
        self.hearing: Callable[[Key, list[Observation]], None] = _unheard
        self._room = room
        self._room_read = -math.inf
        self.serve: Callable[[Decision], None] = _nobody_waits
        self._listen = listen
        self._log = log
        self._due = asyncio.Event()
        self._sleeps_until: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: set[tuple[int, int]] = set()
        self._recovered: set[tuple[int, int]] = set()
        self._follower: Follower | None = None
        self._closed = False
        self._tell = released
        self.writer = Writer(state, store, clock, released=self._released, changed=self._changed, log=log)
        self._endings = Endings(state, store, clock, self.writer, log)
        self._starts = Starts(
            state,
            store,
            clock,
            self.writer,
            endings=self._endings,
            workdirs=workdirs,
            prepare=prepare,
            listen=listen,
            begin=self._begin,
            spawn=self.spawn,
            log=log,
        )

    # --- the loop ---------------------------------------------------------------------------------

    async def recover(self, pool: Pool) -> None:
        """Take up the attempts that the registry calls running: adopt, put back, or learn how they ended."""
        self.pool = pool
        self._follower = Follower(pool.read_output, self._heard, self._log)
        self.writer.fact(lambda _: None)  # the clock may have jumped while nobody looked
        running = []
        for job in self.state.running.values():
            run = job.run
            if run is not None and run.worker is None:
                running.append((job.id, run.attempt, run.attempt_id, self._left(self._reached(run.timeout_at))))
            elif run is not None and run.lease_until is None:
                self._lapsed(job)
        await pool.recover(running)

    async def run(self) -> None:
        """Tick whenever something changed or is due; for ever."""
        while True:
            self._due.clear()
            self._sleeps_until = None
            wake_at = self.tick()
            sleep = _LONGEST_SLEEP
            if wake_at is not None:
                sleep = min(sleep, max(0.0, (wake_at - self.clock.now()) / 1e6))
            if not sleep or self._due.is_set():
                await asyncio.sleep(0)  # noqa: TID251 - there is more to decide: everything else has its turn first
            before = self.clock.monotonic()
            self._sleeps_until = self.clock.now() + int(sleep * 1e6)
            if not await self.clock.wait(self._due, sleep):
                self.loop_lag = max(0.0, self.clock.monotonic() - before - sleep)

    def _changed(self, decision: Decision | None) -> None:
        if decision is None or scheduler.stirs(decision, self._sleeps_until):
            self._due.set()

    def tick(self) -> int | None:
        """Decide what is due now; when the next thing is due."""
        if self.writer.degraded is not None:
            return None
        plan = scheduler.Plan()
        self._look_round()
        stalled, left = self.liveness.look(self.clock.monotonic())

        def decide(decision: Decision) -> None:
            nonlocal plan
            for job in stalled:
                self._stall(decision, job)
            plan = scheduler.tick(decision, self._starts.mint)
            for job in plan.start:
                self._launch_after(decision, job)
            for job in plan.stop:
                self.stop_after(decision, job)
            decision.effects += [partial(self._lapsed, job) for job in plan.lapsed]
            self.serve(decision)

        self.writer.fact(decide)
        moments = [plan.wake_at, None if left is None else self.clock.now() + math.ceil(left * 1e6)]
        return min((at for at in moments if at is not None), default=None)

    def _look_round(self) -> None:
        """What room the machine has, while jobs wait and at most once a second: a tick follows every change."""
        now = self.clock.monotonic()
        if self.state.queued() and now >= self._room_read + _LOOK_EVERY:
            self._room_read = now
            self.state.room = self._room()

    def _lapsed(self, job: Job) -> None:
        """A worker's lease is over, and that is on disk: so is its attempt, whatever it may still do."""
        run = job.run
        assert run is not None
        lost = End(failure=FailureClass.LOST, message=f"the lease of worker {run.worker} ended", first=False)
        self.spawn(self.end(job.id, run.attempt, lost))

    def _stall(self, decision: Decision, job: Job) -> None:
        """End a silent attempt, unless something became of it since it was looked at."""
        current = self.state.jobs.get(job.id)
        if current is not None and current.run == job.run:
            self.stop_after(decision, attempts.stall(decision, current, self.state.limits.grace))

    async def end(self, job: int, attempt: int, end: End) -> None:
        """Decide and commit the end of an attempt that nobody reports."""
        await self._endings.commit(job, attempt, end)

    def poke(self) -> None:
        """Something outside the jobs changed that dispatch depends on: tick again."""
        self._due.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is awaited by `drained`; its failure is logged, for nobody waits for its result."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def drained(self) -> None:
        """Until no launch or report is half done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log("task.failed", level="error", message=repr(error))

    def _released(self, changes: list[Change], events: list[Event]) -> None:
        self._starts.released(changes)
        self._tell(changes, events)

    # --- starting and stopping --------------------------------------------------------------------

    def _launch_after(self, decision: Decision, job: Job) -> None:
        """Once this decision is on disk, launch the attempt of `job`."""
        decision.effects.append(partial(self._starts.enter, job))

    async def launched(self, job: int, attempt: int) -> None:
        """Until the pool knows of an attempt whose start is on disk, or it is known that it never will."""
        await self._starts.launched((job, attempt))

    def stop_after(self, decision: Decision, job: Job) -> None:
        """Once this decision is on disk, end the attempt of `job` as its run says."""
        decision.effects.append(partial(self._stop, job, self._reached(None if job.run is None else job.run.kill_at)))

    def _stop(self, job: Job, kill: float | None) -> None:
        """Kill what is left at `kill` of the monotonic clock; None: at once."""
        run = job.run
        if run is None or run.ending is None or run.worker is not None or self.pool is None:
            return
        current = self.state.jobs.get(job.id)
        if current is None or current.run is None or current.run.attempt != run.attempt:
            return  # it is over: its end was decided before this was on disk
        if _key(job) in self._starts:
            return
        self._stopped.add((job.id, run.attempt))
        self.pool.stop(job.id, run.attempt, self._left(kill) or 0.0)

    def deadline_after(self, decision: Decision, job: Job) -> None:
        """Once this decision is on disk, let the attempt's shim know its new timeout."""
        deadline = self._reached(None if job.run is None else job.run.timeout_at)

        def act() -> None:
            run = job.run
            if run is None or run.worker is not None or self.pool is None:
                return
            if _key(job) in self._starts:
                self._starts.renew(job)
            else:
                self.pool.set_deadline(job.id, run.attempt, self._left(deadline))

        decision.effects.append(act)

    def _reached(self, moment: int | None) -> float | None:
        """When the monotonic clock reaches a moment of memory, in seconds: no jump from now on changes that."""
        return None if moment is None else (moment - self.state.timeline.offset) / 1e6

    def _left(self, reached: float | None) -> float | None:
        return None if reached is None else max(0.0, reached - self.clock.monotonic())

    def _begin(self, launch: Launch, listening: Listening | None) -> None:
        """Raises when nothing of the attempt was begun, and nothing will be reported of it."""
        assert self.pool is not None
        key = (launch.job, launch.attempt)
        try:
            self.pool.start(launch)
            self._follow(key, listening)
        except Exception as error:
            if key not in self.pool.running():
                raise
            self._log("task.failed", level="error", job=key[0], attempt=key[1], message=in_words(error))

    # --- what the pool reports --------------------------------------------------------------------

    def report(self, report: Report) -> None:
        """A fact about an attempt, called on the loop; once the engine is closed it is for the next start to find."""
        if self._closed:
            return
        key = (report.job, report.attempt)
        match report:
            case Started():
                self._log("attempt.started", level="debug", job=report.job, attempt=report.attempt, pid=report.shim_pid)
            case Adopted():
                self._log("attempt.adopted", job=report.job, attempt=report.attempt, pid=report.shim_pid)
                job = self.state.jobs.get(report.job)
                if job is not None:
                    self.spawn(self._follow_adopted(job))
                    if key not in self._stopped:
                        self._stop(job, self._reached(None if job.run is None else job.run.kill_at))
            case Unknown():
                self._log(
                    "attempt.unknown", level="warning", job=report.job, attempt=report.attempt, message=report.message
                )
            case NeverRan():
                self._stopped.discard(key)
                if self._follower is not None:
                    self._follower.forget(key)
                if report.why:
                    self._cannot_launch(report.job, report.why)
                end = End(failure=FailureClass.LOST, message="the attempt never began", never_ran=True)
                self.spawn(self._endings.commit(report.job, report.attempt, end))
            case Ended():
                first = key not in self._stopped and not report.asked
                self._stopped.discard(key)
                self.spawn(self._over(report, first=first))

    async def _over(self, report: Ended, *, first: bool) -> None:
        """An attempt's processes are gone: hear the rest of what it said, judge, and commit its end."""
        key = (report.job, report.attempt)
        self.liveness.forget(key)
        job = self.state.jobs.get(report.job)
        if job is None or not self._endings.under_way(*key) or self._follower is None:
            return
        listening = await self._listening(job)
        now, tail = self.clock.now(), report.output_tail
        if listening is None:
            verdict = Text().end(report.exit, now, tail)
        else:
            verdict = await self._follower.verdict(key, listening, report.exit, now, tail)
        end = ended(report, verdict, first=first)
        if end.never_ran:
            self._cannot_launch(report.job, report.exit.message)
        elif report.exit.kind != "spawn" and job.run is not None:
            breather.ran(self.state, job.run.started_at)
        await self._endings.commit(*key, end)

    def _cannot_launch(self, job: int, why: str) -> None:
        breather.take(self.state, self.clock.now(), why)
        self._log("machine.full", level="warning", job=job, message=why)

    # --- what attempts say ------------------------------------------------------------------------

    def _follow(self, key: Key, listening: Listening | None) -> None:
        self.liveness.heard(key, self.clock.monotonic())
        if self.liveness.counts(key):  # silence, from here
            self._due.set()
        if listening is not None and self._follower is not None:
            self._follower.follow(key, listening)

    async def _follow_adopted(self, job: Job) -> None:
        listening = await self._listening(job)
        if self._endings.under_way(*_key(job)):
            self._follow(_key(job), listening)

    async def _listening(self, job: Job) -> Listening | None:
        """How this attempt is listened to; what was used before in its session is asked for where it matters."""
        outcome = Outcome()
        listening = self._listen(job, outcome)
        if listening is None or job.run is None or job.run.attempt == 1:
            return listening
        return self._listen(job, (await self._endings.record(job.id)).outcome)

    def _heard(self, key: Key, seen: list[Observation], active: bool) -> None:
        if active:
            self.liveness.heard(key, self.clock.monotonic())
        if seen and self._endings.under_way(*key):
            self.hearing(key, seen)

    def close(self) -> None:
        """Listen to nobody any more: the registry closes next, and the pool after it."""
        self._closed = True
        if self._follower is not None:
            self._follower.close()


def _unheard(key: Key, seen: list[Observation]) -> None:
    """Until somebody wants to know."""


def _nobody_waits(decision: Decision) -> None:
    """Until there are workers that wait for jobs."""


def _key(job: Job) -> tuple[int, int]:
    assert job.run is not None
    return job.id, job.run.attempt
