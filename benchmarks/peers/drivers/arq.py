"""arq on Redis."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from arq.connections import RedisSettings, create_pool

from peers.drivers.serve import PAYLOAD, rate_of_tasks, serve, versions


class Arq:
    def __init__(self, path: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._pool = self._runner.run(create_pool(RedisSettings(unix_socket_path=path, database=2)))

    def versions(self) -> str:
        return versions("arq", "redis", "hiredis", "uvloop")

    async def _call(self) -> object:
        return await self._pool.enqueue_job("noop", PAYLOAD)

    def submit(self, seconds: float) -> float:
        return self._runner.run(rate_of_tasks(self._call, seconds))

    def submit_eight(self, seconds: float) -> float:
        return self._runner.run(rate_of_tasks(self._call, seconds, 8))

    def pour(self, count: int) -> None:
        async def all_of_them() -> None:
            for _ in range(count):
                await self._call()

        self._runner.run(all_of_them())

    def clear(self) -> None:
        self._runner.run(self._pool.flushdb())


if __name__ == "__main__":
    serve(Arq(sys.argv[1]))
