"""An event loop without a kernel below it: time is a number, and all that is left to chance is left to the seed.

Callbacks run in the order in which they were registered, and timers in that of their times, as asyncio promises. What
comes from elsewhere, another thread or the disk, it promises nothing of: of all that came in one step any may be first.
A step is one callback. When none is ready, time jumps to the next timer; and now and then a step takes so long, or
the jump is so far, that much comes due at once.
Each daemon lives in a context of its own: when it is killed, nothing of that context ever runs again.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections import deque
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

LIFE: ContextVar[int] = ContextVar("life")
"""Which daemon a callback belongs to; 0: what goes on without one."""
_SPINS = 20_000
"""More steps than this without time passing, and something spins."""
_HELD_UP = (0.01, 0.04, 0.2)
"""How often a step takes long, or the loop is woken late: one of these, for a whole storm."""
_LONGEST_STEP = 5_000
"""Microseconds."""


class Task(asyncio.Task[Any]):
    """`serial` orders them, `life` is the daemon's whose work it is."""

    serial = 0
    life = 0


class Future(asyncio.Future[Any]):
    life = 0


class Loop(asyncio.AbstractEventLoop):
    """`now` is in microseconds. `quiet` is called when nothing is ready, before time passes; `failure` ends it all."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0
        self.steps = 0
        self.quiet: Callable[[], None] = lambda: None
        self.failure: BaseException | None = None
        self.over: set[int] = set()
        self._chance = chance
        self._held_up = chance.choice(_HELD_UP)
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[int, int, asyncio.Handle, bool]] = []  # the last: it comes from elsewhere
        self._order = count(1)
        self._spins = 0

    # --- what asyncio asks of a loop ----------------------------------------------------------------

    def time(self) -> float:
        return self.now / 1e6

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        return self._remind(self.now + max(0, round(delay * 1e6)), callback, args, context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        return self._remind(round(when * 1e6), callback, args, context)

    def elsewhere(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Another thread is done then, and says so by `call_soon_threadsafe`."""
        self._remind(self.now + round(delay * 1e6), callback, args, None, elsewhere=True)

    def _remind(
        self, at: int, callback: Any, args: Any, context: Context | None, *, elsewhere: bool = False
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(at / 1e6, callback, args, self, context)
        heappush(self._timers, (at, next(self._order), handle, elsewhere))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def create_future(self) -> Future:
        future = Future(loop=self)
        future.life = LIFE.get(0)
        return future

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Task:  # type: ignore[override]
        context = context or copy_context()
        task = Task(coro, loop=self, name=name, context=context)
        task.serial = next(self._order)
        task.life = context.get(LIFE, 0)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Done between two steps, a little later."""
        future = self.create_future()

        def work() -> None:
            try:
                found = func(*args)
            except Exception as error:  # noqa: BLE001 - its caller's to hear
                _settle(future, error=error)
            else:
                _settle(future, found)

        self.elsewhere(self._chance.random() * 0.003, work)
        return future

    def set_default_executor(self, executor: Any) -> None:
        pass

    def add_signal_handler(self, *args: Any) -> None:
        pass

    def remove_signal_handler(self, sig: int) -> bool:
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nothing may fail unheard, but what nobody of a daemon was left to hear."""
        if getattr(context.get("future"), "life", 0) in self.over:
            return
        error = context.get("exception")
        self.fail(error if isinstance(error, BaseException) else AssertionError(context["message"]))

    # --- turning it ---------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """The first failure is the one that is told."""
        if self.failure is None:
            self.failure = error

    def step(self) -> None:
        """One callback, with whatever has to come before it; raises what failed in it."""
        while True:
            if self._ready and self._is_held_up():
                self._be_held_up()
            while not self._ready:
                self.quiet()
                self._wait()
            handle = self._ready.popleft()
            if not handle.cancelled() and self._context(handle).get(LIFE, 0) not in self.over:
                break
        self.steps += 1
        self._spins += 1
        if self._spins > _SPINS:
            raise AssertionError(f"it spins: {handle}")
        handle._run()  # type: ignore[attr-defined]
        if self.failure is not None:
            raise self.failure

    @staticmethod
    def _context(handle: asyncio.Handle) -> Context:
        return handle._context  # type: ignore[attr-defined,no-any-return]

    def _is_held_up(self) -> bool:
        return self._chance.random() < self._held_up

    def _be_held_up(self) -> None:
        """This step takes long: whoever is woken meanwhile stands behind the others."""
        at = self.now + self._chance.randrange(_LONGEST_STEP)
        if self._timers and self._timers[0][0] <= at:
            self._pass_time(at)

    def _wait(self) -> None:
        if not self._timers:
            raise AssertionError("nothing is left to happen")
        late = self._chance.randrange(_LONGEST_STEP) if self._is_held_up() else 0  # others have the processor
        self._pass_time(max(self.now, self._timers[0][0] + late))

    def _pass_time(self, until: int) -> None:
        """Timers come due in order; what comes from elsewhere meanwhile, in any."""
        if until > self.now:
            self.now = until
            self._spins = 0
        due: list[asyncio.Handle] = []
        arrived: list[asyncio.Handle] = []
        while self._timers and self._timers[0][0] <= self.now:
            _, _, handle, elsewhere = heappop(self._timers)
            (arrived if elsewhere else due).append(handle)
        for handle in arrived:
            due.insert(self._chance.randint(0, len(due)), handle)
        self._ready += due

    def end(self, life: int) -> None:
        """What belongs to this daemon stops here: it is closed where it stands, and nobody sees what that does."""
        self.over.add(life)
        gone = Context()
        gone.run(LIFE.set, life)
        heard, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            with warnings.catch_warnings(action="ignore"):
                self._close(life, gone)
        finally:
            sys.unraisablehook = heard

    def _close(self, life: int, gone: Context) -> None:
        while tasks := [task for task in asyncio.all_tasks(self) if task.life == life and not _is_closed(task)]:  # type: ignore[attr-defined]
            for task in sorted(tasks, key=lambda task: task.serial):  # type: ignore[attr-defined]
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                gone.run(_close, task.get_coro())


def _is_closed(task: asyncio.Task[Any]) -> bool:
    coroutine: Any = task.get_coro()
    return coroutine is None or coroutine.cr_frame is None


def _close(coroutine: Any) -> None:
    """As long as it holds on to something, for what it awaits at its end never comes."""
    while coroutine.cr_frame is not None:
        with suppress(BaseException):
            coroutine.close()


def _settle(future: asyncio.Future[Any], value: Any = None, *, error: BaseException | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def soon(loop: Loop, work: Coroutine[Any, Any, Any], life: int) -> Task:
    """A task of this daemon."""
    context = Context()
    context.run(LIFE.set, life)
    return loop.create_task(work, context=context)
