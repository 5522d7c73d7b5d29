"""Bytes out of one connection: what is said in one turn of the loop leaves together, and a client that does not take
it is noticed. Must not know what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TOGETHER: Final = 64 * 1024
"""Bytes that one turn of the loop gathers at most before they are sent."""


class Outflow:
    """`full()` is called when the transport holds over `most` bytes. No byte taken for `stall` seconds aborts it."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        most: int,
        stall: float,
        full: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._most = most
        self._stall = stall
        self._full = full
        self._gathered: list[bytes] = []
        self._held = 0  # bytes of these
        self._written = 0
        self._taken = (0, 0.0)  # bytes taken by the client, and when that last grew
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: bytes, *, alone: bool) -> None:
        """Send it now when it stands `alone`, else with what else this turn of the loop brings."""
        self._written += len(data)
        self._gathered.append(data)
        self._held += len(data)
        if alone or self._held > TOGETHER:
            self.flush()
        elif len(self._gathered) == 1:
            self._loop.call_soon(self.flush)

    def unsent(self) -> int:
        """Bytes that were written and that no one has taken."""
        return self._held + self._transport.get_write_buffer_size()

    def flush(self) -> None:
        """Give the transport what was gathered."""
        if not self._gathered:
            return
        data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        self._gathered, self._held = [], 0
        self._transport.write(data)
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._most:
            self._full()
        if unsent and self._timer is None:
            self._taken = (self._written - unsent, self._loop.time())
            self._watch()

    def close(self) -> None:
        """The connection is over: what was gathered is lost, and nobody is watched any more, or told."""
        self._gathered, self._held = [], 0
        self._full = _nobody
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        self._timer = self._loop.call_later(self._stall / 4, self._look)

    def _look(self) -> None:
        """Stop looking when all is sent."""
        self._timer = None
        unsent = self.unsent()
        if not unsent:
            return
        taken, now = self._written - unsent, self._loop.time()
        if taken > self._taken[0]:
            self._taken = (taken, now)
        elif now - self._taken[1] >= self._stall:
            self._transport.abort()
            return
        self._watch()


def _nobody() -> None:
    """Who is told of a connection that is over. It holds nothing, so that no cycle is left to the collector."""
