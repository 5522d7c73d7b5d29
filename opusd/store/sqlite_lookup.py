"""Look-ups by id, shared: those that come while one query is under way go together in the next.

A hop to the reader's thread costs more than a row. Where many calls end in one commit, each wants to show its
job, and all do so at one moment. Must not know how a row is read, or what it means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

Row = tuple[Any, ...]
Rows = dict[int, Row]
_MOST: Final = 1000
"""Ids of one query; a call that alone wants more gets them."""


class Lookup:
    """`read(ids)` gives the rows, which begin with their id. What fails, fails for those that shared the query."""

    def __init__(self, read: Callable[[list[int]], Awaitable[Sequence[Row]]]) -> None:
        self._read = read
        self._waiting: deque[tuple[Sequence[int], asyncio.Future[Rows]]] = deque()
        self._reader: asyncio.Task[None] | None = None

    async def rows(self, ids: Sequence[int]) -> list[Row]:
        """In the order of the ids, without those that there are not; read after this call, never before."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Rows] = loop.create_future()
        self._waiting.append((ids, future))
        if self._reader is None:
            self._reader = loop.create_task(self._run())
        found = await future
        return [found[id_] for id_ in ids if id_ in found]

    async def close(self) -> None:
        """Wait for the query that is under way, if one is."""
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._take())
        finally:
            self._reader = None

    def _take(self) -> list[tuple[Sequence[int], asyncio.Future[Rows]]]:
        taken = [self._waiting.popleft()]
        count = len(taken[0][0])
        while self._waiting and count + len(self._waiting[0][0]) <= _MOST:
            taken.append(self._waiting.popleft())
            count += len(taken[-1][0])
        return taken

    async def _answer(self, taken: list[tuple[Sequence[int], asyncio.Future[Rows]]]) -> None:
        wanted = {id_ for ids, future in taken if not future.done() for id_ in ids}
        rows: Rows = {}
        failure: Exception | None = None
        try:
            if wanted:
                rows = {row[0]: row for row in await self._read(sorted(wanted))}
        except Exception as error:  # noqa: BLE001 - a fault belongs to the calls that shared it, not to the next ones
            failure = error
        for _, future in taken:
            if future.done():  # who asked was cancelled
                continue
            if failure is None:
                future.set_result(rows)
            else:
                future.set_exception(failure)
