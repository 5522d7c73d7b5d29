"""Group commit: decisions are applied to memory at once, written in groups, and answered when they are on disk.

One batch is in flight, at most one is open. Replies, events and effects leave in the order of decision, and
only when all that they were computed from is on disk; so a reader waits for a mark in the same line. When a
commit fails everything not on disk is undone: commands and reads learn it, facts are decided again later.
Must not know what is decided.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from opusd.core import timekeeping
from opusd.core.decision import Decision
from opusd.core.errors import InternalError, OpusError, ShuttingDown, StorageUnavailable
from opusd.dispatcher.gather import Gather
from opusd.store.base import Batch, CommitFailed, CommitRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opusd.clock import Clock
    from opusd.core.job import Change, Event
    from opusd.core.state import State
    from opusd.store.base import Store

T = TypeVar("T")
MAX_ROWS: Final = 4000
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 5.0


class Entry(Generic[T]):
    """One decision on its way to disk. `future` gives what the decision returned, once that is on disk."""

    __slots__ = ("actor", "decide", "decision", "fact", "future", "rows", "value")

    def __init__(self, decide: Callable[[Decision], T], actor: str, *, fact: bool, future: asyncio.Future[T]) -> None:
        self.decide = decide
        self.actor = actor
        self.fact = fact
        self.future = future
        self.decision: Decision | None = None
        self.rows = 0
        self.value: T | None = None

    @property
    def asks(self) -> bool:
        """Whether somebody waits for something to be written."""
        return self.rows > 0 and not self.fact

    def decided(self, decision: Decision) -> None:
        self.decision = decision
        self.rows = len(decision.changes) + len(decision.events) + len(decision.pruned)


class Undone(Exception):
    """What a read was computed from did not reach the disk: read again."""


class Writer:
    """`released(changes, events)` is told of everything that is on disk, in order; `changed(decision)` of every
    decision, and of many at once with None.

    `log(event, **fields)` takes what a person should know of commits. `follow` adds to each decision what follows
    from it at once, in the same transaction.
    """

    def __init__(
        self,
        state: State,
        store: Store,
        clock: Clock,
        *,
        released: Callable[[list[Change], list[Event]], None],
        changed: Callable[[Decision | None], None],
        log: Callable[..., None],
    ) -> None:
        self.state = state
        self.degraded: str | None = None
        self.commit_seconds = 0.0
        self.follow: Callable[[Decision], None] = _nothing
        self._store = store
        self._clock = clock
        self._released = released
        self._changed = changed
        self._log = log
        self._boot = clock.boot()
        self._open: deque[Entry[object]] = deque()
        self._flying: list[Entry[object]] = []
        self._postponed: deque[Entry[object]] = deque()
        self._alone: deque[Entry[object]] | None = None  # the line, undecided, while entries go one by one
        self._gather = Gather(clock)
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()

    # --- entering ---------------------------------------------------------------------------------

    def command(self, decide: Callable[[Decision], T], actor: str) -> asyncio.Future[T]:
        """Decide now; the future gives the result when it is on disk. A refusal is raised at once, nothing changed."""
        if self._closing.is_set():
            message = "the daemon is shutting down: submit again when it is back"
            raise ShuttingDown(message)
        if self.degraded is not None:
            raise self._unavailable(self.degraded)
        return self._enter(Entry(decide, actor, fact=False, future=_future()))

    def fact(self, decide: Callable[[Decision], T], actor: str = "scheduler") -> asyncio.Future[T]:
        """Something that happened: never refused, only postponed while the registry can't be written."""
        entry: Entry[T] = Entry(decide, actor, fact=True, future=_future())
        entry.future.add_done_callback(_retrieved)
        if self.degraded is not None:
            self._postponed.append(entry)  # type: ignore[arg-type]
            return entry.future
        return self._enter(entry)

    async def settled(self) -> None:
        """Until everything decided so far is on disk; Undone when it never will be."""
        if not self._open and not self._flying:
            return
        mark: Entry[None] = Entry(_nothing, "", fact=False, future=_future())
        line = self._open if self._alone is None else self._alone
        line.append(mark)  # type: ignore[arg-type]
        self._wake.set()
        await mark.future

    async def read(self, look: Callable[[], T]) -> T:
        """What `look` sees in memory, given out when all of it is on disk."""
        while True:
            value = look()
            try:
                await self.settled()
            except Undone:
                continue
            return value

    def _enter(self, entry: Entry[T]) -> asyncio.Future[T]:
        if self._alone is not None:
            self._alone.append(entry)  # type: ignore[arg-type]
            return entry.future
        decision = self._begun(entry.actor)
        try:
            entry.value = self._decided(entry, decision)
        except BaseException:
            decision.undo()
            raise
        entry.decided(decision)
        if not entry.rows and not decision.settings and not self._open and not self._flying:
            self._release([entry])  # type: ignore[list-item]
            return entry.future
        self._open.append(entry)  # type: ignore[arg-type]
        self._gather.here += entry.asks
        if entry.rows or decision.settings:
            self._changed(
                decision
            )  # woken before the writer: what the next tick starts goes to disk with what made it ready
        self._wake.set()
        return entry.future

    def _decided(self, entry: Entry[T], decision: Decision) -> T:
        value = entry.decide(decision)
        if decision.changes or decision.settings:
            self.follow(decision)
        return value

    def _begun(self, actor: str) -> Decision:
        """A decision that has seen to it, before all else, that the wall's clock may have jumped."""
        decision = Decision(self.state, self._clock.now(), actor)
        jump = timekeeping.look(decision, self._boot, self._clock.offset())
        if jump:
            said = partial(self._log, "clock.jumped", level="warning", seconds=jump / 1e6)
            decision.effects.append(said)
        return decision

    # --- committing -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `close`; ends with OutcomeUnknown when the registry leaves it open whether a batch is in it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._open:
                await self._gather.together()
                self._flying = self._take()
                await self._commit()
            if self._closing.is_set():
                return

    def close(self) -> None:
        """Take nothing new, write what is there, and let `run` end."""
        self._closing.set()
        self._wake.set()

    def _take(self) -> list[Entry[object]]:
        """The next group. Marks that stand first are let through alone: all that they wait for is on disk."""
        taken: list[Entry[object]] = []
        while self._open and _is_mark(self._open[0]):
            taken.append(self._open.popleft())
        if taken:
            return taken
        rows = 0
        while self._open and (not taken or rows + self._open[0].rows <= MAX_ROWS):
            entry = self._open.popleft()
            rows += entry.rows
            taken.append(entry)
        self._gather.here = sum(entry.asks for entry in self._open)
        return taken

    async def _commit(self) -> None:
        batch = _batch(self._flying)
        started = self._clock.monotonic()
        try:
            if batch is not None:
                await self._store.commit(batch)
                self.commit_seconds = self._clock.monotonic() - started
        except CommitFailed as error:
            await self._recover(str(error))
        except CommitRefused as error:
            await self._one_by_one(str(error))
        else:
            flown, self._flying = self._flying, []
            if batch is not None:
                self._gather.written(sum(entry.asks for entry in flown))
            self._release(flown)

    def _release(self, entries: list[Entry[object]]) -> None:
        changes: list[Change] = []
        events: list[Event] = []
        for entry in entries:
            decision = entry.decision
            if decision is not None:
                changes += decision.changes
                events += [change.event for change in decision.changes if change.event is not None]
                events += decision.events
        events.sort(key=lambda event: event.cursor)
        if events or changes:
            self._released(changes, events)
        for entry in entries:
            if not entry.future.done():
                entry.future.set_result(entry.value)
            for effect in entry.decision.effects if entry.decision is not None else ():
                effect()

    def _undo(self) -> list[Entry[object]]:
        """All that is not on disk goes back, newest first; the entries, oldest first, and those still undecided."""
        entries = [*self._flying, *self._open]
        for entry in reversed(entries):
            if entry.decision is not None:
                entry.decision.undo()
                entry.decision, entry.rows = None, 0
        entries += self._alone or ()
        self._flying = []
        self._open.clear()
        self._gather.here = 0
        self._alone = None
        return entries

    async def _recover(self, why: str) -> None:
        """Undo, tell the commands, and try again until the registry takes a commit; then come the facts."""
        self.degraded = why
        for entry in self._undo():
            if entry.fact:
                self._postponed.append(entry)
            else:
                _fail(entry, Undone() if _is_mark(entry) else self._unavailable(why))
        self._log("storage.unavailable", message=why)
        wait = _FIRST_WAIT
        while not self._closing.is_set():
            await self._clock.wait(self._closing, wait)
            wait = min(wait * 2, _LONGEST_WAIT)
            try:
                await self._store.commit(Batch(settings={"probe": self._clock.now()}))
            except (CommitFailed, CommitRefused) as error:
                self.degraded = str(error)
            else:
                break
        else:
            return
        self.degraded = None
        self._log("storage.available", facts=len(self._postponed))
        postponed, self._postponed = self._postponed, deque()
        self._reopen(postponed)

    async def _one_by_one(self, why: str) -> None:
        """A constraint did not hold: decide each entry again, alone; the offender alone is refused.

        What arrives meanwhile stands behind them, undecided, so that commits stay in the order of decision; after
        them it goes together again.
        """
        self._log("storage.refused", message=why)
        self._alone = deque(self._undo())
        for _ in range(len(self._alone)):
            entry = self._alone.popleft()
            if self._decide_again(entry) and not await self._commit_alone(entry):
                return
        arrived, self._alone = self._alone, None
        self._reopen(arrived)

    async def _commit_alone(self, entry: Entry[object]) -> bool:
        """False when the registry could not be written: those behind it have been seen to."""
        self._flying = [entry]
        batch = _batch(self._flying)
        try:
            if batch is not None:
                await self._store.commit(batch)
        except CommitRefused as error:
            self._flying = []
            if entry.decision is not None:
                entry.decision.undo()
            self._log("decision.refused", message=str(error), actor=entry.actor)
            _fail(entry, InternalError(f"the registry refused this change: {error}"))
        except CommitFailed as error:
            await self._recover(str(error))
            return False
        else:
            self._flying = []
            self._release([entry])
        return True

    def _reopen(self, entries: Iterable[Entry[object]]) -> None:
        """Decide in this order what had to wait, and let it go on; dispatch looks at what that makes."""
        self._open.extend(entry for entry in entries if self._decide_again(entry))
        self._wake.set()
        self._changed(None)

    def _decide_again(self, entry: Entry[object]) -> bool:
        """Decide an undone entry anew; false when it no longer can be. Who waited at a mark looks again."""
        if _is_mark(entry):
            _fail(entry, Undone())
            return False
        decision = self._begun(entry.actor)
        try:
            entry.value = self._decided(entry, decision)
        except OpusError as error:
            decision.undo()
            _fail(entry, error)
            return False
        except Exception as error:
            decision.undo()
            if entry.fact:
                raise
            _fail(entry, error)  # a fault of this command alone: it ends as it would have when it came
            return False
        entry.decided(decision)
        return True

    @staticmethod
    def _unavailable(why: str) -> StorageUnavailable:
        message = f"the registry can't be written: {why}; nothing was changed: try again"
        return StorageUnavailable(message, retry_after=_LONGEST_WAIT)


def _batch(entries: list[Entry[object]]) -> Batch | None:
    batch = Batch()
    for entry in entries:
        decision = entry.decision
        if decision is not None:
            batch.changes += decision.changes
            batch.events += decision.events
            batch.settings.update(decision.settings)
            batch.pruned += decision.pruned
    return batch if batch.changes or batch.events or batch.settings or batch.pruned else None


def _is_mark(entry: Entry[object]) -> bool:
    return not entry.actor


def _nothing(_: Decision) -> None:
    """What a mark decides."""


def _fail(entry: Entry[object], error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)


def _future() -> asyncio.Future[T]:
    return asyncio.get_running_loop().create_future()


def _retrieved(future: asyncio.Future[T]) -> None:
    """A fact's refusal is nobody's to hear; asking for it keeps the loop from complaining."""
    if not future.cancelled():
        future.exception()
