"""What one connection may hold, one call under way, and the answer to a batch as it comes together.

What is called is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from opusd.api.framing import LINE_LIMIT, Id, Notification, Request, encode_batch, encode_error, encode_result
from opusd.core.errors import InternalError
from opusd.rpc.bindings import Binding
from opusd.rpc.turnstile import Turnstile


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may hold: bytes, seconds, calls. `turn` and `takers` are for all together."""

    line: int = LINE_LIMIT
    unsent: int = 1024 * 1024  # its calls are not read on past this
    stall: float = 30.0  # without a byte taken: closed
    linger: float = 1.0  # a connection that is being closed is still read, and what comes is dropped
    calls: int = 128  # in flight; more are not read until some have ended
    turn: int = 32  # calls that change something and begin in one turn of the loop: about 5 ms
    takers: int = 8  # clients that read again and are sent more in one turn: about 3 ms, up to 256 KiB to each
    waiting: int = 1000  # calls that wait, beside these; more are refused, for nothing says when they end


class Common(NamedTuple):
    """What all connections of a server have in common; `subscriptions` gives each its number.

    Calls that change something go through `turnstile`, clients that take again what they had not read through `exit`.
    """

    bindings: dict[str, Binding]
    turnstile: Turnstile
    exit: Turnstile
    subscriptions: Iterator[int]
    bounds: Bounds


class Call:
    """One call in flight. `cancelled` is true when the client, and not the daemon, asked for its end."""

    __slots__ = ("answered", "binding", "cancelled", "id", "lasts", "notified", "params", "reply_to", "task", "weight")

    def __init__(self, message: Request | Notification, binding: Binding, reply_to: Gathering | None) -> None:
        self.id: Id = message.id if isinstance(message, Request) else None
        self.notified = isinstance(message, Notification)
        self.params = message.params
        self.binding = binding
        self.reply_to = reply_to
        self.cancelled = False
        self.answered = False
        self.task: asyncio.Task[None] | None = None  # once it has begun
        changes = binding.method.kind == "write"
        self.lasts = changes and not binding.method.waits  # to its end, whatever becomes of its connection
        jobs = message.params.get("jobs") if changes else None
        self.weight = max(1, len(jobs)) if isinstance(jobs, list) else int(changes)  # at the turnstile


class Gathering:
    """The answer to a batch, sent when its last call has ended; it is kept under the limit of a line."""

    def __init__(self, limit: int) -> None:
        self.open = 1  # the batch itself, until all its entries are started
        self._limit = limit - min(65536, limit // 8)  # what is left holds the errors of those that are too long
        self._replies: list[bytes] = []
        self._size = 2

    @property
    def room(self) -> int:
        """Bytes that the next reply may have."""
        return self._limit - self._size - 1

    def add(self, call: Id, reply: bytes) -> None:
        if len(reply) > self.room:
            reply = encode_error(call, too_long(len(reply), self._limit))
        self._replies.append(reply)
        self._size += len(reply) + 1

    def done(self) -> bytes | None:
        """One part has ended; the whole answer when it was the last, unless there is nothing to say."""
        self.open -= 1
        return encode_batch(self._replies) if self.open == 0 and self._replies else None


def fitting(call: Call, result: object, reply: bytes, line: int) -> tuple[bytes, bool]:
    """The reply; a shorter one when it does not fit and the command can tell how; or an error when no line holds it.

    And whether it tells the result: in the answer to a batch there may be no room for it.
    """
    room = line if call.reply_to is None else call.reply_to.room
    if len(reply) > room and call.binding.shorter is not None:
        reply = encode_result(call.id, call.binding.shorter(result))
    if len(reply) > line:
        return encode_error(call.id, too_long(len(reply), line)), False
    return reply, len(reply) <= room


def too_long(size: int, limit: int) -> InternalError:
    """What is answered instead of a reply that is longer than a line may be."""
    return InternalError(
        f"the call was done, but its reply has {size} bytes, and a line has at most {limit}: ask for less",
        reason="reply_too_long",
        bytes=size,
        limit=limit,
    )
