"""The one place that reads a clock or sleeps. Everyone else is handed a Clock, so that tests can turn its hands.

Wall time (`now`) is for what people and the registry see and may jump; monotonic time is for intervals
inside one life of the daemon. Nothing here knows what it is waited for.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final, Protocol

_AT_ONCE: Final = 1_000_000
_LOOKS: Final = 10
"""Two clocks are read within so many nanoseconds, else as close together as so many looks bring: we may be held up."""


class Clock(Protocol):
    """Time, and waiting for it."""

    def now(self) -> int:
        """Microseconds since 1970 in UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""

    def zone(self) -> tzinfo:
        """The zone of the machine's clock, as it is now."""

    def offset(self) -> int:
        """Microseconds of wall time less monotonic time: within one boot only a jump of either changes it."""

    def boot(self) -> str:
        """Which boot the monotonic time counts in."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Until the event is set or so many seconds have passed (None: no bound); whether the event is set.

        At once when it is set already or nothing is left to wait. The event is not cleared.
        """


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def zone(self) -> tzinfo:
        return datetime.fromtimestamp(time.time()).astimezone().tzinfo or UTC

    def offset(self) -> int:
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        for _ in range(_LOOKS):
            if after - before <= _AT_ONCE:
                break
            again = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if again[2] - again[0] < after - before:
                before, wall, after = again
        return (wall - (before + after) // 2) // 1000

    def boot(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if event.is_set():
            return True
        if seconds is not None and seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True
