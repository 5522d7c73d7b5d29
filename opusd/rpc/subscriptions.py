"""Events on their way to one connection, within a bound.

An event is encoded once, by whoever has it, and shared by all subscribers until it is sent; here it gets its frame,
of pieces. What is not sent yet is known from how much is still held: it is sent in order. Which events a subscription
wants is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from opusd.api.framing import encode_call

Encoded: TypeAlias = tuple[int, bytes]
"""An event as JSON, behind its cursor."""

UNSENT_EVENTS: Final = 256 * 1024
_SUFFIX: Final = b"}}\n"


class Outlet:
    """The connection as sinks see it, and how many bytes of events it has not sent yet; `write` takes pieces."""

    def __init__(self, write: Callable[..., object], unsent: Callable[[], int], limit: int = UNSENT_EVENTS) -> None:
        self._write = write
        self._unsent = unsent
        self._limit = limit
        self._written = 0  # bytes of everything, ever
        self._events: deque[tuple[int, int]] = deque()  # (end among the bytes written, size), oldest first
        self._held = 0  # the sum of their sizes
        self._waiting: set[asyncio.Future[None]] = set()

    def note(self, size: int) -> None:
        """Bytes of something else went to the transport."""
        self._written += size

    def write_events(self, frames: Sequence[bytes]) -> None:
        before = self._written
        self._write(*frames)
        size = self._written - before
        self._events.append((self._written, size))
        self._held += size

    @property
    def held(self) -> int:
        """Bytes of events that no one has taken."""
        taken = self._written - self._unsent()
        while self._events and self._events[0][0] <= taken:
            self._held -= self._events.popleft()[1]
        return self._held

    def free(self) -> int:
        """Bytes of events that may still be written."""
        return self._limit - self.held

    async def room(self) -> None:
        """Until half of what may be held is free."""
        while self.held > self._limit // 2:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)

    def close(self) -> None:
        """The transport is gone, and with it all that was held; it is let go, so that no cycle is left behind."""
        self._write = self._unsent = _nowhere
        self.wake()

    def wake(self) -> None:
        """The transport has sent something, or is gone."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def _nowhere(*_: bytes) -> int:
    """What is written there is sent at once."""
    return 0


class EventSink:
    """Where the events of one subscription go, (cursor, encoded event) each: at any time, from the loop's thread.

    What comes before the reply to `events.subscribe` has left waits for it. An event that would go past
    the bound waits for one turn of the loop, since some loops send only then (and it is shared, so that
    it costs no memory); if there is no room even then, the subscription ends with one `event.lagged`,
    whose cursor is that of the last event sent.
    """

    def __init__(self, subscription: int, outlet: Outlet, forget: Callable[[int], object]) -> None:
        self.subscription = subscription
        self.closed = False
        self.on_close: Callable[[], None] | None = None
        self._outlet = outlet
        self._forget = forget
        self._prefix = b'{"jsonrpc":"2.0","method":"event","params":{"subscription":%d,"event":' % subscription
        self._opened = False
        self._cursor = 0
        self._early: list[Encoded] = []
        self._early_bytes = 0
        self._late: list[Encoded] = []

    def __call__(self, cursor: int, event: bytes) -> None:
        self.tell([(cursor, event)])

    def tell(self, events: Sequence[Encoded]) -> None:
        """These, in this order, in one piece as far as there is room."""
        if self.closed:
            return
        if not self._opened:
            for each in events:
                self._early_bytes += len(each[1])
                if self._early_bytes <= UNSENT_EVENTS:  # what is left out is lagged over when the reply has left
                    self._early.append(each)
            return
        if self._late:
            self._late += events
            return
        sent = self._sent(events)
        if sent < len(events):
            self._late += events[sent:]
            asyncio.get_running_loop().call_soon(self._settle)

    def open(self, cursor: int) -> None:
        """The reply has left, and said that the subscription begins after `cursor`: what waited may follow."""
        self._opened = True
        self._cursor = cursor
        early, self._early = self._early, []
        if self._sent(early) < len(early) or self._early_bytes > UNSENT_EVENTS:
            self._end_lagging()

    async def room(self) -> None:
        """Until events are taken again without lagging; for who replays what is kept. At once when it is closed."""
        if self._opened and not self.closed:
            await self._outlet.room()

    def close(self) -> None:
        """No more events; `on_close` tells whoever feeds this sink."""
        if not self.closed:
            self.closed = True
            self._early.clear()
            self._late.clear()
            self._forget(self.subscription)
            told, self.on_close = self.on_close, None
            if told is not None:
                told()

    def _sent(self, events: Sequence[Encoded]) -> int:
        """How many of these there was room for; they are on their way."""
        prefix, free = self._prefix, self._outlet.free()
        frame = len(prefix) + len(_SUFFIX)
        parts: list[bytes] = []
        for cursor, event in events:
            free -= frame + len(event)
            if free < 0:
                break
            parts += (prefix, event, _SUFFIX)
            self._cursor = cursor
        if parts:
            self._outlet.write_events(parts)
        return len(parts) // 3

    def _settle(self) -> None:
        late, self._late = self._late, []
        if not self.closed and self._sent(late) < len(late):
            self._end_lagging()

    def _end_lagging(self) -> None:
        params = {"subscription": self.subscription, "cursor": self._cursor}
        self._outlet.write_events([encode_call("event.lagged", params), b"\n"])
        self.close()
