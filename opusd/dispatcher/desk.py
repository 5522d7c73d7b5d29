"""What every verb needs: finding the job that an id or key names, deciding on it, and showing it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from opusd.api import results
from opusd.core.errors import Conflict, Escalated, InternalError, InvalidParams, NotFound, OpusError, StorageUnavailable
from opusd.core.lifecycle import FINAL
from opusd.dispatcher.views import Live, Snapshot, snapshot, view
from opusd.dispatcher.writer import Undone
from opusd.store.base import Detail, Query, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from opusd.api import types as wire
    from opusd.core.access import Caller
    from opusd.core.decision import Decision
    from opusd.core.job import Change, Job
    from opusd.dispatcher.engine import Engine

T = TypeVar("T")
Ref = int | str
_MOST_BYTES: Final = 3 << 20
_SHOWN_IN_FULL: Final = 100
_AGAIN: Final = 1.0
"""Seconds until a registry that can't be read is asked once more."""


class Session(Protocol):
    """One connection: who it is, the lock that keeps its calls taking effect in the order sent, whether it is gone."""

    caller: Caller
    turn: asyncio.Lock
    gone: bool


class Desk:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.state = engine.state
        self.store = engine.store
        self.writer = engine.writer
        self.clock = engine.clock
        self.live: dict[int, Live] = {}  # of running attempts; not kept

    def released(self, changes: Iterable[Change]) -> None:
        """These changes are on disk: what an attempt said of itself while it ran goes with it."""
        if not self.live:
            return
        for change in changes:
            if change.after.run is None:
                self.live.pop(change.after.id, None)

    def now(self) -> int:
        return self.clock.now()

    async def settled(self) -> None:
        """Until disk is no older than memory is now."""
        while True:
            try:
                await self.writer.settled()
            except Undone:
                continue
            return

    async def eventually(self, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` reads of the registry to answer a call that is done: as soon as it can be read.

        StorageUnavailable would say that nothing was changed.
        """
        while True:
            try:
                return await look()
            except StorageUnavailable:
                await self.unreadable()

    async def unreadable(self) -> None:
        """The registry could not be read: until it is worth asking again."""
        await self.clock.wait(asyncio.Event(), _AGAIN)

    def in_memory(self, ref: Ref) -> int | None:
        number = self.state.keys.get(ref) if isinstance(ref, str) else ref
        return number if number in self.state.jobs else None

    async def find(self, ref: Ref, *, path: str = "$.id") -> int:
        """The id of the job, unfinished or finished; NotFound."""
        number = self.in_memory(ref)
        return number if number is not None else (await self._on_disk(ref, path)).job.id

    async def final(self, number: int) -> Record | None:
        """The record of a job that is finished; None while it is in memory."""
        if number in self.state.jobs:
            return None
        return await self._on_disk(number, "$.id")

    async def _on_disk(self, ref: Ref, path: str) -> Record:
        await self.settled()
        if isinstance(ref, str):
            found = (await self.store.by_key([ref])).get(ref)
            numbers = [] if found is None else [found[0]]
        else:
            numbers = [ref] if 0 < ref < 1 << 40 else []
        records = await self.store.records(numbers) if numbers else []
        if not records:
            what = f"job {ref}" if isinstance(ref, int) else f"job with the key {ref!r}"
            message = f"there is no {what}"
            raise NotFound(message, path=path)
        return records[0]

    async def current(self, ref: Ref) -> Job:
        """The job as memory has it, else the finished one of the registry."""
        number = self.in_memory(ref)
        while number is None:
            record = await self._on_disk(ref, "$.id")
            if record.job.final:
                return self.state.jobs.get(record.job.id, record.job)
            number = self.in_memory(ref)  # unless it has ended since the read
        return self.state.jobs[number]

    def unchanged(self, record: Record) -> Job | None:
        """The job of a record that was read before, unless it has moved on since: then what was read may be old."""
        job = self.state.jobs.get(record.job.id)
        if job is None:
            return record.job if record.job.final else None
        return job if job.version == record.job.version else None

    async def change(self, session: Session, ref: Ref, verb: Callable[[Decision, Job], Job]) -> wire.Job:
        """Decide `verb` on one job and show the job as it is then."""
        async with session.turn:
            job = await self.current(ref)
            async with self._naming_the_last():
                future = self.writer.command(partial(self.decided, job=job, verb=verb), session.caller.actor)
        seen = await self.kept(future, job)
        return await self.eventually(partial(self.show, seen))

    async def kept(self, future: asyncio.Future[T], *jobs: Job) -> T:
        """What was decided on these jobs, when it is on disk; Conflict when one that had ended moved on before that."""
        try:
            return await future
        except InternalError as error:
            ended = next((job.id for job in jobs if job.final), None)
            if ended is None:
                raise
            raise _moved_on(ended, error) from error

    async def last_link(self, number: int) -> int:
        """The job that carries on for this one, over any number of escalations; or itself."""
        while number not in self.state.jobs:
            job = (await self._on_disk(number, "$.id")).job
            if job.extra is None or job.extra.escalated_to is None:
                break
            number = job.extra.escalated_to
        return number

    async def decide_many(
        self, session: Session, jobs: Sequence[Job], verb: Callable[[Decision, Job], Job]
    ) -> asyncio.Future[list[Snapshot]]:
        """Decide `verb` on each of these jobs, all or none, now; what was decided comes when it is on disk."""
        async with self._naming_the_last():
            return self.writer.command(
                lambda decision: [self.decided(decision, job, verb) for job in jobs], session.caller.actor
            )

    @asynccontextmanager
    async def _naming_the_last(self) -> AsyncIterator[None]:
        """Whoever names a link of a chain that has gone on is told which job is the last."""
        try:
            yield
        except Escalated as refused:
            raise Escalated(refused.job, await self.last_link(refused.link)) from None

    def decided(self, decision: Decision, job: Job, verb: Callable[[Decision, Job], Job]) -> Snapshot:
        """`job` may be out of date: what memory or this decision has of it goes first.

        NotFound when it was never kept: it was seen on its way to disk, and the registry refused it.
        """
        latest = decision.latest(job)
        if not latest.final and latest.id not in decision.state.jobs:
            raise NotFound(f"there is no job {job.id}: the registry refused it", path="$.id")
        after = verb(decision, latest)
        return snapshot(self.state, after, decision.now)

    async def show(self, seen: Snapshot) -> wire.Job:
        """The wire's Job of what was decided, now that it is on disk."""
        return (await self.show_all([seen]))[0]

    async def show_all(self, seen: Sequence[Snapshot], *, full: bool = True) -> list[wire.Job]:
        details = await self.store.details([one.job.id for one in seen])
        shown = []
        for one in seen:
            detail = details.get(one.job.id)
            if detail is not None:
                shown.append(self.view(one, detail, full=full))
        return shown

    def view(self, seen: Snapshot, record: Record | Detail, *, full: bool) -> wire.Job:
        """What memory saw and the registry read, as one Job."""
        number = seen.job.id
        return view(
            seen,
            record.spec,
            record.outcome,
            full=full,
            live=self.live.get(number),
            dependents=record.dependents,
        )

    async def show_many(self, seen: Sequence[Snapshot]) -> results.Jobs:
        """With everything where one reply holds it, else without what is long, and at last not all of them."""
        shown = await self.show_all(seen, full=True) if len(seen) <= _SHOWN_IN_FULL else []
        if len(that_fit(shown)) == len(seen):
            return results.Jobs(jobs=shown)
        short = await self.show_all(seen, full=False)
        held = that_fit(short)
        return results.Jobs(jobs=held, omitted=len(short) - len(held))

    async def look(self, number: int) -> Snapshot:
        """A job as memory has it, given out when that is on disk; else as the registry has it."""
        while True:
            seen = await self.writer.read(lambda: self._seen(number))
            if seen is not None:
                return seen
            record = await self._on_disk(number, "$.id")
            if record.job.status in FINAL:
                return Snapshot(job=record.job)

    def _seen(self, number: int) -> Snapshot | None:
        job = self.state.jobs.get(number)
        return None if job is None else snapshot(self.state, job, self.clock.now())

    def require_agent(self, agent: str | None) -> None:
        """NotFound for a name that no agent has; None names none."""
        agents = self.state.limits.agents
        if agent is not None and agent not in agents:
            message = f"agent {agent!r} is not configured; there are: {', '.join(sorted(agents))}"
            raise NotFound(message, path="$.agent")

    async def of_group(self, group: str) -> list[Job]:
        """The unfinished jobs of a group, none when all have ended; NotFound when it never had one."""
        if not self.state.groups.get(group):
            await self.settled()
            if not await self.store.query(Query(group=group, limit=1)):
                raise no_group(group)
        return [self.state.jobs[number] for number in sorted(self.state.groups.get(group, ()))]


def no_group(group: str) -> NotFound:
    return NotFound(f"no job belongs to the group {group!r}", path="$.group")


def _moved_on(number: int, error: InternalError) -> OpusError:
    """A finished job that somebody else changed between our look at the registry and the commit."""
    message = f"job {number} was changed by somebody else at this moment: look again ({error.message})"
    return Conflict(message, job=number)


def that_fit(jobs: list[wire.Job]) -> list[wire.Job]:
    """As many of the first ones as one reply of at most 4 MiB holds, at least one."""
    size = 0
    for count, job in enumerate(jobs):
        size += len(msgspec.json.encode(job))
        if size > _MOST_BYTES and count:
            return jobs[:count]
    return jobs


def one_of(**given: object) -> str:
    """The name of the only one that is given; InvalidParams otherwise."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        message = f"give exactly one of {', '.join(given)}"
        raise InvalidParams(message, path=f"$.{next(iter(given))}")
    return names[0]


def as_tuple(value: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """A filter that takes one or a list."""
    return None if value is None else (value,) if isinstance(value, str) else tuple(value)
