"""Edges between jobs: when one is satisfied, what would be a cycle, and what those that wait pass on."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, assert_never

from opusd.core.job import Edge, EdgeState, IfUnmet, Job, On, Tier
from opusd.core.lifecycle import FINAL, Status
from opusd.core.order import Heir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def judge(edge: Edge, upstream: Status) -> EdgeState:
    """The edge's state now that its upstream has this status; satisfied stays so."""
    if edge.state is EdgeState.SATISFIED:
        return edge.state
    if upstream not in FINAL:
        return EdgeState.PENDING
    met = _is_met(edge.on, upstream)
    return EdgeState.SATISFIED if met or edge.if_unmet is IfUnmet.RUN else EdgeState.UNMET


def _is_met(on: On, upstream: Status) -> bool:
    match on:
        case On.SUCCESS:
            return upstream is Status.COMPLETED
        case On.FAILURE:
            return upstream is Status.FAILED
        case On.ANY:
            return True
        case _ as never:
            assert_never(never)


def unsatisfied(job: Job | None) -> set[int]:
    """The upstreams that this job waits for, whatever has become of them."""
    return set() if job is None else {edge.upstream for edge in job.edges if edge.state is not EdgeState.SATISFIED}


def find_cycle(start: int, upstreams: Iterable[int], edges_of: Callable[[int], Iterable[int]]) -> list[int] | None:
    """A path start -> ... -> start, were `start` to wait for `upstreams`; None when there is none."""
    came_from: dict[int, int] = {}
    stack = []
    for upstream in upstreams:
        if upstream == start:
            return [start, start]
        came_from[upstream] = start
        stack.append(upstream)
    while stack:
        job = stack.pop()
        for upstream in edges_of(job):
            if upstream == start:
                path = [start, job]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if upstream not in came_from:
                came_from[upstream] = job
                stack.append(upstream)
    return None


_Urgency = tuple[int, int, int]
_FEW: Final = 16


def _urgency(heir: Heir) -> _Urgency:
    """Smaller is more urgent; the job's id decides among equals so that a rebuild gives the same heir."""
    return -heir.tier, heir.since if heir.tier is Tier.CRITICAL else 0, heir.job


class _Offers:
    """What its dependents pass on to one upstream, and the most urgent of that.

    Ten thousand may wait for one job and leave one by one: from a few on they stand in a heap, whose
    entries are recognised as stale when they surface.
    """

    __slots__ = ("heap", "heirs")

    def __init__(self) -> None:
        self.heirs: dict[int, Heir] = {}
        self.heap: list[_Urgency] | None = None

    def put(self, dependent: int, heir: Heir | None) -> None:
        if heir is None:
            self.heirs.pop(dependent, None)
            return
        self.heirs[dependent] = heir
        if self.heap is not None:
            heappush(self.heap, _urgency(heir))

    def best(self) -> Heir | None:
        if len(self.heirs) < _FEW:
            self.heap = None
            return min(self.heirs.values(), key=_urgency, default=None)
        if self.heap is None or len(self.heap) > 2 * len(self.heirs) + 64:
            self.heap = list(map(_urgency, self.heirs.values()))
            heapify(self.heap)
        while True:
            heir = self.heirs.get(self.heap[0][2])
            if heir is not None and _urgency(heir) == self.heap[0]:
                return heir
            heappop(self.heap)


class Inheritance:
    """For each job that blocked jobs wait for: the most urgent of them, over any number of steps.

    `moved(job, old, new)` is called for each job whose heir changes, before the change is kept.
    """

    def __init__(self, moved: Callable[[int, Heir | None, Heir | None], None]) -> None:
        self._moved = moved
        self._waiting: dict[int, _Offers] = {}
        self._best: dict[int, Heir] = {}

    def of(self, job: int) -> Heir | None:
        return self._best.get(job)

    def known(self) -> dict[int, Heir]:
        return dict(self._best)

    def forget(self, upstream: int) -> None:
        """The upstream is final and inherits no more (else a thousand dependents would leave it one by one)."""
        self._waiting.pop(upstream, None)
        self._best.pop(upstream, None)

    def change(self, before: Job | None, after: Job | None, find: Callable[[int], Job | None]) -> None:
        """A job enters, leaves or changes; `find` gives the present record of an unfinished job."""
        job = after or before
        assert job is not None
        old = _awaited(before)
        new = _awaited(after)
        for upstream in old - new:
            self._offer(upstream, job.id, None, find)
        if new:
            assert after is not None
            passed = self._passed(after)
            for upstream in new:
                self._offer(upstream, job.id, passed, find)

    def _passed(self, job: Job) -> Heir:
        inherited = self._best.get(job.id)
        own = Heir(job.tier, job.id, job.ready_since)
        if inherited is None or inherited.tier < own.tier:
            return own
        if inherited.tier is own.tier and (own.tier is not Tier.CRITICAL or own.since <= inherited.since):
            return own
        return Heir(inherited.tier, job.id, inherited.since)

    def _offer(self, upstream: int, dependent: int, heir: Heir | None, find: Callable[[int], Job | None]) -> None:
        """Without recursion: a chain may be longer than the stack."""
        todo = [(upstream, dependent, heir)]
        while todo:
            upstream, dependent, heir = todo.pop()
            if not self._keep(upstream, dependent, heir):
                continue
            job = find(upstream)
            if job is not None:
                passed = self._passed(job)
                todo += [(further, upstream, passed) for further in _awaited(job)]

    def _keep(self, upstream: int, dependent: int, heir: Heir | None) -> bool:
        """Whether the upstream's best changed."""
        offers = self._waiting.get(upstream)
        if offers is None:
            offers = self._waiting[upstream] = _Offers()
        offers.put(dependent, heir)
        old = self._best.get(upstream)
        if heir is not None and (old is None or _urgency(heir) <= _urgency(old)):
            best: Heir | None = heir
        elif old is not None and old.job == dependent:
            best = offers.best()
        else:
            best = old
        if not offers.heirs:
            del self._waiting[upstream]
        if best == old:
            return False
        self._moved(upstream, old, best)
        if best is None:
            del self._best[upstream]
        else:
            self._best[upstream] = best
        return True


def _awaited(job: Job | None) -> set[int]:
    """The upstreams to which this job passes its tier on: it is blocked and their edges are pending."""
    if job is None or job.status is not Status.BLOCKED:
        return set()
    return {edge.upstream for edge in job.edges if edge.state is EdgeState.PENDING}
