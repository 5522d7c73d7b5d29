"""procrastinate on PostgreSQL, with fsync and synchronous_commit as they are by default: on."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from procrastinate import App, PsycopgConnector

from peers.drivers.serve import PAYLOAD, Window, rate_of_tasks, serve, versions


class Procrastinate:
    def __init__(self, folder: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._connector = PsycopgConnector(
            conninfo=f"host={folder} dbname=postgres user=postgres", min_size=8, max_size=12
        )
        self._app = App(connector=self._connector)
        self._window = Window(0)
        self._over = asyncio.Event()
        self._task = self._app.task(name="noop", pass_context=False)(self._noop)
        self._runner.run(self._open())

    async def _open(self) -> None:
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    def versions(self) -> str:
        return versions("procrastinate", "psycopg", "uvloop")

    async def _noop(self, text: str) -> None:
        del text
        self._window.count()
        if self._window.over:
            self._over.set()

    async def _call(self) -> object:
        return await self._task.defer_async(text=PAYLOAD)

    async def _many(self) -> object:
        return await self._task.batch_defer_async(*[{"text": PAYLOAD}] * 100)

    def submit(self, seconds: float) -> float:
        return self._runner.run(rate_of_tasks(self._call, seconds))

    def submit_eight(self, seconds: float) -> float:
        return self._runner.run(rate_of_tasks(self._call, seconds, 8))

    def batch(self, seconds: float) -> float:
        return 100 * self._runner.run(rate_of_tasks(self._many, seconds))

    def fill(self, count: int) -> None:
        """To `count` queued jobs."""

        async def all_of_them() -> None:
            row = await self._connector.execute_query_one_async(
                "SELECT count(*) AS queued FROM procrastinate_jobs WHERE status = 'todo'"
            )
            for _ in range((count - row["queued"]) // 100):
                await self._many()
            await self._connector.execute_query_async("ANALYZE procrastinate_jobs")

        self._runner.run(all_of_them())

    def work(self, seconds: float) -> float:
        return self._runner.run(self._work(seconds))

    async def _work(self, seconds: float) -> float:
        self._window, self._over = Window(seconds), asyncio.Event()
        running = asyncio.create_task(
            self._app.run_worker_async(concurrency=32, install_signal_handlers=False, listen_notify=False)
        )
        await self._over.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self._window.rate()

    def close(self) -> None:
        self._runner.run(self._app.close_async())
        self._runner.close()

    def clear(self) -> None:
        self._runner.run(self._connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE"))


if __name__ == "__main__":
    serve(Procrastinate(sys.argv[1]))
