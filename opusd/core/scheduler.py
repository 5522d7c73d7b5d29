"""What is due now, and when something is due next. `tick` decides; the caller commits and acts.

Dispatch takes the best queued job that may be placed. A job that can't be placed holds no slot and keeps
back none that can, except that one that was first in order for `reserve_after` reserves its needs.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from opusd.core import attempts, breather, budgets, cooling, quotas, room, windows
from opusd.core.job import Job
from opusd.core.lifecycle import Status, Step
from opusd.core.order import job_of
from opusd.core.times import MINUTE, to_rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.decision import Decision
    from opusd.core.job import Change
    from opusd.core.ready import Signature
    from opusd.core.state import State

MAX_DUE: Final = 1000
"""Jobs that time changes in one tick, so that a crowd that is due at once does not stop the loop."""
MAX_STARTS: Final = 16
"""Jobs that start in one tick, for the same reason: each costs some 30 us, and 150 beside a thousand that run."""


class Plan(msgspec.Struct):
    """What the caller does once the decision is on disk. `wake_at`: when to tick again; None: after a change.

    `lapsed`: the leases of these are over; their attempts are to be ended as lost.
    """

    start: list[Job] = []
    stop: list[Job] = []
    lapsed: list[Job] = []
    wake_at: int | None = None


def tick(decision: Decision, mint: Callable[[], tuple[str, bytes]]) -> Plan:
    """Everything that time changes up to now, then the starts that there is room for; of a crowd the first ones.

    `mint` gives a fresh attempt id and the hash of a fresh token.
    """
    plan = Plan()
    state = decision.state
    cooling.settle(decision)
    room.settle(decision)
    plan.stop += budgets.settle(decision)
    for _ in range(MAX_DUE):
        due = state.next_due()
        if due is None or due[0] > decision.now:
            break
        _due(decision, due[1], plan)
    while len(plan.start) < MAX_STARTS and (choice := choose(state, decision.now)) is not None:
        job, over = choice
        attempt_id, token_hash = mint()
        state.last_start[job.terms.agent] = decision.now
        plan.start.append(attempts.start(decision, job, attempt_id=attempt_id, token_hash=token_hash, over=over))
    due = state.next_due()
    moments = [due[0]] if due is not None else []
    if len(plan.start) == MAX_STARTS:
        moments.append(decision.now)
    if (paused := breather.until(state, decision.now)) is not None:
        moments.append(paused)
    if state.short and state.queued():
        moments.append(decision.now + room.AGAIN)
    moment = cooling.next_moment(state, decision.now)
    spread = [spread_until(state, name) for name, lane in state.lanes.items() if len(lane.order)]
    moments += [
        at
        for at in (moment, budgets.next_moment(state, decision.now), state.windows.next_moment(), *spread)
        if at is not None and at > decision.now
    ]
    plan.wake_at = min(moments, default=None)
    return plan


def stirs(decision: Decision, until: int | None) -> bool:
    """Whether a tick may find something to do because of this decision; if not, the next is at `until`, as planned.

    What workers submit, claim and end concerns those alone who claim it, and they are served with the decision
    itself: a tick for each would be a third of what it costs.
    """
    return bool(decision.settings) or any(_stirs(decision.state, change, until) for change in decision.changes)


def _stirs(state: State, change: Change, until: int | None) -> bool:
    job, before = change.after, change.before
    terms = job.terms
    agent = state.limits.agents.get(terms.agent)
    if agent is None or agent.slots or state.slots.get(terms.agent) or agent.starts_per_minute is not None:
        return True
    if job.edges or (before is not None and before.edges):
        return True  # what it waits for may stand elsewhere in line now
    if before is not None:
        if before.terms is not terms or terms.needs or state.accounts.of(job):
            return True  # what it had, others may take
        if before.run is not None and before.run.worker is None:
            return True  # begun when its agent had slots: it is in the pool
    due = state.due(job)
    return due is not None and (until is None or due < until)


def _due(decision: Decision, job: Job, plan: Plan) -> None:
    match job.status:
        case Status.QUEUED:
            expires_at = decision.state.expires_at(job)
            detail = {"expires_at": None if expires_at is None else to_rfc3339(expires_at)}
            gone = decision.put(
                job, decision.step(job, Step.EXPIRE, completed_at=decision.now), "expired", detail=detail
            )
            decision.settle(gone)
        case Status.SCHEDULED:
            decision.place(job, job)
        case Status.RETRYING:
            queued_at = job.queued_at if job.queued_at is not None else decision.now
            decision.put(job, decision.step(job, Step.QUEUE, due_at=None, queued_at=queued_at), "queued")
        case Status.NEEDS_INPUT:
            gone = decision.step(job, Step.EXPIRE, completed_at=decision.now)
            decision.settle(decision.put(job, gone, "expired", detail={"question": "nobody answered in time"}))
        case _ if job.run is not None and job.run.lease_until is not None and job.run.lease_until <= decision.now:
            plan.lapsed.append(attempts.lapse(decision, job))
        case _:
            plan.stop.append(attempts.time_out(decision, job, decision.state.limits.grace))


def choose(state: State, now: int) -> tuple[Job, bool] | None:
    """The best job that may start, and whether it sits in an interactive slot above the pool."""
    state.windows.refresh(state, now)
    reserved = reserve(state, now)
    if state.draining or state.pauses.everything() or not state.statuses[Status.QUEUED]:
        return None
    if state.short or breather.until(state, now) is not None:
        return None
    busy: Counter[str] = Counter()
    over = pool = 0
    for job in state.pushed.values():
        if state.takes_slot(job):
            pool += 1
            busy[job.terms.agent] += 1
        elif job.run is not None and job.run.over and job.id not in state.lent:
            over += 1
    free = pool < state.max_concurrent
    over_free = over < state.limits.interactive_slots
    if not free and not over_free:
        return None

    def lacks(signature: Signature, key: int) -> str | None:
        return lacking(state, signature, None if key == reserved else reserved, key)

    best: int | None = None
    above = False
    for name, lane in state.lanes.items():
        if not len(lane.order) or not is_open(state, name, now, interactive=True):
            continue
        outside = windows.holds(state, name)
        has_slot = free and busy[name] < state.slots[name]
        if not has_slot and not over_free:
            continue
        key = lane.best(lacks, interactive_only=outside or not has_slot)
        if key is not None and (best is None or key < best):
            best, above = key, not has_slot
    return None if best is None else (state.jobs[job_of(best)], above)


def is_open(state: State, agent: str, now: int, *, interactive: bool = False) -> bool:
    """Whether the daemon itself may start this agent's jobs now, slots aside; hours do not hold `interactive` ones."""
    return bool(state.slots.get(agent)) and may_start(state, agent, now, interactive=interactive)


