"""Bytes out of one connection: what is said in one turn of the loop leaves together, and a client that does not take
it is noticed. The transport, which copies, gets no more than it will soon send: the rest stays in the pieces that were
given, and pieces that say the same to a thousand clients are there once. Must not know what is said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

TOGETHER: Final = 64 * 1024
"""Bytes that one turn of the loop gathers at most before they are sent."""
PORTION: Final = 32 * 1024
"""Bytes that the transport gets at a time, and the rest of what was written together."""
_SENDING: Final = PORTION // 2
"""Bytes that the transport may hold when it is given more; above them it says when it has sent them."""


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
        self._line: deque[tuple[Sequence[bytes], int]] = deque()  # not yet the transport's: pieces, and their bytes
        self._held = 0  # the sum of these
        self._soon = False  # whether this turn of the loop ends with a flush
        self._written = 0
        self._taken = (0, 0.0)  # bytes taken by the client, and when that last grew
        self._timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=_SENDING)

    def write(self, pieces: Sequence[bytes], size: int, *, alone: bool) -> None:
        """Send them, `size` bytes in all: now when they stand `alone`, else with what else this turn brings."""
        self._written += size
        self._line.append((pieces, size))
        self._held += size
        if alone or self._held > TOGETHER:
            self.flush()
        elif not self._soon:
            self._soon = True
            self._loop.call_soon(self._flush_soon)

    @property
    def waits(self) -> bool:
        """Whether there is more than the transport takes now: it says when it has sent some."""
        return bool(self._line)

    def unsent(self) -> int:
        """Bytes that were written and that no one has taken."""
        return self._held + self._transport.get_write_buffer_size()

    def flush(self, *, all_of_it: bool = False) -> None:
        """Give the transport as much as it will soon send; all of it before it is closed."""
        if not self._line:
            return
        while self._line and (all_of_it or self._transport.get_write_buffer_size() <= _SENDING):
            self._transport.write(self._next())
        unsent = self.unsent()
        if unsent > self._most:
            self._full()
        if unsent and self._timer is None:
            self._taken = (self._written - unsent, self._loop.time())
            self._watch()

    def _flush_soon(self) -> None:
        self._soon = False
        self.flush()

    def _next(self) -> bytes:
        line = self._line
        pieces, size = line.popleft()
        if line and size < PORTION:
            more = list(pieces)
            while line and size < PORTION:
                pieces, further = line.popleft()
                more += pieces
                size += further
            pieces = more
        self._held -= size
        return b"".join(pieces)

    def close(self) -> None:
        """The connection is over: what was gathered is lost, and nobody is watched any more, or told."""
        self._line.clear()
        self._held = 0
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
