"""Records of the core as the wire shows them. A Snapshot is what memory knew at one instant."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict

from opusd.agents.adapters.base import Usage
from opusd.api import types as wire
from opusd.core import explain
from opusd.core.attempts import add_usage
from opusd.core.job import PLAIN, Attempt, Event, Job, Outcome, Question, Spec
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


_SILENT: Final = Live()


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
    job, terms, run = seen.job, seen.job.terms, seen.job.run
    extra, said = job.extra or PLAIN, live or _SILENT
    return wire.Job(
        id=job.id,
        status=job.status.value,
        reason=seen.reason or _final_reason(job, outcome),
        title=spec.title,
        type=terms.type,
        source=terms.source.value,
        interactive=terms.interactive,
        priority=terms.tier.word,
        tier=job.tier.word,  # type: ignore[arg-type]
        boost=terms.boost,
        score=None if seen.score is None else round(seen.score, 3),
        position=seen.position,
        ahead=seen.ahead,
        agent=terms.agent,
        route=terms.route,
        worker=None if run is None else run.worker,
        key=job.key,
        group=terms.group,
        parent=job.parent,
        root=job.root,
        depth=len(job.ancestors),
        depends_on=[
            wire.Dependency(job=edge.upstream, on=edge.on.value, if_unmet=edge.if_unmet.value, state=edge.state.value)
            for edge in job.edges
        ],
        dependents=list(seen.waiting if dependents is None else dependents),
        inherits=None if seen.heir is None else wire.Inherited(tier=seen.heir.tier.word, job=seen.heir.job),  # type: ignore[arg-type]
        labels=spec.labels,
        needs=dict(terms.needs),
        cwd=spec.cwd,
        worktree=spec.worktree,
        held=job.status is Status.HELD,
        verify=spec.verify,
        timeout=seconds(terms.timeout),
        expires_in=seconds(terms.expires_in),
        max_retries=terms.retry.max_retries,
        retry=_policy(terms.retry),
        attempts=job.attempts,
        retries=job.retries,
        created_at=to_rfc3339(job.created_at),
        queued_at=time_view(job.queued_at),
        run_at=time_view(job.run_at),
        due_at=time_view(job.due_at),
        started_at=time_view(job.started_at),
        completed_at=time_view(job.completed_at),
        expires_at=time_view(seen.expires_at),
        timeout_at=None if run is None else time_view(run.timeout_at),
        progress=said.progress,
        error=None if outcome.error is None else msgspec.convert(outcome.error, wire.Failure),
        usage=_usage(outcome.usage, said.usage),
        session_id=said.session_id or outcome.session_id,
        workdir=outcome.workdir or (spec.cwd if job.attempts and not spec.worktree else None),
        branch=outcome.branch,
        question=None if extra.question is None else _question(extra.question),
        escalated_from=extra.escalated_from,
        escalated_to=extra.escalated_to,
        submitted_by=terms.submitted_by,
        version=job.version,
        prompt=spec.prompt if full else UNSET,
        command=spec.command if full else UNSET,
        env=spec.env if full else UNSET,
        payload=spec.payload if full else UNSET,
        metadata=spec.metadata if full else UNSET,
        verify_output=outcome.verify_output if full else UNSET,
        result=(None if outcome.result is None else msgspec.convert(outcome.result, wire.Result)) if full else UNSET,
    )


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
