"""Huey on SQLite with fsync: SqliteHuey(fsync=True), which is journal_mode=wal and synchronous=2 (FULL)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from huey import SqliteHuey

from peers.drivers.serve import PAYLOAD, rate, rate_of_threads, serve, versions


class Huey:
    def __init__(self, folder: str) -> None:
        self._huey = SqliteHuey(filename=str(Path(folder) / "huey.db"), fsync=True, results=False)
        [(level,)] = self._huey.storage.sql("pragma synchronous", results=True)
        if level != 2:
            raise RuntimeError(f"huey is not durable: synchronous is {level}")
        self._noop = self._huey.task()(noop)

    def versions(self) -> str:
        return versions("huey")

    def _call(self) -> object:
        return self._noop(PAYLOAD)

    def submit(self, seconds: float) -> float:
        return rate(self._call, seconds)

    def submit_eight(self, seconds: float) -> float:
        return rate_of_threads(self._call, seconds, 8)

    def fill(self, count: int) -> None:
        """To `count` queued tasks, not one by one synchronised."""
        self._huey.storage.conn.execute("pragma synchronous=0")
        for _ in range(count - self._huey.pending_count()):
            self._call()
        self._huey.storage.conn.execute("pragma synchronous=2")

    def work(self, seconds: float) -> float:
        """What Huey's consumer does for each task, without its threads: take it from the table, then execute it."""
        begun = now = time.perf_counter()
        done = 0
        while now < begun + seconds and (task := self._huey.dequeue()) is not None:
            self._huey.execute(task)
            done += 1
            now = time.perf_counter()
        return done / (now - begun)

    def clear(self) -> None:
        self._huey.flush()


def noop(text: str) -> None:
    del text


if __name__ == "__main__":
    serve(Huey(sys.argv[1]))
