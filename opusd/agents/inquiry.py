"""Questions about attempts that their folders answer: asked in threads, and again while a folder can't be read.

What can't be read is unknown, which is not over: an attempt that may run is neither ended nor run again for it.
Must not know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

from opusd.agents.attempt import Attempt

T = TypeVar("T")

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 32.0


class Inquiry:
    """`unknown(attempt, error)` is told once of a question that will be asked again; `lost(attempt, error)` of the end
    of an attempt of which nothing was to be learnt.
    """

    def __init__(
        self,
        threads: Executor,
        *,
        unknown: Callable[[Attempt, OSError], None],
        lost: Callable[[Attempt, BaseException], None],
    ) -> None:
        self._threads = threads
        self._unknown = unknown
        self._lost = lost
        self._closed = False

    def close(self) -> None:
        """Nothing is asked or answered any more; an attempt's timer, which may be ours, is its owner's to cancel."""
        self._closed = True

    def ask(
        self,
        attempt: Attempt,
        work: Callable[[], T],
        then: Callable[[T], None],
        *,
        tries: int | None = None,
        asked: int = 1,
    ) -> asyncio.Future[None]:
        """`work` in a thread, then its continuation on the loop; done after the first try, whatever came of it.

        OSErrors have it tried again after 1, 2, 4 ... 32 s, so many times; None: until it can be answered.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def go_on(worked: asyncio.Future[T]) -> None:
            done.set_result(None)
            if self._closed or worked.cancelled():
                return
            error = worked.exception()
            if error is None:
                then(worked.result())
            elif isinstance(error, OSError) and asked != tries:
                if asked == 1:
                    self._unknown(attempt, error)
                pause = min(_FIRST_PAUSE * 2 ** (asked - 1), _LONGEST_PAUSE)
                attempt.timer = loop.call_later(pause, again)
            else:
                self._lost(attempt, error)
                if not isinstance(error, OSError):
                    raise error

        def again() -> None:
            self.ask(attempt, work, then, tries=tries, asked=asked + 1)

        loop.run_in_executor(self._threads, work).add_done_callback(go_on)
        return done
