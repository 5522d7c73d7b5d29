"""The listening socket and its connections: opened once, closed once, replies let out in between.

Of the connections that may be open a tenth is left to people: an agent that runs away never keeps them from ending it.

It is handed what answers (Commands) and who may call (`identify`) as values, and knows neither.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opusd import __version__
from opusd.core.access import Caller
from opusd.core.errors import QuotaExceeded
from opusd.rpc.bindings import Commands, bind
from opusd.rpc.calls import Bounds, Common
from opusd.rpc.connection import Connection, OnError
from opusd.rpc.place import Place, inherit, make
from opusd.rpc.turnstile import Turnstile


def _nobody(caller: Caller, _token: str) -> Caller:
    """No token is known: whoever shows one is an agent without a job."""
    return Caller(uid=caller.uid, pid=caller.pid, agent=True)


class RpcServer:
    """`serve` then `close`. `on_error(error, method)` is told of what no command should raise; clients are not."""

    def __init__(
        self,
        commands: Commands,
        *,
        identify: Callable[[socket.socket], Caller],
        lower: Callable[[Caller, str], Caller] = _nobody,
        on_error: OnError,
        version: str = __version__,
        bounds: Bounds | None = None,
        max_connections: int = 10_000,
    ) -> None:
        self.bindings = bind(commands, version)
        self._identify = identify
        self._lower = lower
        self._on_error = on_error
        self._max_connections = max_connections
        bounds = bounds or Bounds()
        entrance, exit_ = Turnstile(bounds.turn), Turnstile(bounds.takers)
        self._common = Common(self.bindings, entrance, exit_, itertools.count(1), bounds)
        self._connections: set[Connection] = set()
        self._admitted = 0  # of these; the others were told why not, and are about to be closed
        self._place: Place | None = None
        self._server: asyncio.Server | None = None

    def configure(self, *, max_connections: int) -> None:
        """From now on; what is open stays open."""
        self._max_connections = max_connections

    @property
    def connections(self) -> int:
        """How many are open and answered."""
        return self._admitted

    async def serve(self, path: Path | None, inherited_fd: int | None = None) -> None:
        """Listen at `path`, or on an inherited socket; PlaceRefused (an OpusError) says why it can't be."""
        if inherited_fd is not None:
            self._place = inherit(inherited_fd)
        elif path is not None:
            self._place = make(path, backlog=512)
        else:
            raise ValueError("either a path or an inherited descriptor")
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connection, sock=self._place.socket, backlog=512, **options
        )

    async def close(self, timeout: float) -> None:
        """Accept no more, read no more, end what waits, let replies out for so many seconds, then close all."""
        if self._server is not None:
            self._server.close()
        if self._place is not None:
            self._place.close()
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                for connection in self._connections:
                    group.create_task(connection.shut())
        except TimeoutError:
            left = list(self._connections)
            for connection in left:
                connection.abort()
            await asyncio.gather(*(connection.ended() for connection in left))

    def _connection(self) -> Connection:
        return Connection(
            self._common,
            identify=self._admit,
            lower=self._lower,
            on_error=self._on_error,
            on_begin=self._connections.add,
            on_end=self._ended,
        )

    def _admit(self, peer: socket.socket) -> Caller:
        most = self._max_connections
        self._check_room(most, "connections")
        caller = self._identify(peer)
        if caller.agent:
            self._check_room(most - most // 10, "connections that agents may have")
        self._admitted += 1
        return caller

    def _check_room(self, most: int, what: str) -> None:
        if self._admitted >= most:
            raise QuotaExceeded(f"{most} {what} are open already", quota="connections", limit=most, retry_after=1.0)

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._admitted -= connection.admitted
