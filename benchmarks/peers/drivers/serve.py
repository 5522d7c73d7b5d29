"""What all drivers share: how they are asked, and how a rate is taken. The standard library alone."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

PAYLOAD = ("Look at every module under src and say which of its functions nobody calls any more; " * 4)[:300]


def serve(subject: object) -> None:
    """Answer `[method, arguments]`, one JSON text a line, until the end of the input; then `close`, if there is one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": getattr(subject, name)(*arguments)}
        except Exception as error:  # noqa: BLE001 - a library's failure, of any kind, is said to who asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    if close := getattr(subject, "close", None):
        close()


def versions(*names: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in names)


def rate(call: Callable[[], object], seconds: float) -> float:
    """Calls a second of one client that waits for each."""
    begun = now = time.perf_counter()
    end, done = begun + seconds, 0
    while now < end:
        call()
        done += 1
        now = time.perf_counter()
    return done / (now - begun)


def rate_of_threads(call: Callable[[], object], seconds: float, count: int) -> float:
    """The same of so many clients, a thread each."""
    rates: list[float] = []
    threads = [threading.Thread(target=lambda: rates.append(rate(call, seconds))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(rates) < count:
        raise RuntimeError("a client failed: its traceback stands above")
    return sum(rates)


async def rate_of_tasks(call: Callable[[], Awaitable[object]], seconds: float, count: int = 1) -> float:
    """The same of so many clients, a task each on one event loop."""
    import asyncio

    async def one() -> float:
        begun = now = time.perf_counter()
        end, done = begun + seconds, 0
        while now < end:
            await call()
            done += 1
            now = time.perf_counter()
        return done / (now - begun)

    return sum(await asyncio.gather(*(one() for _ in range(count))))


class Window:
    """Jobs a second between the first and the last that were done before the time was over."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._seconds = seconds
        self._first = self._last = 0.0
        self._done = -1

    def count(self) -> None:
        now = time.perf_counter()
        if self._done < 0:
            self._first = now
        if now - self._first <= self._seconds:
            self._done += 1
            self._last = now
        else:
            self.over = True

    def rate(self) -> float:
        return self._done / (self._last - self._first)
