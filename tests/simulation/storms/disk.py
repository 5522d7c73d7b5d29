"""A registry that outlives its daemons and fails them: what is committed is kept in memory, how that goes is chance.

A commit may be refused by a full disk, be in the registry though nobody says so, or not be in it though nobody can know
that; it may take long, and be under way when the daemon is killed. What is read is as old as the moment of the read.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.core.errors import StorageUnavailable
from opusd.store.base import Batch, CommitFailed, CommitRefused, Forgotten, OutcomeUnknown, StoreError
from opusd.store.memory import MemoryStore

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Awaitable, Callable

    from tests.simulation.storms.loop import Loop

POISON = "poison"
"""What no registry takes, in a payload or a result: a batch with it is refused, again and again."""


class Weather(msgspec.Struct, frozen=True):
    """Probabilities of what befalls a commit or a read; `slow`: the longest wait for either, in seconds."""

    full: float = 0.0
    unknown: float = 0.0
    unreadable: float = 0.0
    slow: float = 0.001


CALM = Weather()
WEATHERS = (
    (CALM, 8),
    (Weather(slow=0.4), 3),
    (Weather(full=0.15), 3),
    (Weather(full=0.95), 2),
    (Weather(full=0.1, unreadable=0.2, slow=0.05), 2),
    (Weather(unreadable=0.8), 1),
    (Weather(unknown=0.02), 1),
)


class Disk:
    """`applied` is told of each batch that is in the registry, at the moment when it is."""

    def __init__(self, loop: Loop, chance: random.Random) -> None:
        self.kept = MemoryStore()
        self.weather = CALM
        self.troubles = 0  # so often was something refused, or could not be read
        self.applied: Callable[[Batch], None] = lambda _: None
        self.loop, self.chance = loop, chance

    def change(self) -> None:
        weathers, weights = zip(*WEATHERS, strict=True)
        [self.weather] = self.chance.choices(weathers, weights)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.chance.random() < probability

    def delay(self) -> float:
        return self.chance.random() ** 3 * self.weather.slow

    def apply(self, batch: Batch) -> None:
        """Now it is on disk."""
        if any(_poisoned(change) for change in batch.changes):
            raise CommitRefused("a value that no registry takes")
        at_once(self.kept.commit(batch))
        self.applied(batch)


class Registry:
    """One daemon's connection: the interface of SqliteStore, writes in the order in which they come."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._is_open = False
        self._line: deque[tuple[Batch | Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self.is_lost = False
        self.busy = 0  # what was asked of it and is not answered

    async def open(self) -> None:
        await self._disk.kept.open()
        await self._hop()
        if self._disk.happens(self._disk.weather.unreadable / 4):
            raise StoreError("the registry can't be opened: disk I/O error")
        self._is_open = True

    async def close(self) -> None:
        while self._line:  # what was handed to the writer is written first
            await self._hop()
        self._is_open = False

    def kill(self) -> None:
        """The daemon is gone; what was under way may have been written or not."""
        if self._line and self._is_open and self._disk.chance.random() < 0.5:
            batch = self._line[0][0]
            if isinstance(batch, Batch):
                with suppress(CommitRefused):
                    self._disk.apply(batch)
        self._is_open = False

    # --- writing ------------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> None:
        await self._write(batch)

    async def forget(self, before: int, limit: int) -> Forgotten:
        found: Forgotten = await self._write(partial(self._disk.kept.forget, before, limit))
        return found

    def _write(self, what: Batch | Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        """A caller that is cancelled stops waiting, and its transaction goes on."""
        future = self._disk.loop.create_future()
        if not self._is_open:
            future.set_exception(CommitFailed("the registry is closed"))
            return future
        self.busy += 1
        self._line.append((what, future))
        if len(self._line) == 1:
            self._disk.loop.elsewhere(self._disk.delay(), self._work)
        return future

    def _work(self) -> None:
        """The oldest transaction is done, one way or the other; its caller learns it a little later."""
        disk = self._disk
        what, future = self._line[0]
        try:
            found = self._done(what)
            tell = partial(_tell, future, found, None)
        except Exception as error:  # noqa: BLE001 - the caller's to hear
            tell = partial(_tell, future, None, error)
        late = disk.delay() if disk.happens(0.5) else 0.0
        disk.loop.elsewhere(late, self._over, tell)

    def _done(self, what: Batch | Callable[[], Awaitable[Any]]) -> Any:
        disk, weather = self._disk, self._disk.weather
        if self.is_lost:
            raise OutcomeUnknown("after disk I/O error in COMMIT: disk I/O error")
        if disk.happens(weather.full):
            disk.troubles += 1
            raise CommitFailed("database or disk is full")
        if disk.happens(weather.unknown):
            self.is_lost = True
            if isinstance(what, Batch) and disk.happens(0.5):
                disk.apply(what)
            raise OutcomeUnknown("after disk I/O error in COMMIT: disk I/O error")
        return disk.apply(what) if isinstance(what, Batch) else at_once(what())

    def _over(self, tell: Callable[[], None]) -> None:
        self._line.popleft()
        self.busy -= 1
        if self._line:
            self._disk.loop.elsewhere(self._disk.delay(), self._work)
        tell()

    # --- reading ------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Every read of a Store."""
        read = getattr(self._disk.kept, name)

        async def ask(*arguments: Any, **options: Any) -> Any:
            await self._hop()
            if not self._is_open:
                raise StorageUnavailable("the registry is closed")
            if self._disk.happens(self._disk.weather.unreadable):
                self._disk.troubles += 1
                raise StorageUnavailable("the registry can't be read: disk I/O error")
            found = await read(*arguments, **options)
            if self._disk.happens(0.3):
                await self._hop()
            return found

        setattr(self, name, ask)
        return ask

    async def _hop(self) -> None:
        """To a thread and back."""
        disk = self._disk
        future = disk.loop.create_future()
        self.busy += 1
        disk.loop.elsewhere(disk.delay(), _tell, future, None, None)
        try:
            await future
        finally:
            self.busy -= 1


def _tell(future: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(found)
    else:
        future.set_exception(error)


def _poisoned(change: Any) -> bool:
    spec, outcome = change.spec, change.outcome
    if spec is not None and POISON in spec.payload:
        return True
    return outcome is not None and outcome.result is not None and outcome.result["data"] == POISON


def at_once(work: Any) -> Any:
    """What a coroutine that waits for nothing returns."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")
