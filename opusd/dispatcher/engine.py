"""Turns the core's decisions into attempts, and what happens to attempts into facts for the core.

One loop: do what is due now, learn when the next thing is due, sleep exactly that long. Effects (launch, stop)
are acts after the commit of what they follow from. Must not know the wire.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import secrets
import signal
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from opusd.agents.spec import Adopted, Ended, Launch, NeverRan, Report, Started
from opusd.core import attempts, scheduler
from opusd.core.attempts import End
from opusd.core.errors import InternalError, OpusError, StorageUnavailable
from opusd.core.job import Job, Outcome
from opusd.core.retry import FailureClass
from opusd.dispatcher.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from opusd.agents.spec import Exit
    from opusd.clock import Clock
    from opusd.core.decision import Decision
    from opusd.core.job import Change, Event, Spec
    from opusd.core.state import State
    from opusd.store.base import Store

_LONGEST_SLEEP: Final = 30.0
_BREATHER: Final = 1_000_000
_TOKENS: Final = 30_000
_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
"""A spawn that failed for these says nothing of the job: it is put back, and tried again a second later."""


class Pool(Protocol):
    """What the engine asks of the pool; reports come back through `Engine.report`."""

    def start(self, launch: Launch) -> None: ...
    def stop(self, job: int, attempt: int, grace: float) -> None: ...
    def set_deadline(self, job: int, attempt: int, seconds: float | None) -> None: ...
    async def recover(self, running: Sequence[tuple[int, int, str, float | None]]) -> None: ...


class Engine:
    """`prepare(job, spec, token)` makes the Launch of an attempt, or raises OpusError for a class `config` failure.

    `released` is told of all that is on disk; `log(event, **fields)` takes what a person should know.
    """

    def __init__(
        self,
        state: State,
        store: Store,
        clock: Clock,
        *,
        prepare: Callable[[Job, Spec, str], Launch],
        released: Callable[[list[Change], list[Event]], None],
        log: Callable[..., None],
    ) -> None:
        self.state = state
        self.store = store
        self.clock = clock
        self.pool: Pool | None = None
        self.loop_lag = 0.0
        self._prepare = prepare
        self._log = log
        self._due = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens: dict[str, str] = {}
        self._launches: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._stopped: set[tuple[int, int]] = set()
        self._recovered: set[tuple[int, int]] = set()
        self.writer = Writer(state, store, clock, released=released, changed=self._due.set, log=log)

    # --- the loop ---------------------------------------------------------------------------------

    async def recover(self, pool: Pool) -> None:
        """Take up the attempts that the registry calls running: adopt, put back, or learn how they ended."""
        self.pool = pool
        now = self.clock.now()
        running = []
        for job in self.state.running.values():
            run = job.run
            if run is not None and run.worker is None:
                left = None if run.timeout_at is None else max(0.0, (run.timeout_at - now) / 1e6)
                running.append((job.id, run.attempt, run.attempt_id, left))
        await pool.recover(running)

    async def run(self) -> None:
        """Tick whenever something changed or is due; for ever."""
        while True:
            self._due.clear()
            wake_at = self.tick()
            sleep = _LONGEST_SLEEP
            if wake_at is not None:
                sleep = min(sleep, max(0.0, (wake_at - self.clock.now()) / 1e6))
            before = self.clock.monotonic()
            if not await self.clock.wait(self._due, sleep):
                self.loop_lag = max(0.0, self.clock.monotonic() - before - sleep)

    def tick(self) -> int | None:
        """Decide what is due now; when the next thing is due."""
        if self.writer.degraded is not None:
            return None
        plan = scheduler.Plan()

        def decide(decision: Decision) -> None:
            nonlocal plan
            plan = scheduler.tick(decision, self._mint)
            for job in plan.start:
                self._launch_after(decision, job)
            for job in plan.stop:
                self.stop_after(decision, job)

        self.writer.fact(decide)
        return plan.wake_at

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

    # --- starting and stopping --------------------------------------------------------------------

    def _mint(self) -> tuple[str, bytes]:
        attempt_id, token = secrets.token_hex(16), secrets.token_hex(16)
        if len(self._tokens) > _TOKENS:  # of starts that a failing commit took back
            alive = {job.run.attempt_id for job in self.state.running.values() if job.run is not None}
            self._tokens = {known: kept for known, kept in self._tokens.items() if known in alive}
        self._tokens[attempt_id] = token
        return attempt_id, hash_token(token)

    def _launch_after(self, decision: Decision, job: Job) -> None:
        """Once this decision is on disk, launch the attempt of `job`."""

        def act() -> None:
            key = _key(job)
            self._launches[key] = launch = self.spawn(self._launch(job))
            launch.add_done_callback(lambda _: self._launches.pop(key))

        decision.effects.append(act)

    async def launched(self, job: int, attempt: int) -> None:
        """Until the pool knows of an attempt whose start is on disk, or it is known that it never will."""
        launch = self._launches.get((job, attempt))
        if launch is not None:
            await asyncio.wait([launch])

    def stop_after(self, decision: Decision, job: Job) -> None:
        """Once this decision is on disk, end the attempt of `job` as its run says."""
        decision.effects.append(lambda: self._stop(job))

    def _stop(self, job: Job) -> None:
        run = job.run
        if run is None or run.ending is None or run.worker is not None or self.pool is None:
            return
        self._stopped.add((job.id, run.attempt))
        grace = 0.0 if run.kill_at is None else max(0.0, (run.kill_at - self.clock.now()) / 1e6)
        self.pool.stop(job.id, run.attempt, grace)

    def deadline_after(self, decision: Decision, job: Job) -> None:
        """Once this decision is on disk, let the attempt's shim know its new timeout."""

        def act() -> None:
            run = job.run
            if run is not None and run.worker is None and self.pool is not None:
                left = None if run.timeout_at is None else max(0.0, (run.timeout_at - self.clock.now()) / 1e6)
                self.pool.set_deadline(job.id, run.attempt, left)

        decision.effects.append(act)

    async def _launch(self, job: Job) -> None:
        run = job.run
        assert run is not None
        assert self.pool is not None
        token = self._tokens.pop(run.attempt_id)
        unbegun = End(failure=FailureClass.LOST, message="never launched", never_ran=True)
        launch: Launch | None = None
        failed: Exception | None = None
        try:
            launch = self._prepare(job, (await self.store.records([job.id]))[0].spec, token)
        except OpusError as error:
            if not isinstance(error, StorageUnavailable):
                await self._end(job.id, run.attempt, End(failure=FailureClass.CONFIG, message=error.message))
                return
            failed = error
        except Exception as error:  # noqa: BLE001 - the top of a task: the attempt must not stay half begun
            failed = error
        if launch is None:  # that says nothing of the job: it is put back, and tried again a second later
            self._log("launch.failed", level="error", job=job.id, attempt=run.attempt, message=repr(failed))
            self.state.breather = self.clock.now() + _BREATHER
            await self._end(job.id, run.attempt, unbegun)
            return
        current = self.state.jobs.get(job.id)
        if current is None or current.run is None or current.run.ending is not None:
            # Ended before it was launched: nothing runs, and nothing is to be started.
            await self._end(job.id, run.attempt, unbegun)
            return
        self.pool.start(launch)

    # --- what the pool reports --------------------------------------------------------------------

    def report(self, report: Report) -> None:
        """A fact about an attempt, called on the loop."""
        key = (report.job, report.attempt)
        match report:
            case Started():
                self._log("attempt.started", level="debug", job=report.job, attempt=report.attempt, pid=report.shim_pid)
            case Adopted():
                self._log("attempt.adopted", job=report.job, attempt=report.attempt, pid=report.shim_pid)
                job = self.state.jobs.get(report.job)
                if job is not None and key not in self._stopped:
                    self._stop(job)
            case NeverRan():
                self._stopped.discard(key)
                end = End(failure=FailureClass.LOST, message="the attempt never began", never_ran=True)
                self.spawn(self._end(report.job, report.attempt, end))
            case Ended():
                end = ended(report, first=key not in self._stopped and not report.asked)
                if end.never_ran:
                    self.state.breather = self.clock.now() + _BREATHER
                    self._log("machine.full", level="warning", job=report.job, message=report.exit.message)
                self._stopped.discard(key)
                self.spawn(self._end(report.job, report.attempt, end))

    async def _end(self, number: int, attempt: int, end: End) -> None:
        """Commit an attempt's end; what earlier attempts brought is kept unless this one brings its own."""
        job = self.state.jobs.get(number)
        if job is None or job.run is None or job.run.attempt != attempt:
            return
        outcome = Outcome() if attempt == 1 else await self._outcome(number)
        try:
            await self.writer.fact(partial(self._decide_end, number, attempt, end, outcome))
        except InternalError as error:
            # What the attempt brought can't be kept; that it is over must be.
            self._log("result.refused", level="error", job=number, attempt=attempt, message=error.message)
            bare = replace(end, result=None, usage=None, detail={"result_ignored": error.message})
            await self.writer.fact(partial(self._decide_end, number, attempt, bare, outcome))

    def _decide_end(self, number: int, attempt: int, end: End, outcome: Outcome, decision: Decision) -> None:
        current = self.state.jobs.get(number)
        if current is not None:
            attempts.end(decision, current, attempt, end, outcome)

    async def _outcome(self, number: int) -> Outcome:
        """What earlier attempts brought; an end is a fact, so it waits for a registry that can't be read now."""
        never = asyncio.Event()
        while True:
            try:
                return (await self.store.records([number]))[0].outcome
            except OpusError as error:
                self._log("storage.unreadable", level="error", job=number, message=error.message)
                await self.clock.wait(never, 1.0)

    # --- who is asking ----------------------------------------------------------------------------

    def attempt_by_id(self, attempt_id: str) -> tuple[int, int] | None:
        return next(
            (_key(job) for job in self.state.running.values() if job.run and job.run.attempt_id == attempt_id), None
        )

    def attempt_by_token(self, token: str) -> tuple[int, int] | None:
        """The running attempt whose token this is; dead with the attempt's end."""
        hashed = hash_token(token)
        alive = (job for job in self.state.running.values() if job.run is not None)
        return next(
            (_key(job) for job in alive if job.run and secrets.compare_digest(job.run.token_hash, hashed)), None
        )


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _key(job: Job) -> tuple[int, int]:
    assert job.run is not None
    return job.id, job.run.attempt


