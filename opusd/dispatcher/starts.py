"""The line of attempts whose start is on disk: one is launched in each turn of the loop, in the order of their picking.

A launch costs the loop up to a millisecond: of a crowd that becomes ready at once, nobody else waits for more than one.
Whoever is to end before its turn, or is still in line when the daemon shuts down, is not launched and is put back.
A worktree that is being made holds up nobody: its attempt stands in line again when it is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from random import random
from typing import TYPE_CHECKING, Final

from opusd.agents.worktree import WorktreeError
from opusd.core import breather
from opusd.core.attempts import End
from opusd.core.errors import OpusError, StorageUnavailable
from opusd.core.job import Outcome
from opusd.core.retry import FailureClass
from opusd.dispatcher.endings import NO_ROOM
from opusd.dispatcher.tokens import mint
from opusd.store.base import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from opusd.agents.attempt import Key
    from opusd.agents.follow import Listening
    from opusd.agents.spec import Launch
    from opusd.clock import Clock
    from opusd.core.decision import Decision
    from opusd.core.job import Change, Job, Run, Spec
    from opusd.core.state import State
    from opusd.dispatcher.endings import Endings
    from opusd.dispatcher.workdirs import Workdirs
    from opusd.dispatcher.writer import Writer
    from opusd.store.base import Store

_TOKENS: Final = 30_000
_BORN: Final = 1_000


class Start:
    """One attempt in line; `outcome` is there once its folder is."""

    __slots__ = ("job", "outcome", "over", "record")

    def __init__(self, job: Job, record: Record | None, over: asyncio.Future[None]) -> None:
        self.job = job
        self.record = record
        self.over = over
        self.outcome: Outcome | None = None


class Starts:
    """`begin(launch, listening)` hands an attempt to the pool. `prepare`, `listen` and `workdirs` are the engine's.

    `spawn` makes a task that the engine's shutdown waits for.
    """

    def __init__(  # noqa: PLR0913 - each is a neighbour that it asks or tells
        self,
        state: State,
        store: Store,
        clock: Clock,
        writer: Writer,
        *,
        endings: Endings,
        workdirs: Workdirs,
        prepare: Callable[[Job, Spec, Outcome, str], Launch],
        listen: Callable[[Job, Outcome], Listening | None],
        begin: Callable[[Launch, Listening | None], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        log: Callable[..., None],
    ) -> None:
        self._state = state
        self._store = store
        self._clock = clock
        self._writer = writer
        self._endings = endings
        self._workdirs = workdirs
        self._prepare = prepare
        self._listen = listen
        self._begin = begin
        self._spawn = spawn
        self._log = log
        self._tokens: dict[str, str] = {}
        self._line: deque[Start] = deque()
        self._known: dict[Key, Start] = {}
        self._born: dict[int, Record] = {}
        self._moves = False

    def mint(self) -> tuple[str, bytes]:
        """(OPUS_ATTEMPT_ID, hash of the token) for an attempt that is about to be decided."""
        attempt_id, token, hashed = mint()
        if len(self._tokens) > _TOKENS:  # of starts that a failing commit took back
            alive = {job.run.attempt_id for job in self._state.running.values() if job.run is not None}
            self._tokens = {known: kept for known, kept in self._tokens.items() if known in alive}
        self._tokens[attempt_id] = token
        return attempt_id, hashed

    def released(self, changes: list[Change]) -> None:
        """These are on disk: a job that was picked before its submission was need not be read from there."""
        pushed, born = self._state.pushed, self._born
        if not pushed and not born:
            return
        for change in changes:
            number, spec = change.after.id, change.spec
            if change.before is None:
                if spec is not None and number in pushed:
                    born[number] = Record(job=change.after, spec=spec, outcome=change.outcome or Outcome())
            elif number in born and (change.after.run is None or spec is not None or change.outcome is not None):
                del born[number]
        if len(born) > _BORN:  # of starts that a failing commit took back
            born.clear()

    def enter(self, job: Job) -> None:
        """The start of the job's attempt is on disk."""
        start = Start(job, self._born.pop(job.id, None), asyncio.get_running_loop().create_future())
        self._known[_key(job)] = start
        self._stand(start)

    def renew(self, job: Job) -> None:
        """What became of a job in line is on disk, and is what is launched: until then it may still be undone."""
        self._known[_key(job)].job = job

    def __contains__(self, key: Key) -> bool:
        """Whether an attempt is yet to be launched: that it is to end is seen when its turn comes."""
        return key in self._known

    async def launched(self, key: Key) -> None:
        """Until the pool knows of an attempt whose start is on disk, or it is known that it never will."""
        start = self._known.get(key)
        if start is not None:
            await asyncio.wait([start.over])

    def _stand(self, start: Start) -> None:
        self._line.append(start)
        if not self._moves:
            self._moves = True
            self._spawn(self._move())

    async def _move(self) -> None:
        """Until nobody is in line: the first is launched, and everything else has its turn."""
        try:
            while self._line:
                if self._line[0].record is None:
                    await self._read()
                    continue
                self._next()
                if self._line:
                    await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, and no time
        finally:
            self._moves = False

    async def _read(self) -> None:
        """What all those in line are to do of whom that is not known yet; who can't be read leaves the line."""
        unread = [start for start in self._line if start.record is None]
        found: dict[int, Record] = {}
        failure: Exception = LookupError("the registry does not know the job")
        try:
            found = {record.job.id: record for record in await self._store.records([one.job.id for one in unread])}
        except Exception as error:  # noqa: BLE001 - whatever it is, no attempt may stay half begun
            failure = error
        for start in unread:
            start.record = found.get(start.job.id)
            if start.record is None:
                self._line.remove(start)
                self._spawn(self._postpone(start, failure))

    def _next(self) -> None:
        start = self._line.popleft()
        try:
            self._go(start)
        except Exception as error:  # noqa: BLE001 - a fault of ours: those behind it are launched all the same
            self._log("task.failed", level="error", message=in_words(error))
            self._leave(start)

    def _go(self, start: Start) -> None:
        """The first in line: launched, or sent for its worktree, or found not to be launched at all."""
        run, record, current = start.job.run, start.record, self._state.jobs.get(start.job.id)
        assert run is not None
        assert record is not None
        if self._state.draining or current is None or not _goes_on(current.run, run):
            self._spawn(self._end(start, _unbegun()))  # nothing runs, and nothing is to be started
            return
        if start.outcome is None:
            if record.spec.worktree:
                self._spawn(self._make(start, record))
                return
            start.outcome = record.outcome
        try:
            launch = self._prepare(start.job, record.spec, start.outcome, self._tokens[run.attempt_id])
            listening = self._listen(start.job, start.outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is, no attempt may stay half begun
            self._spawn(self._refuse(start, error))
            return
        try:
            self._begin(launch, listening)
        except Exception as error:  # noqa: BLE001 - a fault of ours: nothing of it runs, and nobody else would end it
            self._spawn(self._break(start, error))
            return
        self._leave(start)

    async def _make(self, start: Start, record: Record) -> None:
        """See to the attempt's worktree; then it stands in line for the second time."""
        try:
            start.outcome = await self._workdirs.ready(start.job, record, partial(self._keep, start.job))
        except Exception as error:  # noqa: BLE001 - whatever it is, no attempt may stay half begun
            await self._refuse(start, error)
        else:
            self._stand(start)

    async def _keep(self, job: Job, outcome: Outcome) -> None:
        """Write down where an attempt is to work, before that place is made."""

        def decide(decision: Decision) -> None:
            current = self._state.jobs.get(job.id)
            if current is not None:
                detail = {"workdir": outcome.workdir, "branch": outcome.branch}
                decision.put(current, current, "updated", outcome=outcome, detail=detail)

        await self._writer.fact(decide)

    async def _refuse(self, start: Start, error: Exception) -> None:
        """There can be no such launch: for what the job asks, or for something that says nothing of it."""
        if isinstance(error, WorktreeError) and error.failure is not None:
            await self._end(start, End(failure=error.failure, message=str(error), chance=random()))
        elif isinstance(error, OpusError) and not isinstance(error, StorageUnavailable):
            await self._end(start, End(failure=FailureClass.CONFIG, message=error.message))
        elif _is_nobodys(error):
            await self._postpone(start, error)
        else:
            await self._break(start, error)

    async def _break(self, start: Start, error: Exception) -> None:
        """It may be this job's alone, for which the others are not to wait: an attempt that can't be started."""
        self._fail(start, error)
        message = f"cannot start: {in_words(error)}"
        await self._end(start, End(failure=FailureClass.SPAWN, message=message, chance=random()))

    async def _postpone(self, start: Start, error: Exception) -> None:
        """What failed says nothing of the job: it is put back, and tried again after a pause."""
        self._fail(start, error)
        breather.take(self._state, self._clock.now(), in_words(error))
        await self._end(start, _unbegun())

    def _fail(self, start: Start, error: Exception) -> None:
        job, attempt = _key(start.job)
        self._log("launch.failed", level="error", job=job, attempt=attempt, message=in_words(error))

    async def _end(self, start: Start, end: End) -> None:
        try:
            await self._endings.commit(*_key(start.job), end)
        finally:
            self._leave(start)

    def _leave(self, start: Start) -> None:
        assert start.job.run is not None
        del self._known[_key(start.job)]
        self._tokens.pop(start.job.run.attempt_id, None)
        start.over.set_result(None)


def _is_nobodys(error: Exception) -> bool:
    """Whether it says nothing of the job: a registry, git, a machine without room. What is left can be its own."""
    return isinstance(error, StorageUnavailable | WorktreeError | MemoryError) or (
        isinstance(error, OSError) and error.errno in NO_ROOM
    )


def in_words(error: Exception) -> str:
    """What went wrong. Not its repr: of a text that can't be encoded it has all, and prompts are not logged."""
    return f"{type(error).__name__}: {error}"


def _goes_on(current: Run | None, run: Run) -> bool:
    return current is not None and current.attempt == run.attempt and current.ending is None


def _unbegun() -> End:
    return End(failure=FailureClass.LOST, message="never launched", never_ran=True)


def _key(job: Job) -> Key:
    assert job.run is not None
    return job.id, job.run.attempt
