"""Celery on Redis, without results."""

from __future__ import annotations

import sys

from celery import Celery
from redis import Redis

from peers.drivers.serve import PAYLOAD, rate, rate_of_threads, serve, versions


class CeleryOnRedis:
    def __init__(self, path: str) -> None:
        self._redis = Redis(unix_socket_path=path, db=5)
        app = Celery("bench", broker=f"redis+socket://{path}?virtual_host=5")
        app.conf.task_ignore_result = True
        self._task = app.task(noop, name="noop")

    def versions(self) -> str:
        return versions("celery", "kombu", "redis", "hiredis")

    def _call(self) -> object:
        return self._task.delay(PAYLOAD)

    def submit(self, seconds: float) -> float:
        return rate(self._call, seconds)

    def submit_eight(self, seconds: float) -> float:
        return rate_of_threads(self._call, seconds, 8)

    def pour(self, count: int) -> None:
        for _ in range(count):
            self._call()

    def clear(self) -> None:
        self._redis.flushdb()


def noop(text: str) -> None:
    del text


if __name__ == "__main__":
    serve(CeleryOnRedis(sys.argv[1]))