def ended(report: Ended, *, first: bool) -> End:
    """The core's End of what the pool saw. Exit code 0 is success; `exec` and plain agents say no more."""
    failure, message = _failure(report.exit)
    detail: dict[str, Any] = {}
    data: Any = None
    if report.result is not None:
        data = msgspec.json.decode(report.result)
    if report.result_problem is not None:
        detail["result_ignored"] = report.result_problem
    summary = report.output_tail.strip()
    return End(
        failure=failure,
        message=message,
        exit_code=report.exit.code,
        signal=report.exit.signal,
        result={"summary": summary, "data": data},
        log_bytes=report.log_bytes,
        first=first,
        never_ran=report.exit.kind == "spawn" and report.exit.errno in _NO_ROOM,
        chance=random(),
        detail=detail,
    )


def _failure(how: Exit) -> tuple[FailureClass | None, str | None]:
    match how.kind:
        case "exit" if how.code == 0:
            return None, None
        case "exit":
            return FailureClass.AGENT_ERROR, how.message or f"exited with code {how.code}"
        case "signal":
            name = signal.Signals(how.signal).name if how.signal in set(signal.Signals) else f"signal {how.signal}"
            return FailureClass.AGENT_ERROR, how.message or f"ended by {name}"
        case "spawn":
            return FailureClass.SPAWN, how.message
        case "lost":
            return FailureClass.LOST, how.message