def may_start(state: State, agent: str, now: int, *, interactive: bool = False) -> bool:
    """Whether anybody, a worker too, may start this agent's jobs now."""
    state.windows.refresh(state, now)
    if not interactive and windows.holds(state, agent):
        return False
    if state.pauses.agent(agent) or cooling.closed(state, agent, now):
        return False
    if budgets.exhausted(state, agent, now) is not None:
        return False
    moment = spread_until(state, agent)
    return moment is None or moment <= now


def spread_until(state: State, agent: str) -> int | None:
    """With starts_per_minute: when the next start is due, counted from the last one."""
    last = state.last_start.get(agent)
    if last is None:
        return None
    known = state.limits.agents.get(agent)
    if known is None or known.starts_per_minute is None:
        return None
    return last + MINUTE // known.starts_per_minute


def lacking(state: State, signature: Signature, reserved: int | None = None, key: int = 0) -> str | None:
    """The name of the first thing that a job of this signature lacks beside slots, or None."""
    if (shut := _shut(state, signature)) is not None:
        return shut
    for account in signature.quotas:
        if quotas.exhausted(state, account):
            return f"quota:{account}"
    kept: dict[str, int] = {}
    if reserved is not None and key > reserved and signature.needs:
        kept = dict(state.jobs[job_of(reserved)].terms.needs)
    for name, amount in signature.needs:
        if state.limits.capacity(name) - state.held_needs[name] - kept.get(name, 0) < amount:
            return f"need:{name}"
    return None


def reservation(state: State, now: int) -> int | None:
    """The key of the job that was first in order long enough to reserve what it needs, if there is one."""
    if state.first is None or now - state.first[1] < state.limits.reserve_after:
        return None
    job = state.jobs.get(state.first[0])
    return state.rank_key(job) if job is not None and _stands_in_line(state, job, now) else None


def reserve(state: State, now: int) -> int | None:
    """`reservation`, after taking note of who is first in order now.

    Whoever reserves does so until it starts or may no longer: others may come before it meanwhile.
    """
    holder = None if state.reserved is None else state.jobs.get(job_of(state.reserved[0]))
    if holder is None or not _stands_in_line(state, holder, now):
        first = _first(state, now)
        if first is None or state.first is None or state.first[0] != first:
            state.first = None if first is None else (first, now)
    key = reservation(state, now)
    reserved = None if key is None else (key, state.jobs[job_of(key)].terms.needs)
    if state.reserved is not None and state.reserved != reserved:
        for name, _ in state.reserved[1]:
            state.wake(f"need:{name}")
    state.reserved = reserved
    return key


def _stands_in_line(state: State, job: Job, now: int) -> bool:
    if job.status is not Status.QUEUED or not is_open(state, job.terms.agent, now, interactive=job.terms.interactive):
        return False
    return _shut(state, state.signature(job)) is None


def _first(state: State, now: int) -> int | None:
    """The first job in order of those that nobody has paused and that are within their hours."""
    keys = []
    for name, lane in state.lanes.items():
        if is_open(state, name, now, interactive=True):
            keys.append(lane.first(partial(_shut, state), interactive_only=windows.holds(state, name)))
    found = [key for key in keys if key is not None]
    return job_of(min(found)) if found else None


def _shut(state: State, signature: Signature, key: int = 0) -> str | None:
    """The name of what keeps the jobs of this signature from being begun: a pause or the hours of their group."""
    del key
    group = signature.group
    if group is None:
        return None
    name = f"group:{group}"
    shut = state.pauses.group(group) or (not signature.interactive and name in state.windows.shut)
    return name if shut else None
