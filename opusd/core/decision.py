"""A decision under way: what it changes is applied to memory at once and undone when it is refused.

A decision is one command or one fact. It collects Changes and Events for the open batch; the caller
commits them or calls `undo`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from opusd.core import timekeeping
from opusd.core.dependencies import judge
from opusd.core.job import Attempt, Change, Edge, EdgeState, Event, IfUnmet, Job, Outcome, Spec
from opusd.core.lifecycle import Status, Step, advance

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.state import State


class Decision:
    def __init__(self, state: State, now: int, actor: str = "scheduler") -> None:
        self.state = state
        self.now = now
        self.actor = actor
        self.changes: list[Change] = []
        self.events: list[Event] = []
        self.settings: dict[str, Any] = {}
        self.pruned: list[tuple[int, bool]] = []
        self.effects: list[Callable[[], None]] = []  # what the caller does once all this is on disk
        self._undo: list[Callable[[], None]] = []
        self._latest: dict[int, Job] = {}
        self._ids = (state.last_job, state.last_event)

    def undo(self) -> None:
        """Put memory back as it was before this decision. Decisions are undone newest first, so ids go back too."""
        while self._undo:
            self._undo.pop()()
        self.state.last_job, self.state.last_event = self._ids

    def put(  # noqa: PLR0913 - one name for each thing that a change may carry
        self,
        before: Job | None,
        after: Job,
        kind: str,
        *,
        spec: Spec | None = None,
        outcome: Outcome | None = None,
        attempt: Attempt | None = None,
        detail: dict[str, Any] | None = None,
        actor: str | None = None,
        number: int | None = None,
    ) -> Job:
        """Record one step of one job with its row in the audit trail; the version grows by one."""
        if before is not None:
            after = replace(after, version=before.version + 1)
        after = timekeeping.dated(self.state, before, after, self.now)
        event = Event(
            cursor=self._cursor(),
            time=self.now,
            kind=f"job.{kind}",
            job=after.id,
            attempt=number if number is not None else after.run.attempt if after.run else None,
            before=None if before is None else before.status,
            after=after.status,
            actor=actor or self.actor,
            detail=detail,
        )
        self.state.apply(before, after)
        self._latest[after.id] = after
        self._undo.append(partial(self.state.apply, after, before))
        self.changes.append(
            Change(before=before, after=after, spec=spec, outcome=outcome, attempt=attempt, event=event)
        )
        return after

    def renew(self, before: Job, after: Job) -> Job:
        """Record a change that is no step: its version grows, and the audit trail says nothing of it."""
        after = replace(after, version=before.version + 1)
        self.state.apply(before, after)
        self._latest[after.id] = after
        self._undo.append(partial(self.state.apply, after, before))
        self.changes.append(Change(before=before, after=after))
        return after

    def latest(self, job: Job) -> Job:
        """The job as memory or this very decision has it; `job` is what was read of a finished one before."""
        return self.state.jobs.get(job.id) or self._latest.get(job.id, job)

    def note(self, kind: str, *, detail: dict[str, Any] | None = None, job: int | None = None) -> None:
        """An event of the audit trail that changes no job."""
        self.events.append(
            Event(cursor=self._cursor(), time=self.now, kind=kind, job=job, actor=self.actor, detail=detail)
        )

    def keep(self, name: str, value: object, restore: Callable[[], None]) -> None:
        """A setting that outlives a restart; `restore` undoes what the caller changed in memory."""
        self.settings[name] = value
        self._undo.append(restore)

    def undone_by(self, restore: Callable[[], None]) -> None:
        """What the caller changed in memory, and memory alone keeps, goes back by this."""
        self._undo.append(restore)

    def next_id(self) -> int:
        self.state.last_job += 1
        return self.state.last_job

    def _cursor(self) -> int:
        self.state.last_event += 1
        return self.state.last_event

    # --- steps that several commands share ----------------------------------------------------------

    def step(self, job: Job, step: Step, **fields: Any) -> Job:
        """The job after a step of the table, not yet recorded."""
        return replace(job, status=advance(job.status, step, job.id), **fields)

    def place(self, before: Job, after: Job, kind: str | None = None, **extra: Any) -> Job:
        """Put `after`, which is set free, where it belongs: blocked, scheduled or queued, the first that applies.

        A job that becomes ready stands in line from now on.
        """
        where = placement(after.edges, after.run_at, self.now)
        after = self.step(after, where, queued_at=self.now if where is Step.QUEUE else after.queued_at)
        return self.put(before, after, kind or where.value, **extra)

    def cancel_unmet(self, job: Job) -> Job:
        """Cancel a job whose new edges name an upstream that ended already, otherwise than they ask."""
        unmet = next(
            (edge for edge in job.edges if edge.state is EdgeState.UNMET and edge.if_unmet is IfUnmet.CANCEL), None
        )
        if unmet is None:
            return job
        detail = {
            "reason": f"job {unmet.upstream} had ended already, and not as depends_on asks",
            "upstream": unmet.upstream,
        }
        after = self.step(job, Step.CANCEL, completed_at=self.now)
        gone = self.put(job, after, Step.CANCEL.value, detail=detail, actor="scheduler")
        self.settle(gone)
        return gone

    def settle(self, upstream: Job) -> None:
        """The upstream is final: judge the edges of those that wait for it, and of those that wait for them."""
        todo = [upstream]
        while todo:
            ended = todo.pop()
            for number in sorted(self.state.dependents.get(ended.id, ())):
                cancelled = self._judge(self.state.jobs[number], ended)
                if cancelled is not None:
                    todo.append(cancelled)

    def reopen(self, upstream: Job) -> None:
        """The upstream is no longer final: what it had disappointed waits for it again."""
        for number in sorted(self.state.dependents.get(upstream.id, ())):
            job = self.state.jobs[number]
            edges = tuple(
                replace(edge, state=EdgeState.PENDING)
                if edge.upstream == upstream.id and edge.state is EdgeState.UNMET
                else edge
                for edge in job.edges
            )
            if edges != job.edges:
                self.put(
                    job,
                    replace(job, edges=edges),
                    "updated",
                    actor="scheduler",
                    detail={"waits_again_for": upstream.id},
                )

    def _judge(self, job: Job, upstream: Job) -> Job | None:
        """One dependent's edges to a final upstream; the job when that cancelled it."""
        edges = tuple(judged(edge, upstream.status) if edge.upstream == upstream.id else edge for edge in job.edges)
        if edges == job.edges:
            return None
        if (
            any(edge.state is EdgeState.UNMET and edge.if_unmet is IfUnmet.CANCEL for edge in edges)
            and job.status in _CANCELLABLE
        ):
            after = self.step(replace(job, edges=edges), Step.CANCEL, completed_at=self.now)
            detail = {"reason": f"job {upstream.id}, which it waits for, is {upstream.status}", "upstream": upstream.id}
            return self.put(job, after, Step.CANCEL.value, detail=detail, actor="scheduler")
        changed = replace(job, edges=edges)
        if job.status is Status.BLOCKED and all(edge.state is EdgeState.SATISFIED for edge in edges):
            self.place(job, changed, actor="scheduler", detail={"upstream": upstream.id})
        else:
            self.put(job, changed, "updated", actor="scheduler", detail={"upstream": upstream.id})
        return None


_CANCELLABLE = frozenset({Status.BLOCKED, Status.SCHEDULED, Status.HELD, Status.QUEUED, Status.RETRYING})


def judged(edge: Edge, upstream: Status) -> Edge:
    state = judge(edge, upstream)
    return edge if state is edge.state else replace(edge, state=state)


PLACED: Final = {Step.BLOCK: Status.BLOCKED, Step.SCHEDULE: Status.SCHEDULED, Step.QUEUE: Status.QUEUED}
"""The status of a job that is placed so."""


def placement(edges: tuple[Edge, ...], run_at: int | None, now: int) -> Step:
    """The first that applies of blocked, scheduled and queued."""
    if edges and any(edge.state is not EdgeState.SATISFIED for edge in edges):
        return Step.BLOCK
    if run_at is not None and run_at > now:
        return Step.SCHEDULE
    return Step.QUEUE
