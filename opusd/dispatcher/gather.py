"""Whoever was answered together asks again together, and is to be written together.

Else those who come first are written alone, and two halves wait for each other's commits ever after. So before a
commit a few turns of the loop are left to those who were there at the last one. When they do not come, the next commits
do not wait for anybody; ever more of them. Must not know what is asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opusd.clock import Clock

_SOON: Final = 0.002
_TURNS: Final = 16
_MOST_MISSED: Final = 63


class Gather:
    """`here` is how many of the open batch's decisions somebody waits for: its owner counts them."""

    def __init__(self, clock: Clock) -> None:
        self.here = 0
        self._clock = clock
        self._expected = 0
        self._written = 0.0
        self._missed = 0
        self._hurry = 0

    def written(self, answered: int) -> None:
        """A batch is on disk; so many who waited are answered now."""
        self._expected = answered + self.here
        self._written = self._clock.monotonic()

    async def together(self) -> None:
        """Until as many are here as there were, or they had their chance."""
        if self.here >= self._expected or self._clock.monotonic() > self._written + _SOON:
            return
        if self._hurry:
            self._hurry -= 1
            return
        for _ in range(_TURNS):
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, and no time
            if self.here >= self._expected:
                self._missed = 0
                return
        self._missed = min(2 * self._missed + 1, _MOST_MISSED)
        self._hurry = self._missed
