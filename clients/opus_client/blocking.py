"""The client for plain blocking code: one call at a time on a plain socket, and events as an iterator."""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from opus_client.wire import SUBSCRIBE, ConnectionLost, Incoming, Lagged, decode, encode, socket_path, typed
from opusd.api.framing import LINE_LIMIT
from opusd.api.method import Method

P = TypeVar("P")
R = TypeVar("R")


class Client:
    """`with Client() as opus`. `timeout` bounds each wait in seconds: TimeoutError, and it is of no use then."""

    def __init__(self, path: str | Path | None = None, timeout: float | None = None) -> None:
        self.path = socket_path(path)
        self._timeout = timeout
        self._ids = itertools.count(1)
        self._notifications: deque[Incoming] = deque()
        self._socket: socket.socket
        self._lines: Any

    def connect(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self._timeout)
        try:
            self._socket.connect(str(self.path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb", 65536)
        return self

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, method: str, /, **params: object) -> Any:
        """The method's result as plain dicts and lists. RpcError, ConnectionLost."""
        return self._ask(method, params).value()

    def ask(self, method: Method[P, R], params: P) -> R:
        """The method's typed result. RpcError, ConnectionLost."""
        return typed(method, self._ask(method.name, params).raw())

    def notify(self, method: str, /, **params: object) -> None:
        """A call that is never answered."""
        self._send(encode(method, params, None))

    def events(self, **params: object) -> Iterator[dict[str, Any]]:
        """Events from now on, or all after `since`; without end, until Lagged or ConnectionLost."""
        found = self.call(SUBSCRIBE, **params)
        return self._follow(found["subscription"])

    def _follow(self, subscription: int) -> Iterator[dict[str, Any]]:
        while True:
            while not self._notifications:
                message = self._receive()
                if message.method is not None:
                    self._notifications.append(message)
            message = self._notifications.popleft()
            if message.params.get("subscription") == subscription:
                if message.method == "event.lagged":
                    raise Lagged(message.params["cursor"])
                yield message.params["event"]

    def _ask(self, method: str, params: object) -> Incoming:
        number = next(self._ids)
        self._send(encode(method, params, number))
        while True:
            message = self._receive()
            if message.method is not None:
                self._notifications.append(message)
            elif message.id == number:
                return message

    def _send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except ConnectionError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {error}") from error

    def _receive(self) -> Incoming:
        try:
            line = self._lines.readline(LINE_LIMIT + 2)
        except ConnectionError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {error}") from error
        if not line.endswith(b"\n"):
            raise ConnectionLost("the daemon closed the connection")
        return decode(line)
