"""SAQ on Redis."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from redis.asyncio import Redis
from saq import Worker
from saq.queue.redis import RedisQueue

from peers.drivers.serve import PAYLOAD, Window, rate_of_tasks, serve, versions


class Saq:
    def __init__(self, path: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._redis = Redis(unix_socket_path=path, db=3)
        self._queue = RedisQueue(self._redis)

    def versions(self) -> str:
        return versions("saq", "redis", "hiredis", "uvloop")

    async def _call(self) -> object:
        return await self._queue.enqueue("noop", text=PAYLOAD)

    def submit(self, seconds: float) -> float:
        return self._runner.run(rate_of_tasks(self._call, seconds))

    def submit_eight(self, seconds: float) -> float:
        return self._runner.run(rate_of_tasks(self._call, seconds, 8))

    def fill(self, count: int) -> None:
        """To `count` queued jobs, not one by one synchronised."""

        async def all_of_them() -> None:
            await self._redis.config_set("appendfsync", "no")
            missing = count - await self._queue.count("queued")
            for _ in range(missing):
                await self._call()
            await self._redis.config_set("appendfsync", "always")

        self._runner.run(all_of_them())

    pour = fill

    def work(self, seconds: float) -> float:
        return self._runner.run(self._work(Window(seconds)))

    async def _work(self, window: Window) -> float:
        over = asyncio.Event()

        async def after(_: dict[str, Any]) -> None:  # it is finished in Redis
            window.count()
            if window.over:
                over.set()

        worker: Any = Worker(
            self._queue, functions=[noop], concurrency=32, after_process=after, shutdown_grace_period_s=5
        )
        worker.SIGNALS = []
        running = asyncio.create_task(worker.start())
        await over.wait()
        await worker.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return window.rate()

    def clear(self) -> None:
        self._runner.run(self._redis.flushdb())


async def noop(_: dict[str, Any], *, text: str) -> None:
    del text


if __name__ == "__main__":
    serve(Saq(sys.argv[1]))
