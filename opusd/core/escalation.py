"""Chains: a job that its agent could not do is carried on by another agent, in the same transaction.

To those who wait a chain is one unfinished job until its last link ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from opusd.core.admission import checked_needs, kept_labels
from opusd.core.job import Extra, Job, Outcome, Spec, intern
from opusd.core.lifecycle import Status
from opusd.core.retry import FailureClass, retries

if TYPE_CHECKING:
    from opusd.core.decision import Decision
    from opusd.core.limits import Agent

ESCALATED: Final = frozenset(FailureClass) - {FailureClass.CANCELLED, FailureClass.RATE_LIMITED, FailureClass.LOST}
"""The classes that escalate unless `escalate_on` says otherwise."""


def wanted(agent: Agent | None, job: Job, failure: FailureClass, failures: int) -> bool:
    """Whether this failed attempt, the job's `failures`th, ends its agent's part."""
    if agent is None or agent.escalate_to is None or failure is FailureClass.CANCELLED:
        return False
    if failure not in (ESCALATED if agent.escalate_on is None else agent.escalate_on):
        return False
    if failure is FailureClass.RATE_LIMITED:
        return True
    after = agent.escalate_after
    return (after is not None and failures >= after) or not retries(job.terms.retry, failure, job.retries)


def carry_on(decision: Decision, job: Job, spec: Spec, previous: dict[str, Any], brought: Outcome) -> Job:
    """The next link: a new job of the other agent, in the old one's place; whoever waits, waits for it.

    It does not expire: the first attempt that `expires_in` asks for has been, and its time counts from the old place.
    It goes on in the worktree that the old one had: what is done there is part of what happened before.
    """
    state = decision.state
    agent = state.limits.agents[state.limits.agents[job.terms.agent].escalate_to or ""]
    terms = replace(
        job.terms,
        agent=agent.name,
        route=None,
        retry=agent.retry,
        policy=None,
        timeout=job.terms.timeout if job.terms.timeout is not None else agent.timeout,
        needs=checked_needs(state.limits, agent, dict(job.terms.needs)),
        expires_in=None,
        labels=kept_labels(agent, spec.labels),
    )
    link = Job(
        id=decision.next_id(),
        status=Status.QUEUED,
        terms=intern(terms),
        created_at=decision.now,
        queued_at=job.queued_at if job.queued_at is not None else decision.now,
        ancestors=job.ancestors,
        extra=Extra(
            escalated_from=job.id,
            skew=job.extra.skew if job.extra is not None else 0,
            tree=job.tree if spec.worktree else "",
        ),
    )
    told = replace(spec, previous=[*spec.previous, previous], digest=b"")
    place = Outcome(workdir=brought.workdir, branch=brought.branch) if spec.worktree and brought.branch else None
    detail = {"escalated_from": job.id}
    link = decision.put(None, link, "submitted", spec=told, outcome=place, detail=detail, actor="scheduler")
    for number in sorted(state.dependents.get(job.id, ())):
        waiting = state.jobs[number]
        edges = tuple(replace(edge, upstream=link.id) if edge.upstream == job.id else edge for edge in waiting.edges)
        decision.put(
            waiting, replace(waiting, edges=edges), "updated", actor="scheduler", detail={"waits_for": link.id}
        )
    return link


def words(previous: list[dict[str, Any]]) -> str:
    """What happened before, to be put before the prompt."""
    lines = ["Earlier attempts at this task failed. What is known of them:"]
    for one in previous:
        lines.append(f"- {one.get('agent')}: {one.get('class')}: {one.get('message')}")
        if one.get("output_tail"):
            lines += ["  The end of its output:", *(f"  > {line}" for line in str(one["output_tail"]).splitlines())]
    return "\n".join(lines)
