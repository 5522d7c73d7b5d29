"""Records of the core as the wire shows them. A Snapshot is what memory knew at one instant."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict, replace

from opusd.agents.adapters.base import Usage
from opusd.api import types as wire
from opusd.core import explain
from opusd.core.attempts import add_usage
from opusd.core.job import Attempt, Edge, Event, Extra, Job, Outcome, Question, Spec, Terms
from opusd.core.lifecycle import Status
from opusd.core.order import Heir, score
from opusd.core.retry import RETRIED
from opusd.core.times import to_rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opusd.core.retry import Policy
    from opusd.core.state import State


class Snapshot(msgspec.Struct, frozen=True):
    """A job and everything about it that is derived from the other jobs."""

    job: Job
    reason: str = ""
    score: float | None = None
    position: int | None = None
    ahead: int | None = None
    expires_at: int | None = None
    heir: Heir | None = None
    waiting: tuple[int, ...] = ()  # the unfinished jobs that wait for it: of a new job these are all its dependents


def snapshot(state: State, job: Job, now: int) -> Snapshot:
    """Call it in the same turn in which `job` was decided or read."""
    heir = state.inheritance.of(job.id)
    position = ahead = None
    if job.status is Status.QUEUED and job.id in state.jobs:
        position, ahead = state.position(job)
    return Snapshot(
        job=job,
        reason=explain.reason(state, job, now, ahead) or "",
        score=score(job, state.limits.points, now - state.timeline.skew, heir) if position is not None else None,
        position=position,
        ahead=ahead,
        expires_at=state.expires_at(job),
        heir=heir if heir is not None and heir.tier > job.terms.tier else None,
        waiting=tuple(sorted(dependents)) if (dependents := state.dependents.get(job.id)) else (),
    )


class Live(msgspec.Struct):
    """What a running attempt has said of itself; the registry hears of it when the attempt is over."""

    progress: wire.Progress | None = None
    session_id: str | None = None
    usage: Usage | None = None


NOTHING: Final = Outcome()
"""That of a job that is new."""


def view(
    seen: Snapshot,
    spec: Spec,
    outcome: Outcome,
    *,
    full: bool = True,
    live: Live | None = None,
    dependents: Sequence[int] | None = None,
) -> wire.Job:
    """The wire's Job; without `full` its long fields are left out.

    `dependents` are those of the registry, where every edge is; None: of a new job, whose memory knows all.
    """
    job, run = seen.job, seen.job.run
    shown = replace(
        _blank(job.terms),
        id=job.id,
        status=job.status._value_,
        reason=seen.reason or _final_reason(job, outcome),
        score=None if seen.score is None else round(seen.score, 3),
        position=seen.position,
        ahead=seen.ahead,
        key=job.key,
        root=job.id,
        attempts=job.attempts,
        retries=job.retries,
        version=job.version,
    )
    if waiting := seen.waiting if dependents is None else dependents:
        shown.dependents = list(waiting)
    if seen.heir is not None:
        shown.inherits = wire.Inherited(tier=seen.heir.tier.word, job=seen.heir.job)  # type: ignore[arg-type]
    _show_times(shown, seen)
    _show_spec(shown, spec, full=full)
    if job.ancestors:
        shown.parent, shown.root, shown.depth = job.parent, job.root, len(job.ancestors)
    if job.edges:
        shown.depends_on = [_edge(edge) for edge in job.edges]
    if job.extra is not None:
        _show_extra(shown, job, job.extra)
    if job.status is Status.HELD:
        shown.held = True
    if run is not None:
        shown.worker, shown.timeout_at = run.worker, time_view(run.timeout_at)
    if job.attempts and not spec.worktree:
        shown.workdir = spec.cwd
    if outcome is not NOTHING:
        _show_outcome(shown, outcome, full=full)
    elif full:
        shown.verify_output = shown.result = None
    if live is not None:
        shown.progress, shown.usage = live.progress, _usage(outcome.usage, live.usage)
        shown.session_id = live.session_id or outcome.session_id
    return shown


_blanks: dict[int, tuple[Terms, wire.Job]] = {}
_MOST_BLANKS: Final = 4096


def _blank(terms: Terms) -> wire.Job:
    """A Job with all that those of the same Terms have in common, to be copied: a fifth of what making one costs.

    Looked up by identity, for to hash Terms costs more than that.
    """
    known = _blanks.get(id(terms))
    if known is not None and known[0] is terms:
        return known[1]
    blank = wire.Job(
        id=0,
        status="queued",
        reason="",
        title="",
        type=terms.type,
        source=terms.source.value,
        interactive=terms.interactive,
        priority=terms.tier.word,
        tier=terms.tier.word,  # type: ignore[arg-type]
        boost=terms.boost,
        agent=terms.agent,
        route=terms.route,
        group=terms.group,
        root=0,
        needs=dict(terms.needs),
        cwd="",
        timeout=seconds(terms.timeout),
        expires_in=seconds(terms.expires_in),
        max_retries=terms.retry.max_retries,
        retry=_policy(terms.retry),
        created_at="",
        submitted_by=terms.submitted_by,
        version=0,
    )
    if len(_blanks) >= _MOST_BLANKS:
        _blanks.clear()
    _blanks[id(terms)] = (terms, blank)
    return blank


def _show_times(shown: wire.Job, seen: Snapshot) -> None:
    job = seen.job
    shown.created_at = created = to_rfc3339(job.created_at)
    shown.queued_at = created if job.queued_at == job.created_at else time_view(job.queued_at)
    if seen.expires_at is not None:
        shown.expires_at = to_rfc3339(seen.expires_at)
    if job.run_at is not None:
        shown.run_at = to_rfc3339(job.run_at)
    if job.due_at is not None:
        shown.due_at = to_rfc3339(job.due_at)
    if job.started_at is not None:
        shown.started_at = to_rfc3339(job.started_at)
    if job.completed_at is not None:
        shown.completed_at = to_rfc3339(job.completed_at)


def _show_spec(shown: wire.Job, spec: Spec, *, full: bool) -> None:
    shown.title = spec.title
    shown.labels = spec.labels
    shown.cwd = spec.cwd
    shown.worktree = spec.worktree
    shown.verify = spec.verify
    if full:
        shown.prompt = spec.prompt
        shown.command = spec.command
        shown.env = spec.env
        shown.payload = spec.payload
        shown.metadata = spec.metadata


def _show_outcome(shown: wire.Job, outcome: Outcome, *, full: bool) -> None:
    if outcome.error is not None:
        shown.error = msgspec.convert(outcome.error, wire.Failure)
    if outcome.usage is not None:
        shown.usage = msgspec.convert(outcome.usage, wire.Usage)
    shown.session_id = outcome.session_id
    shown.workdir = outcome.workdir or shown.workdir
    shown.branch = outcome.branch
    if full:
        shown.verify_output = outcome.verify_output
        shown.result = None if outcome.result is None else msgspec.convert(outcome.result, wire.Result)


def _show_extra(shown: wire.Job, job: Job, extra: Extra) -> None:
    shown.tier = job.tier.word  # type: ignore[assignment]
    shown.escalated_from, shown.escalated_to = extra.escalated_from, extra.escalated_to
    if extra.question is not None:
        shown.question = _question(extra.question)


def _edge(edge: Edge) -> wire.Dependency:
    return wire.Dependency(job=edge.upstream, on=edge.on.value, if_unmet=edge.if_unmet.value, state=edge.state.value)


def attempt_view(row: Attempt) -> wire.Attempt:
    return wire.Attempt(
        attempt=row.run.attempt,
        agent=row.agent,
        worker=row.run.worker,
        started_at=to_rfc3339(row.run.started_at),
        ended_at=time_view(row.ended_at),
        class_=row.failure,
        message=row.message,
        exit_code=row.exit_code,
        signal=row.signal,
        session_id=row.session_id,
        usage=None if row.usage is None else msgspec.convert(row.usage, wire.Usage),
        log_bytes=row.log_bytes,
    )


def event_view(event: Event) -> wire.Event:
    return wire.Event(
        cursor=event.cursor,
        time=to_rfc3339(event.time),
        kind=event.kind,
        job=event.job,
        attempt=event.attempt,
        from_=event.before,
        to=event.after,
        actor=event.actor,
        detail=event.detail,
    )


def seconds(duration: int | None) -> float | None:
    return None if duration is None else duration / 1e6


def time_view(at: int | None) -> str | None:
    return None if at is None else to_rfc3339(at)


def _final_reason(job: Job, outcome: Outcome) -> str:
    """A finished job's reason is how it ended."""
    if job.extra is not None and job.extra.escalated_to is not None:
        return f"escalated to job {job.extra.escalated_to}, which carries on"
    if job.status is Status.FAILED and outcome.error is not None:
        return f"{outcome.error.get('class')}: {outcome.error.get('message')}"
    if job.status is Status.EXPIRED:
        return explain.expired(job)
    return ""


def _question(question: Question) -> wire.Question:
    return wire.Question(id=question.id, text=question.text, options=list(question.options))


def _usage(ended: dict[str, Any] | None, live: Usage | None) -> wire.Usage | None:
    """Of the attempts that have ended and the one that runs."""
    used = add_usage(ended, None if live is None else asdict(live))
    return None if used is None else msgspec.convert(used, wire.Usage)


@lru_cache(maxsize=256)
def _policy(policy: Policy) -> wire.Policy:
    """Made once for each: nearly all jobs have one of a few, and it is a sixth of what a submission costs."""
    classes = sorted(RETRIED) if policy.on is None else policy.on
    return wire.Policy(
        strategy=policy.strategy.value,
        base=policy.base / 1e6,
        cap=policy.cap / 1e6,
        jitter=policy.jitter,
        max_retries=policy.max_retries,
        on=[failure.value for failure in classes],
    )
