"""What an agent's jobs may use, in tokens and in dollars: each job, and all of them in a day.

At 80 % the audit trail says so, once. At 100 % of a job's budget its attempt is ended and a person is asked; with the
answer it goes on with as much again. At 100 % of a day's, every attempt of the agent is ended so, and nothing of it
starts before the next midnight. Tokens are those that went in and came out; what was read from a cache is the
provider's own to count. An attempt may pass its budget by what it uses until it says so.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from opusd.core.job import PLAIN, Ending, Job, Question, Spent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opusd.core.decision import Decision
    from opusd.core.limits import Budget
    from opusd.core.state import State

CONTINUE: Final = "continue"
STOP: Final = "stop"
_WARN_AT: Final = 0.8
_KEPT: Final = "day:"


class Used(msgspec.Struct, frozen=True):
    tokens: int = 0
    cost: float = 0.0


class Day(msgspec.Struct, frozen=True):
    """What an agent's jobs used until the midnight `until`. `seen`: what is counted of attempts that still run."""

    until: int
    used: Used = Used()
    warned: tuple[str, ...] = ()
    seen: dict[str, Used] = {}


def measured(usage: Mapping[str, Any] | None) -> Used:
    """What a Usage of the wire comes to."""
    known = usage or {}
    tokens = (known.get("input_tokens") or 0) + (known.get("output_tokens") or 0)
    return Used(tokens, float(known.get("cost_usd") or 0.0))


# --- what happens ------------------------------------------------------------------------------------


def use(decision: Decision, job: Job, usage: Mapping[str, Any], *, final: bool = False) -> Job | None:
    """A running attempt has used so much so far; the job when its attempt is now to be ended.

    One that said so with its last word (`final`) ends by itself, and its result is kept.
    """
    budget = budget_of(decision.state, job.terms.agent)
    if budget is None or job.run is None:
        return None
    used = measured(usage)
    spent = (job.extra or PLAIN).spent or Spent()
    job = _count_day(decision, job, budget, used, running=True)
    total = Used(spent.tokens + used.tokens, spent.cost + used.cost)
    for name in _reached(_of_job(budget, spent), total, _WARN_AT):
        if name not in spent.warned:
            spent = replace(spent, warned=(*spent.warned, name))
            detail = _detail(name, _of_job(budget, spent), total)
            job = decision.put(job, job.with_extra(spent=spent), "updated", detail=detail)
    passed = _reached(_of_job(budget, spent), total, 1.0)
    if not passed or final or job.run is None or job.run.ending is not None:
        return None
    return _end(decision, job, passed[0], _job_question(job, passed[0], budget, total))


def ended(decision: Decision, job: Job, rest: Job, usage: Mapping[str, Any] | None) -> Job:
    """`rest` of a job whose attempt is over, with what it used in all."""
    budget = budget_of(decision.state, job.terms.agent)
    if budget is None:
        return rest
    used = measured(usage)
    _count_day(decision, job, budget, used, running=False)
    if used == Used():
        return rest
    spent = (rest.extra or PLAIN).spent or Spent()
    return rest.with_extra(spent=replace(spent, tokens=spent.tokens + used.tokens, cost=spent.cost + used.cost))


def passed(state: State, job: Job) -> tuple[str, str] | None:
    """The budget that a job without an attempt has used up, and the question to ask before its next one."""
    budget, spent = budget_of(state, job.terms.agent), (job.extra or PLAIN).spent
    if budget is None or spent is None:
        return None
    total = Used(spent.tokens, spent.cost)
    over = _reached(_of_job(budget, spent), total, 1.0)
    return (over[0], _job_question(job, over[0], budget, total)) if over else None


def granted(job: Job, budget: str) -> Job:
    """A person lets it go on: with as much again of a job's budget; a day's is a matter of the day."""
    spent = (job.extra or PLAIN).spent
    if spent is None or not budget.startswith("job_"):
        return job
    return job.with_extra(spent=replace(spent, grants=spent.grants + 1, warned=()))


def settle(decision: Decision) -> list[Job]:
    """End the attempts of agents whose day is used up; the jobs, for the caller to stop."""
    state, found = decision.state, []
    for agent in state.days:
        name = exhausted(state, agent, decision.now)
        if name is None:
            continue
        for job in list(state.running.values()):
            run = job.run
            if job.terms.agent == agent and run is not None and run.ending is None and run.worker is None:
                found.append(_end(decision, job, name, _day_question(state, agent, name)))
    return found


# --- what holds --------------------------------------------------------------------------------------


def exhausted(state: State, agent: str, now: int) -> str | None:
    """The day's budget that this agent has used up: nothing of it starts before `state.days[agent].until`."""
    day = state.days.get(agent)
    if day is None or now >= day.until or (budget := budget_of(state, agent)) is None:
        return None
    return next(iter(_reached(_of_day(budget), day.used, 1.0)), None)


