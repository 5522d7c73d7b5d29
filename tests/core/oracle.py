"""The rules of the queue again, from their definitions and without any index: slow, plain, and not opusd's code."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from opusd.core.job import EdgeState, Tier
from opusd.core.lifecycle import ALIVE, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opusd.core.job import Job
    from opusd.core.limits import Limits, Quota
    from opusd.core.state import State

CONTRACT = {
    "held": {"queued", "blocked", "scheduled", "cancelled"},
    "blocked": {"queued", "scheduled", "held", "cancelled"},
    "scheduled": {"queued", "blocked", "held", "cancelled"},
    "queued": {"running", "blocked", "scheduled", "held", "cancelled", "expired"},
    "running": {"completed", "failed", "retrying", "needs_input", "queued", "cancelling"},
    "cancelling": {"cancelled", "held", "completed"},
    "needs_input": {"queued", "cancelled", "expired"},
    "retrying": {"queued", "held", "cancelled"},
    "completed": set(),
    "failed": {"queued", "blocked", "scheduled"},
    "cancelled": {"queued", "blocked", "scheduled"},
    "expired": {"queued", "blocked", "scheduled"},
}
"""The table of section 3, word for word."""


def waiters(jobs: dict[int, Job]) -> dict[int, set[int]]:
    """For each job the blocked jobs that wait for it, over any number of steps."""
    direct: dict[int, set[int]] = {}
    for job in jobs.values():
        if job.status is Status.BLOCKED:
            for edge in job.edges:
                if edge.state is EdgeState.PENDING:
                    direct.setdefault(edge.upstream, set()).add(job.id)
    found: dict[int, set[int]] = {}
    for number in direct:
        todo, seen = [number], set()
        while todo:
            for waiter in direct.get(todo.pop(), ()):
                if waiter not in seen:
                    seen.add(waiter)
                    todo.append(waiter)
        found[number] = seen
    return found


def standing(job: Job, waiting: Iterable[Job], state: State, now: int) -> tuple[Fraction, Fraction, int, int]:
    """Sorts as section 4 says: critical first come first served; then by score, older queued_at, id."""
    points = state.limits.points
    waiting = list(waiting)
    tier = max([job.terms.tier, *(waiter.terms.tier for waiter in waiting)])
    if tier is Tier.CRITICAL:
        since = _since(job)
        if job.terms.tier is not Tier.CRITICAL:
            since = min(_since(waiter) for waiter in waiting if waiter.terms.tier is Tier.CRITICAL)
        return Fraction(-1), Fraction(since), 0, job.id
    base = {Tier.LOW: points.low, Tier.NORMAL: points.normal, Tier.URGENT: points.urgent}[tier]
    score = base + job.terms.boost + Fraction(points.rate * (now - _since(job)), 3_600_000_000)
    return Fraction(0), -score, _since(job), job.id


def _since(job: Job) -> int:
    """When it became ready, had the wall's clock never jumped."""
    at = job.queued_at if job.queued_at is not None else job.created_at
    return at - (job.extra.skew if job.extra is not None else 0)


def in_order(state: State, jobs: dict[int, Job], now: int) -> list[int]:
    """Every queued job, the best first."""
    waiting = waiters(jobs)
    queued = [job for job in jobs.values() if job.status is Status.QUEUED]
    return [
        job.id
        for job in sorted(queued, key=lambda job: standing(job, [jobs[w] for w in waiting.get(job.id, ())], state, now))
    ]


def next_start(state: State, jobs: dict[int, Job], now: int, reserved: int | None) -> tuple[int, bool] | None:
    """The job that starts next and whether above the pool, looking at every queued job in order."""
    running = [job for job in jobs.values() if job.status in ALIVE]
    own = [job for job in running if job.run and job.run.worker is None]
    plain = [job for job in own if job.run and not job.run.over and job.id not in state.lent]
    over = [job for job in running if job.run and job.run.over and job.id not in state.lent]
    if state.draining or "*" in state.pauses.names:
        return None
    order = in_order(state, jobs, now)
    for place, number in enumerate(order):
        job = jobs[number]
        agent = job.terms.agent
        if not stands_in_line(state, job, now) or _lacks(state, job, jobs, reserved in order[:place], reserved):
            continue
        if len(plain) < state.max_concurrent and sum(1 for o in plain if o.terms.agent == agent) < state.slots[agent]:
            return number, False
        if job.terms.interactive and len(over) < state.limits.interactive_slots:
            return number, True
    return None


def next_claim(
    state: State, jobs: dict[int, Job], now: int, reserved: int | None, fits: Callable[[Job], bool]
) -> int | None:
    """The job that a claim gets, looking at every queued job in order."""
    if state.draining or "*" in state.pauses.names:
        return None
    order = in_order(state, jobs, now)
    for place, number in enumerate(order):
        job = jobs[number]
        if state.limits.agents[job.terms.agent].slots or not fits(job) or not _is_let(state, job, now):
            continue
        if not _lacks(state, job, jobs, reserved in order[:place], reserved):
            return number
    return None


def _lacks(state: State, job: Job, jobs: dict[int, Job], behind: bool, reserved: int | None) -> bool:
    """Whether a quota or a need keeps it; what a job reserves is kept from those that stand behind it."""
    running = [other for other in jobs.values() if other.status in ALIVE]
    kept = dict(jobs[reserved].terms.needs) if behind and reserved is not None else {}
    return any(
        sum(1 for other in running if holds(other) and other.id not in state.lent) >= quota.max_running
        for quota, holds in quotas(state.limits, job)
    ) or any(
        amount
        > state.limits.capacities.get(name, 1)
        - kept.get(name, 0)
        - sum(dict(other.terms.needs).get(name, 0) for other in running)
        for name, amount in job.terms.needs
    )


def quotas(limits: Limits, job: Job) -> list[tuple[Quota, Callable[[Job], bool]]]:
    """The quotas that hold a job, each with whom it counts."""
    found: list[tuple[Quota, Callable[[Job], bool]]] = []
    terms = job.terms
    if terms.group in limits.groups:
        found.append((limits.groups[terms.group], lambda other: other.terms.group == terms.group))
    if not terms.interactive and terms.source in limits.sources:
        quota = limits.sources[terms.source]
        found.append((quota, lambda other: other.terms.source == terms.source and not other.terms.interactive))
    if not terms.interactive and limits.submitter is not None:
        found.append((limits.submitter, lambda other: _by(other) == _by(job) and not other.terms.interactive))
    return found


def _by(job: Job) -> str:
    """A person, or the tree whose agents submitted it."""
    by = job.terms.submitted_by
    return f"job:{job.root}" if by.startswith("job:") else by


def stands_in_line(state: State, job: Job | None, now: int) -> bool:
    """Whether nothing that a person did, and no hours, keep this queued job from running."""
    if job is None or job.status is not Status.QUEUED or not state.slots.get(job.terms.agent):
        return False
    return _is_let(state, job, now)


def _is_let(state: State, job: Job, now: int) -> bool:
    names = {f"agent:{job.terms.agent}", f"group:{job.terms.group}"}
    shut = {name for name in names & state.limits.hours.keys() if not state.limits.hours[name].at(now)[0]}
    return not names & state.pauses.names and (job.terms.interactive or not shut)
