"""Many connections in one process: bytes out, messages in, nothing kept but what has not come to its end."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Message = dict[str, Any]


class Crowd:
    """Connections by their number, from 0. Ids of calls are what the caller says; messages come by `messages`."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._selector = selectors.DefaultSelector()
        self.sockets: list[socket.socket] = []
        self.closed: set[int] = set()  # by the daemon
        self._rests: dict[int, list[bytes]] = {}

    def connect(self, count: int) -> None:
        """So many more; they are read from by `messages`, all of them or those that are listened to."""
        for _ in range(count):
            one = socket.socket(socket.AF_UNIX)
            one.connect(self._path)  # waits while the backlog is full
            self.sockets.append(one)

    def listen(self, numbers: Iterator[int] | range | list[int] | None = None) -> None:
        for number in range(len(self.sockets)) if numbers is None else numbers:
            self._selector.register(self.sockets[number], selectors.EVENT_READ, number)

    def call(self, number: int, call: object, method: str, **params: Any) -> None:
        self.send(number, encode(call, method, **params))

    def send(self, number: int, line: bytes) -> None:
        """Small enough to go out at once, or to wait for."""
        with suppress(BrokenPipeError, ConnectionResetError):  # its end is read
            self.sockets[number].sendall(line)

    def deafen(self) -> None:
        """Nobody is listened to any more."""
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)

    def messages(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """The same, decoded."""
        for number, line in self.lines(seconds):
            yield number, json.loads(line)

    def lines(self, seconds: float) -> Iterator[tuple[int, bytes]]:
        """(connection, line) of those that are listened to, until nothing has come for so many seconds."""
        last = time.monotonic()
        while (left := last + seconds - time.monotonic()) > 0 and self._selector.get_map():
            for key, _ in self._selector.select(left):
                for line in self._read(key.data):
                    last = time.monotonic()
                    yield key.data, line

    def _read(self, number: int) -> list[bytes]:
        one = self.sockets[number]
        try:
            data = one.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed.add(number)
            self._selector.unregister(one)
            return []
        rests = self._rests.setdefault(number, [])
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*rests, lines[0]])
            rests.clear()
        if rest:
            rests.append(rest)
        return lines

    def close(self) -> None:
        self._selector.close()
        for one in self.sockets:
            one.close()
        self.sockets = []


def encode(call: object, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": call, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
