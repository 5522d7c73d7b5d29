"""The client for asyncio: concurrent calls on one connection, and events as an asynchronous iterator."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from opus_client.wire import (
    SUBSCRIBE,
    UNSUBSCRIBE,
    ConnectionLost,
    Incoming,
    Lagged,
    decode,
    encode,
    socket_path,
    typed,
)
from opusd.api.framing import LINE_LIMIT
from opusd.api.method import Method

P = TypeVar("P")
R = TypeVar("R")


class AsyncClient:
    """`async with AsyncClient() as opus`. A cancelled call is cancelled at the daemon too, if it waits."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = socket_path(path)
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Incoming]] = {}
        self._events: dict[int, asyncio.Queue[Incoming | None]] = {}
        self._lost: ConnectionLost | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._listening: asyncio.Task[None]

    @property
    def lost(self) -> bool:
        """Whether the connection has ended: no call will be answered any more."""
        return self._lost is not None

    async def connect(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self.path, limit=LINE_LIMIT + 1)
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        return self

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self._writer.close()
        with contextlib.suppress(ConnectionError):  # it is closed, whoever did it
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(self, method: str, /, **params: object) -> Any:
        """The method's result as plain dicts and lists. RpcError, ConnectionLost."""
        return (await self._ask(method, params)).value()

    async def ask(self, method: Method[P, R], params: P) -> R:
        """The method's typed result. RpcError, ConnectionLost."""
        return typed(method, (await self._ask(method.name, params)).raw())

    async def notify(self, method: str, /, **params: object) -> None:
        """A call that is never answered."""
        self._send(encode(method, params, None))
        await self._writer.drain()

    async def subscribe(self, **params: object) -> AsyncEvents:
        """Events from now on, or all after `since`; filters are those of `events.subscribe`."""
        found = await self.call(SUBSCRIBE, **params)
        number: int = found["subscription"]
        return AsyncEvents(self, number, found["cursor"], self._events.setdefault(number, asyncio.Queue()))

    def begin(self, method: str, /, **params: object) -> Call:
        """A call whose end can be asked for, and whose answer comes all the same: a claim is not lost by that."""
        return self._begin(method, params)

    def _begin(self, method: str, params: object) -> Call:
        number = next(self._ids)
        self._send(encode(method, params, number))
        reply: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        reply.add_done_callback(lambda _: self._replies.pop(number, None))
        return Call(self, number, reply)

    async def _ask(self, method: str, params: object) -> Incoming:
        call = self._begin(method, params)
        try:
            return await call.reply
        except asyncio.CancelledError:
            call.give_up()
            raise

    def _send(self, line: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        self._writer.write(line)

    async def _listen(self) -> None:
        """Take in lines until there are no more; then whoever waits hears of it."""
        lost = ConnectionLost("the daemon closed the connection")
        try:
            while line := await self._reader.readline():
                self._take(decode(line))
        except (ConnectionError, ValueError) as error:
            lost = ConnectionLost(f"the connection to the daemon broke: {error}")
        finally:
            self._lost = lost
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(lost)
            for queue in self._events.values():
                queue.put_nowait(None)

    def _take(self, message: Incoming) -> None:
        if message.method is not None:
            number = message.params.get("subscription")
            if isinstance(number, int):
                self._events.setdefault(number, asyncio.Queue()).put_nowait(message)
        elif isinstance(message.id, int):
            reply = self._replies.get(message.id)
            if reply is not None and not reply.done():
                reply.set_result(message)


class Call:
    """One call under way, made by `AsyncClient.begin`."""

    def __init__(self, client: AsyncClient, number: int, reply: asyncio.Future[Incoming]) -> None:
        self.reply = reply
        self._client = client
        self._number = number

    def give_up(self) -> None:
        """Ask the daemon to end it, if it waits: then its result is RpcError -32800, or what was on its way."""
        if not self._client.lost:
            self._client._send(encode("$/cancelRequest", {"id": self._number}, None))  # noqa: SLF001 - two halves

    async def result(self) -> Any:
        """As of `AsyncClient.call`; who stops waiting for it may wait again."""
        return (await asyncio.shield(self.reply)).value()


class AsyncEvents:
    """`async for event in events`; `cursor` is where to resume. Ends with Lagged or ConnectionLost, or by `close`."""

    def __init__(
        self, client: AsyncClient, subscription: int, cursor: int, queue: asyncio.Queue[Incoming | None]
    ) -> None:
        self.subscription = subscription
        self.cursor = cursor
        self._client = client
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        message = await self._queue.get()
        if message is None:
            raise ConnectionLost("the daemon closed the connection")
        if message.method == "event.lagged":
            raise Lagged(message.params["cursor"])
        event: dict[str, Any] = message.params["event"]
        self.cursor = event["cursor"]
        return event

    async def close(self) -> None:
        """Unsubscribe."""
        await self._client.call(UNSUBSCRIBE, subscription=self.subscription)
        self._client._events.pop(self.subscription, None)  # noqa: SLF001 - two halves of one thing
