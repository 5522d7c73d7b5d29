"""Why a job is where it is: constraints as data, and the same in words. One function serves `reason` and job.why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from opusd.core import breather, budgets, cooling, quotas, scheduler
from opusd.core.job import EdgeState, Ending, Job, Run
from opusd.core.lifecycle import Status
from opusd.core.order import job_of
from opusd.core.times import format_duration, to_rfc3339

if TYPE_CHECKING:
    from opusd.core.state import State


class Constraint(msgspec.Struct, frozen=True):
    """`until` is when it ends, in microseconds, where that is known."""

    kind: str
    detail: str
    until: int | None = None


_MOST_EDGES: Final = 20


def constraints(state: State, job: Job, now: int, ahead: int | None = None) -> list[Constraint]:
    """What keeps a job from running, most telling first; empty when it may start at the next turn, runs or has ended.

    Of those that run one that a worker holds says who has it and until when; of those that have ended one that
    expired says why, for no attempt of it does. `ahead`: of a queued job, where that is known already.
    """
    match job.status:
        case Status.QUEUED:
            return _queued(state, job, now, ahead)
        case Status.HELD:
            return [Constraint("held", "held until somebody releases it")]
        case Status.BLOCKED:
            return [*_edges(state, job)] or [Constraint("blocked", "waits for a dependency")]
        case Status.SCHEDULED:
            when = "its run_at" if job.run_at is None else to_rfc3339(job.run_at)
            return [Constraint("scheduled", f"not before {when}", job.run_at)]
        case Status.RETRYING:
            what = f"waits for retry {job.retries} of {job.terms.retry.max_retries}"
            return [Constraint("backoff", what, job.due_at)]
        case Status.NEEDS_INPUT:
            question = None if job.extra is None else job.extra.question
            words = "" if question is None else f": {question.text[:200]}"
            return [
                Constraint(
                    "needs_input", f"waits for a person's answer{words}", None if question is None else question.until
                )
            ]
        case Status.CANCELLING:
            return [_ending(job)]
        case Status.RUNNING if job.run is not None and job.run.ending is not None:
            return [_ending(job)]
        case Status.RUNNING if job.run is not None and job.run.worker is not None:
            return [_held(job.run)]
        case Status.EXPIRED:
            return [Constraint("expired", expired(job))]
        case _:
            return []


def reason(state: State, job: Job, now: int, ahead: int | None = None) -> str | None:
    """The constraints in words; None for a job that runs or is finished."""
    if job.final or job.status is Status.RUNNING:
        return None
    found = constraints(state, job, now, ahead)
    return "; ".join([constraint.detail for constraint in found[:3]]) if found else "starts at the next turn"


def expired(job: Job) -> str:
    """Why an expired job gave up, and when: it waited for a person's answer, or for its first attempt."""
    question = None if job.extra is None else job.extra.question
    if question is not None:
        by = question.until if question.until is not None else job.completed_at
        return f"nobody answered its question{_at(' by ', by)}: {question.text[:200]}"
    within = "its expires_in" if job.terms.expires_in is None else format_duration(job.terms.expires_in)
    ready = _at(" of being ready at ", job.queued_at)
    return f"no attempt had begun within {within}{ready} (expires_in)"


def _at(word: str, moment: int | None) -> str:
    return "" if moment is None else f"{word}{to_rfc3339(moment)}"


def _ending(job: Job) -> Constraint:
    run = job.run
    assert run is not None
    goal = {
        Ending.CANCEL: ", then the job is cancelled",
        Ending.HOLD: ", then the job is held",
        Ending.TIMEOUT: " because it timed out",
        Ending.PUT_BACK: " because the daemon stops",
    }
    words = goal.get(run.ending, "") if run.ending is not None else ""
    detail = f"attempt {run.attempt} is being ended{words}"
    if run.worker is None:
        return Constraint("cancelling", detail, run.kill_at)
    told = f"worker {run.worker} is told by its next heartbeat, and its lease is not renewed"
    return Constraint("cancelling", f"{detail}: {told}", run.lease_until)


def _held(run: Run) -> Constraint:
    if run.lease_until is None:
        return Constraint("lease", f"the lease of worker {run.worker} is over: the job is put back")
    until = to_rfc3339(run.lease_until)
    return Constraint("lease", f"worker {run.worker} holds it until {until}, or longer if it says so", run.lease_until)


def _edges(state: State, job: Job) -> list[Constraint]:
    found = []
    for edge in [edge for edge in job.edges if edge.state is not EdgeState.SATISFIED][:_MOST_EDGES]:
        upstream = state.jobs.get(edge.upstream)
        what = {"success": "to complete", "failure": "to fail", "any": "to end"}[edge.on.value]
        if edge.state is EdgeState.UNMET:
            found.append(
                Constraint(
                    "dependency_unmet", f"job {edge.upstream} had {what} and did not: retry it, or cancel this job"
                )
            )
        else:
            status = "" if upstream is None else f", which is {upstream.status}"
            found.append(Constraint("dependency", f"waits for job {edge.upstream}{status}, {what}"))
    return sorted(found, key=lambda constraint: constraint.kind != "dependency_unmet")


def _queued(state: State, job: Job, now: int, ahead: int | None) -> list[Constraint]:
    found = _paused(state, job, now)
    found += _hours(state, job, now)
    found += _agent(state, job, now)
    found += _resources(state, job, now)
    found += _pool(state, job)
    if not found:
        return found
    if ahead is None:
        ahead = state.position(job)[1]
    if ahead:
        found.append(Constraint("order", f"{ahead} {'jobs go' if ahead > 1 else 'job goes'} before it"))
    return found