def next_moment(state: State, now: int) -> int | None:
    """When the first of the agents that have used up their day goes on."""
    return min((day.until for agent, day in state.days.items() if exhausted(state, agent, now)), default=None)


def words(state: State, agent: str, name: str) -> str:
    """Why an agent starts nothing: `agent claude has used 1,200 tokens today and its day_tokens is 1,000`."""
    budget = budget_of(state, agent)
    assert budget is not None
    used = state.days[agent].used
    return f"agent {agent} has used {_amount(name, used)} today and its {name} is {_limit(name, _of_day(budget))}"


def budget_of(state: State, agent: str) -> Budget | None:
    known = state.limits.agents.get(agent)
    return None if known is None else known.budget


def restore(kept: Mapping[str, Any]) -> dict[str, Day]:
    """The days of the agents from the settings of the registry."""
    return {
        name.removeprefix(_KEPT): msgspec.convert(value, Day) for name, value in kept.items() if name.startswith(_KEPT)
    }


# --- within ------------------------------------------------------------------------------------------


def _of_job(budget: Budget, spent: Spent) -> dict[str, float]:
    times = 1 + spent.grants
    known = {"job_tokens": budget.job_tokens, "job_cost_usd": budget.job_cost_usd}
    return {name: limit * times for name, limit in known.items() if limit is not None}


def _of_day(budget: Budget) -> dict[str, float]:
    known = {"day_tokens": budget.day_tokens, "day_cost_usd": budget.day_cost_usd}
    return {name: limit for name, limit in known.items() if limit is not None}


def _part(name: str, used: Used) -> float:
    return used.tokens if name.endswith("tokens") else used.cost


def _reached(limits: Mapping[str, float], used: Used, share: float) -> list[str]:
    return [name for name, limit in limits.items() if _part(name, used) >= limit * share]


def _count_day(decision: Decision, job: Job, budget: Budget, used: Used, *, running: bool) -> Job:
    """Add what is new of an attempt's usage to its agent's day; totals that are told again count once."""
    limits, state, agent = _of_day(budget), decision.state, job.terms.agent
    if not limits:
        return job
    old = state.days.get(agent)
    day = old
    if day is None or decision.now >= day.until:
        day = Day(budget.days.end(decision.now), seen={} if day is None else day.seen)
    key = f"{job.id}/{job.attempts}"
    before = day.seen.get(key, Used())
    seen = Used(max(before.tokens, used.tokens), max(before.cost, used.cost))
    total = Used(day.used.tokens + seen.tokens - before.tokens, day.used.cost + seen.cost - before.cost)
    others = {name: value for name, value in day.seen.items() if name != key}
    told = [name for name in _reached(limits, total, _WARN_AT) if name not in day.warned]
    day = replace(day, used=total, warned=(*day.warned, *told), seen={**others, key: seen} if running else others)
    if day != old:
        _set(state.days, agent, day)
        decision.keep(f"{_KEPT}{agent}", msgspec.to_builtins(day), partial(_set, state.days, agent, old))
    for name in told:
        detail = {**_detail(name, limits, total), "agent": agent}
        if running:
            job = decision.put(job, job, "updated", detail=detail)
        else:
            decision.note("job.updated", job=job.id, detail=detail)
    return job


def _set(days: dict[str, Day], agent: str, day: Day | None) -> None:
    if day is None:
        days.pop(agent, None)
    else:
        days[agent] = day


def _end(decision: Decision, job: Job, name: str, text: str) -> Job:
    """Its attempt is ended as one that asks; a result that was in first is kept."""
    assert job.run is not None
    limits, number = decision.state.limits, (job.extra or PLAIN).asked + 1
    question = Question(number, text, (CONTINUE, STOP), decision.now + limits.answer_in, name)
    run = replace(job.run, ending=Ending.ASK, kill_at=decision.now + limits.grace, ending_by="scheduler")
    after = replace(job, run=run).with_extra(asked=number, question=question)
    return decision.put(job, after, "updated", detail={"asking": number, "budget": name})


def _job_question(job: Job, name: str, budget: Budget, total: Used) -> str:
    spent = (job.extra or PLAIN).spent or Spent()
    limit = _limit(name, _of_job(budget, spent))
    return f"budget {name}: this job has used {_amount(name, total)} of {limit}. Continue with as much again, or stop?"


def _day_question(state: State, agent: str, name: str) -> str:
    return f"budget {name}: {words(state, agent, name)}. Continue after midnight, or stop?"


def _detail(name: str, limits: Mapping[str, float], used: Used) -> dict[str, Any]:
    return {"budget": name, "used": round(_part(name, used), 6), "limit": limits[name]}


def _amount(name: str, used: Used) -> str:
    return _said(name, _part(name, used))


def _limit(name: str, limits: Mapping[str, float]) -> str:
    return _said(name, limits[name])


def _said(name: str, amount: float) -> str:
    return f"{int(amount):,} tokens" if name.endswith("tokens") else f"{amount:.2f} USD"
