"""A Clock whose hands a test turns. Nothing passes by itself; `advance` wakes whoever's time has come, in order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, tzinfo

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, where a FakeClock stands unless told."""


class FakeClock:
    """Both hands move together by `advance`; `set_wall` and `jump` move the wall's alone, as an administrator would.

    `boot_id` is what a test changes to reboot the machine.
    """

    def __init__(self, start: int = START) -> None:
        self.boot_id = "boot-1"
        self._monotonic_us = 0
        self._offset = start
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def now(self) -> int:
        return self._offset + self._monotonic_us

    def monotonic(self) -> float:
        return self._monotonic_us / 1_000_000

    def zone(self) -> tzinfo:
        return UTC

    def offset(self) -> int:
        return self._offset

    def boot(self) -> str:
        return self.boot_id

    @property
    def waiting(self) -> int:
        """How many wait for a moment of this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Both hands go on; those who waited for a moment up to then run when the caller next awaits."""
        assert seconds >= 0, "time does not go back: set_wall"
        self._monotonic_us += round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= self._monotonic_us:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    def set_wall(self, us: int) -> None:
        """The wall clock is set to `us`, forth or back; nobody's wait changes."""
        self._offset = us - self._monotonic_us

    def jump(self, seconds: float) -> None:
        """The wall clock goes forth or back by so much at once: it was set, or the machine was suspended."""
        self._offset += round(seconds * 1_000_000)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if event.is_set() or (seconds is not None and seconds <= 0):
            return event.is_set()
        if seconds is None:
            return await event.wait()
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_us + round(seconds * 1_000_000), next(self._order), due))
        self._changed.set()
        waiter = asyncio.create_task(event.wait())
        try:
            await asyncio.wait((waiter, due), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            due.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
        return event.is_set()

    async def until_waiting(self, count: int = 1) -> None:
        """Until at least `count` wait for a moment of this clock: then `advance` finds them."""
        while self.waiting < count:
            self._changed.clear()
            await self._changed.wait()
