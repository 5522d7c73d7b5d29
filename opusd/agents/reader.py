"""Reading attempts' output while it grows: what is there at once, else a wait for growth or the attempt's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from opusd.agents import output
from opusd.agents.attempt import Attempt
from opusd.agents.spec import Chunk
from opusd.agents.watch import OutputWatch, Waiter


class OutputReader:
    """`live()` is the attempt while it is not over. Files are read in `threads`: an old log may lie on a slow disk."""

    def __init__(self, watch: OutputWatch, threads: Executor) -> None:
        self._watch = watch
        self._threads = threads
        self._closed = False

    def close(self) -> None:
        """Whoever still waits gets an empty chunk, once woken."""
        self._closed = True

    async def read(
        self, path: Path, offset: int, limit: int, wait_s: float, live: Callable[[], Attempt | None]
    ) -> Chunk:
        """Output from `offset` on; with nothing there and the attempt not over, wait up to `wait_s` for some."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        waiter: Waiter | None = None
        known: Attempt | None = None
        try:
            while not self._closed:
                known = live()
                read = partial(output.read_part, path, offset, limit, over=known is None)
                chunk = await loop.run_in_executor(self._threads, read)
                left = until - loop.time()
                if chunk.data or chunk.dropped or chunk.truncated or chunk.eof or known is None or left <= 0:
                    return chunk
                if waiter is None:  # watch first, then read again, then wait
                    waiter = await self._arm(known, output.growing(path), chunk.next_offset, left, live)
                    continue
                await asyncio.wait((waiter,), timeout=left)
                self._disarm(known, waiter)
                waiter = None
        finally:
            if waiter is not None:
                self._disarm(known, waiter)
        return Chunk(data="", offset=offset, next_offset=offset)

    async def _arm(
        self, known: Attempt, log: Path, size: int, left: float, live: Callable[[], Attempt | None]
    ) -> Waiter | None:
        """A waiter that growth or the attempt's end wakes; None: it is over already."""
        rest = self._watch.rest(log)
        if rest > 0:
            pause: Waiter = asyncio.get_running_loop().create_future()
            known.waiters.add(pause)
            try:
                await asyncio.wait((pause,), timeout=min(rest, left))
            finally:
                known.waiters.discard(pause)
        if self._closed or live() is not known:
            return None
        waiter = self._watch.arm(log, size)
        known.waiters.add(waiter)
        return waiter

    def _disarm(self, known: Attempt | None, waiter: Waiter) -> None:
        self._watch.disarm(waiter)
        if known is not None:
            known.waiters.discard(waiter)
