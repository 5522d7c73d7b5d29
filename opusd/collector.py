"""The cyclic collector, kept from what has no cycles: a look through a million queued jobs is a pause for everybody.

It knows nothing of jobs, but it does of the lists that hold their places in line: 60 ms for a million. What is frozen
it looks at no more; that is freed as ever when the last one lets go of it, but for a cycle that is not over yet. So a
daemon with a short queue, whom a look at everything takes a few milliseconds, freezes nothing once it has started.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANY: Final = 50_000
_CHANGES: Final = 50_000
"""So many more jobs in line are looked through in 4 ms."""


@contextmanager
def resting() -> Iterator[None]:
    """While a registry is read: it would look at each of a million rows and find nothing.

    What is there afterwards lives as long as the daemon. What a call makes is gone with its reply: looked through less
    often than Python does, it costs a twentieth less.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 5, 400)
        gc.enable()


class Collector:
    def __init__(self) -> None:
        self._changes = 0

    def changed(self, changes: int, jobs: int) -> None:
        """There were so many changes, and now there are so many jobs."""
        self._changes += changes
        if self._changes >= _CHANGES:
            self.settle(jobs)

    def settle(self, jobs: int) -> None:
        """What is new and has outlived a call is there to stay, if that is much."""
        self._changes = 0
        if jobs >= _MANY:
            gc.collect(1)  # what lately became a cycle without owner is not to stay
            gc.freeze()
