"""When time alone next changes a job: a heap with lazy deletion for moments of the wall's clock, one for expiry.

Expiry counts in steady time (see `timekeeping`), which no jump moves: so none of a million entries ever moves.
Both hold (moment, job) and what no longer holds is recognised when it surfaces.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from opusd.core.job import Job
from opusd.core.lifecycle import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Timers:
    def __init__(self, jobs: Mapping[int, Job]) -> None:
        self._jobs = jobs
        self._wall: list[tuple[int, int]] = []
        self._steady: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._wall) + len(self._steady)

    def load(self, jobs: Iterable[Job]) -> None:
        """Many at once, in place of a `remind` for each; `loaded` ends it."""
        for job in jobs:
            if (due := job.due) is not None:
                self._wall.append((due, job.id))
            elif (expiry := job.expiry) is not None:
                self._steady.append((expiry, job.id))

    def loaded(self) -> None:
        heapify(self._wall)
        heapify(self._steady)

    def remind(self, old: Job | None, new: Job) -> None:
        """A job is new or has changed."""
        if new.terms.expires_in is None and new.status is Status.QUEUED:
            return  # most have no moment
        due = new.due
        if due is not None and (old is None or due != old.due):
            heappush(self._wall, (due, new.id))
            self._wall = self._swept(self._wall)
        expiry = new.expiry
        if expiry is not None and (old is None or expiry != old.expiry):
            heappush(self._steady, (expiry, new.id))
            self._steady = self._swept(self._steady)

    def next(self, skew: int) -> tuple[int, Job] | None:
        """The next moment, as the wall's clock will show it, and its job."""
        wall, steady = self._first(self._wall), self._first(self._steady)
        if steady is not None and (wall is None or steady[0] + skew < wall[0]):
            return steady[0] + skew, steady[1]
        return wall

    def standing(self) -> Iterator[tuple[int, Job]]:
        """All moments that hold; in no order, and those of steady time as they are."""
        for heap in (self._wall, self._steady):
            for at, number in dict.fromkeys(heap):
                job = self._jobs.get(number)
                if job is not None and at == (job.due if heap is self._wall else job.expiry):
                    yield at, job

    def _first(self, heap: list[tuple[int, int]]) -> tuple[int, Job] | None:
        while heap:
            at, number = heap[0]
            job = self._jobs.get(number)
            if job is not None and at == (job.due if heap is self._wall else job.expiry):
                return at, job
            heappop(heap)
        return None

    def _swept(self, heap: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Without those that left long before their time, once they are most of it."""
        if len(heap) <= 2 * len(self._jobs) + 1024:
            return heap
        wall = heap is self._wall
        kept = [(at, job.id) for job in self._jobs.values() if (at := job.due if wall else job.expiry) is not None]
        heapify(kept)
        return kept