def _paused(state: State, job: Job, now: int) -> list[Constraint]:
    found: list[Constraint] = []
    if state.draining:
        found.append(Constraint("draining", "the daemon is shutting down: nothing new starts"))
    if state.slots.get(job.terms.agent):
        if state.breather is not None and now < state.breather.until:
            found.append(Constraint("machine", breather.words(state.breather), state.breather.until))
        found += [Constraint("machine", words) for words in state.short]
    if not state.pauses.names:
        return found
    if state.pauses.everything():
        found.append(Constraint("paused", "the queue is paused"))
    if state.pauses.agent(job.terms.agent):
        found.append(Constraint("paused", f"agent {job.terms.agent} is paused"))
    if state.pauses.group(job.terms.group):
        found.append(Constraint("paused", f"group {job.terms.group} is paused"))
    return found


def _hours(state: State, job: Job, now: int) -> list[Constraint]:
    """Outside its agent's or its group's window it waits for the next opening, a human's message aside."""
    windows = state.windows
    if not windows.hours:
        return []
    windows.refresh(state, now)
    if job.terms.interactive or not windows.shut:
        return []
    names = [f"agent:{job.terms.agent}", f"group:{job.terms.group}"]
    return [
        Constraint("window", f"{name.replace(':', ' ', 1)} runs {windows.hours[name]}", windows.shut[name])
        for name in names
        if name in windows.shut
    ]


def _agent(state: State, job: Job, now: int) -> list[Constraint]:
    name = job.terms.agent
    if name not in state.slots:
        return [
            Constraint("agent", f"agent {name} is not configured any more: configure it, or give the job another agent")
        ]
    budget = budgets.exhausted(state, name, now)
    if budget is not None:
        return [Constraint("budget", budgets.words(state, name, budget), state.days[name].until)]
    limit = state.cooling.get(name)
    if limit is not None and now < limit.until:
        return [Constraint("cooling", f"agent {name} cools down after a rate limit", limit.until)]
    if limit is not None and limit.probe is not None:
        words = f"job {limit.probe} goes first, to see whether the rate limit of agent {name} is over"
        return [Constraint("cooling", words, None if limit.since is None else limit.since + cooling.PROBE)]
    spread = scheduler.spread_until(state, name)
    if spread is not None and spread > now:
        return [Constraint("starts_per_minute", f"agent {name} starts so many jobs a minute and no more", spread)]
    slots = state.slots[name]
    if not slots and state.limits.agents[name].slots:
        words = f"agent {name} is resized to 0 slots: `opusctl resize N --agent {name}` gives it some"
        return [Constraint("slots", words)]
    if not slots:
        return [Constraint("worker", f"waits for a worker to claim it: agent {name} has no slots of its own")]
    busy = state.agent_busy(name)
    if busy >= slots and not _above(state, job):
        return [Constraint("slots", f"all {slots} slots of agent {name} are busy")]
    return []


def _pool(state: State, job: Job) -> list[Constraint]:
    if not state.slots.get(job.terms.agent):
        return []
    if state.pool_busy() < state.max_concurrent or _above(state, job):
        return []
    if state.max_concurrent:
        return [Constraint("pool", f"all {state.max_concurrent} slots of the pool are busy")]
    return [Constraint("pool", "the pool is resized to 0 slots: `opusctl resize N` gives it some")]


def _above(state: State, job: Job) -> bool:
    """Whether a slot above the pool and the agent's own is free for this job."""
    return job.terms.interactive and state.interactive_busy() < state.limits.interactive_slots


def _resources(state: State, job: Job, now: int) -> list[Constraint]:
    terms, found = job.terms, []
    for account in state.accounts.binding(job):
        if quotas.exhausted(state, account):
            limit, kind = state.accounts.quota(account).max_running, account.partition(":")[0]
            words = f"{quotas.words(account)} has its {limit} jobs running ({quotas.key(account, 'max_running')})"
            found.append(Constraint("group" if kind == "group" else "quota", words))
    for name, amount in terms.needs:
        free = state.limits.capacity(name) - state.held_needs[name]
        if free < amount:
            holders = [str(other.id) for other in state.running.values() if name in dict(other.terms.needs)]
            found.append(
                Constraint("needs", f"needs {amount} of {name}, {free} free: held by job {', '.join(holders[:5])}")
            )
    reservation = None if found or state.first is None else scheduler.reservation(state, now)
    if reservation is not None and (key := state.rank_key(job)) > reservation:
        missing = scheduler.lacking(state, state.signature(job), reservation, key)
        if missing is not None:
            found.append(
                Constraint("reserved", f"{missing.partition(':')[2]} is reserved for job {job_of(reservation)}")
            )
    return found


def estimated_wait(state: State, agent: str, ahead: int, median: int | None) -> int | None:
    """Microseconds until a job with so many before it starts, from the median run time; None when unknown."""
    slots = min(state.slots.get(agent, 0), state.max_concurrent)
    if not slots:
        return None
    free = max(0, slots - state.agent_busy(agent)) if state.pool_busy() < state.max_concurrent else 0
    rounds = max(0, ahead + 1 - free)
    if not rounds:
        return 0
    return None if median is None else -(-rounds // slots) * median
