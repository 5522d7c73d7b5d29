"""What the machine and the libraries beneath opusd can do at most, with none of its work: no queue at all.

A synchronised write; the rows of the same jobs, read from opusd's own registry, put by sqlite3 into one like it, a
hundred jobs a transaction; an echo of the same request over a Unix socket under uvloop.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers.drivers import wire
from peers.drivers.opusd import request, spec
from peers.drivers.registry import like, rows_of
from peers.drivers.serve import rate, serve

_PAGE = bytes(4096)
_JOBS = 100
_TABLES = {"jobs": "id", "specs": "job", "outcomes": "job", "events": "job"}
_ECHO = """
import asyncio, sys, uvloop
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
async def main():
    server = await asyncio.get_running_loop().create_unix_server(Echo, sys.argv[1])
    print(flush=True)
    await server.serve_forever()
asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
"""


class Limits:
    def __init__(self, folder: str, registry: str) -> None:
        self._folder = Path(folder)
        self._file = os.open(self._folder / "written", os.O_CREAT | os.O_RDWR, 0o600)
        for _ in range(4096):
            os.write(self._file, _PAGE)
        os.fsync(self._file)
        self._offsets = itertools.cycle(range(0, 4096 * 4096, 4096))
        self._copy(registry)
        echo = str(self._folder / "echo")
        self._server = subprocess.Popen([sys.executable, "-c", _ECHO, echo], stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        self._server.stdout.readline()
        self._peers = [wire.connect(echo) for _ in range(8)]
        self._request = request(1, "job.submit", **spec("queue"))

    def versions(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()

    def fdatasync(self, seconds: float) -> float:
        def write() -> None:
            os.pwrite(self._file, _PAGE, next(self._offsets))
            os.fdatasync(self._file)

        return rate(write, seconds)

    def submit(self, seconds: float) -> float:
        return wire.one_by_one(self._peers[0], self._request, seconds)

    def submit_eight(self, seconds: float) -> float:
        return wire.side_by_side(self._peers, self._request, seconds)

    def flight(self, seconds: float) -> float:
        return wire.in_flight(self._peers[0], [self._request] * 128, 64, seconds)

    def sqlite(self, seconds: float) -> float:
        """Jobs a second; nothing but their rows is done for them."""
        begun = now = time.perf_counter()
        done = 0
        while now < begun + seconds:
            batch = [(statement, self._shifted(table, rows)) for table, statement, rows in self._statements]
            self._last_job += _JOBS
            self._last_event += self._events
            self._database.execute("BEGIN IMMEDIATE")
            for statement, rows in batch:
                self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
            done += _JOBS
            now = time.perf_counter()
        return done / (now - begun)

    def _copy(self, registry: str) -> None:
        """A registry like this one, and the rows of a hundred jobs of it to put there."""
        self._database = like(registry, str(self._folder / "raw.db"))
        self._last_job = self._last_event = self._events = 0
        self._statements: list[tuple[str, str, list[tuple[Any, ...]]]] = []
        first = 2  # the first job of the registry is of an agent of its own
        for table, column in _TABLES.items():
            into, columns, rows = rows_of(registry, table, column, first, _JOBS)
            if rows:
                self._statements.append((table, f"{into} VALUES ({', '.join('?' * len(columns))})", rows))
            if table == "events":
                self._events = len(rows)
                self._job_column = columns.index("job")

    def _shifted(self, table: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The same rows for the next jobs."""
        job = self._last_job
        if table == "events":
            at, event = self._job_column, self._last_event
            return [
                (event + number, *row[1:at], job + number, *row[at + 1 :]) for number, row in enumerate(rows, start=1)
            ]
        return [(job + number, *row[1:]) for number, row in enumerate(rows, start=1)]


if __name__ == "__main__":
    serve(Limits(sys.argv[1], sys.argv[2]))
