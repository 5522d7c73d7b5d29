"""RQ on Redis."""

from __future__ import annotations

import sys

from redis import Redis
from rq import Queue

from peers.drivers.serve import PAYLOAD, rate, rate_of_threads, serve, versions

_NOOP = "builtins.len"


class Rq:
    def __init__(self, path: str) -> None:
        self._redis = Redis(unix_socket_path=path, db=1)
        self._queue = Queue(connection=self._redis)

    def versions(self) -> str:
        return versions("rq", "redis", "hiredis")

    def _call(self) -> object:
        return self._queue.enqueue(_NOOP, PAYLOAD)

    def _many(self) -> object:
        return self._queue.enqueue_many([Queue.prepare_data(_NOOP, [PAYLOAD]) for _ in range(100)])

    def submit(self, seconds: float) -> float:
        return rate(self._call, seconds)

    def submit_eight(self, seconds: float) -> float:
        return rate_of_threads(self._call, seconds, 8)

    def batch(self, seconds: float) -> float:
        return 100 * rate(self._many, seconds)

    def pour(self, count: int) -> None:
        for _ in range(count // 100):
            self._many()

    def clear(self) -> None:
        self._redis.flushdb()


if __name__ == "__main__":
    serve(Rq(sys.argv[1]))
