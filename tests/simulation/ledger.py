"""What the contract lets become of each job, reckoned from what was seen to happen to it and from nothing else.

Every change of every job passes here. The numbers of retries, losses, limits and failures are counted again, delays are
computed again, and the state after an attempt is foretold from how it ended.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.core.job import EdgeState, Ending, IfUnmet, On
from opusd.core.lifecycle import TRANSITIONS, Status
from opusd.core.retry import FailureClass, Strategy
from tests.core import oracle
from tests.core.world import HOUR, MINUTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.attempts import End
    from opusd.core.job import Change, Event, Job
    from opusd.core.limits import Agent, Limits
    from opusd.core.retry import Policy
    from tests.core.world import World

STEPS = {(before.value, after.value) for (before, _), after in TRANSITIONS.items()}
CONTRACT = {(before, after) for before, others in oracle.CONTRACT.items() for after in others}
FINAL = ("completed", "failed", "cancelled", "expired")
READY = ("queued", "running", "cancelling", "needs_input", "retrying")
"""What was made ready once, and keeps its place."""
NEVER_RETRIED = ("auth", "config", "cancelled", "rate_limited", "lost")
NOT_ESCALATED = ("cancelled", "rate_limited", "lost")
ALLOWANCE = 2
"""Microseconds that rounding may make."""


class Record(msgspec.Struct):
    """Moments are in steady time: what a clock shows that nobody sets."""

    made: int
    ready: int | None = None
    retries: int = 0
    failures: int = 0
    losses: int = 0
    limits: int = 0
    attempts: int = 0
    started: int = 0
    due: tuple[int, int] | None = None
    asked_until: int | None = None
    answered: bool = False
    ends: list[str] = []  # every final state that it had
    next_link: int | None = None
    retried: bool = False  # by a person, and be it that its dependencies can't be met
    parked: bool = False  # its agent's auto_resume is off, and it met a limit


class Ledger:
    def __init__(self, world: World, rules: Limits, steady: Callable[[], int]) -> None:
        self.world, self.rules, self.steady = world, rules, steady
        self.of: dict[int, Record] = {}
        self.seen: Counter[str] = Counter()
        self.report: End | None = None  # how the attempt that is being ended did
        self.person = False  # a person's retry is being decided
        self.links: dict[int, int] = {}  # a link that was made -> the job that it carries on for
        self.cursor = 0
        self.up_since = 0  # since when the daemon runs: what was due before is late
        self.started: Callable[[Job, Job], None] = nothing
        self.limited: Callable[[Job, End], None] = nothing
        self.probed: Callable[[Job, bool], None] = nothing

    def watch(self, change: Change) -> None:
        before, after, event = change.before, change.after, change.event
        if event is not None:
            self.number(before, after, event)
        if before is None:
            self.create(after, change)
        else:
            self.follow(before, after, change)
        record = self.of[after.id]
        if after.status.value in FINAL and (before is None or before.status is not after.status):
            record.ends.append(after.status.value)
        if after.status.value not in READY and after.status.value not in FINAL:
            record.ready = None

    # --- conservation -----------------------------------------------------------------------------

    def number(self, before: Job | None, after: Job, event: Event) -> None:
        assert event.cursor > self.cursor, "the audit trail goes back"
        self.cursor = event.cursor
        assert (event.job, event.after) == (after.id, after.status)
        assert event.before == (None if before is None else before.status)
        self.seen[event.kind] += 1

    def create(self, job: Job, change: Change) -> None:
        known = self.world.known
        assert job.id not in known, f"job {job.id} was made twice"
        assert job.id == len(known) + 1, "an id was left out"
        assert job.version == 1
        assert job.key is None or all(other.key != job.key for other in known.values())
        now = self.steady()
        self.of[job.id] = Record(made=now, ready=now if job.status is Status.QUEUED else None)
        if job.extra is not None and job.extra.escalated_from is not None:
            self.carry_on(job, job.extra.escalated_from, change)

    def follow(self, before: Job, after: Job, change: Change) -> None:
        assert self.world.known[after.id] is before, "a change that does not begin with what is"
        assert after.version == before.version + 1
        step = before.status.value, after.status.value
        assert step[0] == step[1] or step in STEPS & CONTRACT, f"{step[0]} became {step[1]}"
        record = self.of[after.id]
        by_person = change.event is not None and change.event.actor.startswith("user:")
        if record.parked or (after.status is Status.HELD and step[0] != "held"):
            assert (after.status is Status.HELD) is (record.parked or by_person), f"auto_resume: {after.status}"
        record.parked = False
        if before.run is not None and after.run is None and before.status.value in ("running", "cancelling"):
            self.end(before, after, record)
        elif step == ("queued", "running"):
            self.start(before, after, record)
        elif step[0] != step[1]:
            self.move(before, after, record)
        if after.run is not None and before.run is not None:
            assert after.run.attempt_id == before.run.attempt_id
            self.ending(before, after, record)

    # --- between attempts ---------------------------------------------------------------------------

    def move(self, before: Job, after: Job, record: Record) -> None:
        now, old, new = self.steady(), before.status.value, after.status.value
        if new == "queued":
            if old == "retrying":
                self.due(record)
            elif old == "needs_input":
                record.answered = True
                assert record.asked_until is not None
                assert now <= record.asked_until, "answered when it had expired"
            else:
                record.ready = now
            if old == "scheduled":
                assert after.run_at is None or after.run_at <= self.world.now
        if new == "expired":
            self.expire(before, record)
        if old in FINAL:
            assert not before.escalated, "a link of a chain was retried"
            record.retried = True
        if old in FINAL or (old == "retrying" and self.person):
            record.retries = record.failures = record.losses = record.limits = 0
            record.due = None
        if new == "cancelled":
            assert not before.escalated

    def due(self, record: Record) -> None:
        """A backoff is over: at its moment, not before and not later than the daemon could."""
        if self.person:
            return
        assert record.due is not None
        low, high = record.due
        now = self.steady()
        assert now >= low - ALLOWANCE, f"a retry {low - now} us early"
        assert now <= max(high, self.up_since) + ALLOWANCE, f"a retry {now - high} us late"
        self.seen["retry at its moment"] += 1

    def expire(self, before: Job, record: Record) -> None:
        now = self.steady()
        if before.status is Status.NEEDS_INPUT:
            assert record.asked_until is not None
            assert now == max(record.asked_until, self.up_since)
            self.seen["question expired"] += 1
            return
        assert record.ready is not None
        assert before.terms.expires_in is not None
        assert not record.attempts
        assert now >= record.ready + before.terms.expires_in, "expired early"
        self.seen["expired unstarted"] += 1

    # --- attempts -----------------------------------------------------------------------------------

    def start(self, before: Job, after: Job, record: Record) -> None:
        assert before.run is None, "two attempts at once"
        assert after.run is not None
        record.attempts += 1
        assert after.run.attempt == after.attempts == record.attempts
        for edge in after.edges:
            assert edge.state is EdgeState.SATISFIED
            assert self.met(edge.upstream, edge.on, edge.if_unmet), f"job {after.id} started before its dependencies"
        self.started(before, after)
        record.started = self.steady()
        record.answered = False

    def met(self, upstream: int, on: On, if_unmet: IfUnmet) -> bool:
        ends = self.of[upstream].ends
        wanted = {On.SUCCESS: "completed", On.FAILURE: "failed"}
        return wanted[on] in ends or (if_unmet is IfUnmet.RUN and bool(ends)) if on in wanted else bool(ends)

    def ending(self, before: Job, after: Job, record: Record) -> None:
        """An attempt that the daemon ends for its time had that, and no more."""
        assert before.run is not None
        assert after.run is not None
        if after.run.ending is Ending.TIMEOUT and before.run.ending is None:
            assert after.terms.timeout is not None
            moment = record.started + after.terms.timeout
            assert self.steady() == max(moment, self.up_since), "ended at another time than its timeout"
        if after.run.ending is Ending.ASK and before.run.ending is None:
            record.asked_until = self.steady() + self.rules.answer_in

    def end(self, before: Job, after: Job, record: Record) -> None:
        """What becomes of a job is foretold from how its attempt ended."""
        report, run = self.report, before.run
        assert report is not None, "an attempt ended that nobody ended"
        assert run is not None
        failure = None if report.failure is None else report.failure.value
        kept = failure is None and report.first
        if run.ending is not None and not kept:
            words = {Ending.TIMEOUT: "timeout", Ending.STALL: "stalled", Ending.ASK: None}
            failure = words.get(run.ending, "cancelled")
        own = run.ending in (None, Ending.TIMEOUT, Ending.STALL) or kept
        self.seen[f"ended: {failure}"] += 1
        self.probed(before, failure is None)
        expected = self.outcome(before, failure, report, record, own=own)
        if after.status is Status.NEEDS_INPUT and expected in ("queued", "retrying"):
            question = after.extra and after.extra.question
            assert question, "a job waits for an answer to no question"
            assert question.budget, "a job waits for an answer that it did not ask"
            expected = "needs_input"
            record.asked_until = self.steady() + self.rules.answer_in
            self.seen["budget used up"] += 1
        assert after.status.value == expected, f"job {after.id}: {failure} made it {after.status}, not {expected}"
        if expected != "retrying":
            assert after.due_at is None
        if expected == "queued":
            assert after.queued_at == before.queued_at, "put back, it lost its place"
        record.parked = (expected, failure) == ("queued", "rate_limited") and not self.agent(before).auto_resume
        self.seen["parked"] += record.parked
        if expected == "needs_input" and report.question is not None:
            record.asked_until = self.steady() + self.rules.answer_in

    def outcome(self, before: Job, failure: str | None, report: End, record: Record, *, own: bool) -> str:
        run, status = before.run, before.status
        assert run is not None
        asked = report.question is not None and status is Status.RUNNING
        by_budget = before.extra is not None and before.extra.question is not None and before.extra.question.budget
        done = report.failure is None and not asked
        if asked or (run.ending is Ending.ASK and not (by_budget and done)):
            return "needs_input"
        if failure is None:
            return "completed"
        if status is Status.CANCELLING:
            return "held" if run.ending is Ending.HOLD else "cancelled"
        if report.never_ran or not own:
            return "queued"
        if failure not in ("lost", "rate_limited"):
            record.limits = 0
        return self.failed(before, failure, report, record)

    def failed(self, before: Job, failure: str, report: End, record: Record) -> str:
        if failure not in ("lost", "rate_limited"):
            record.failures += 1
        if failure == "rate_limited":
            self.limited(before, report)
            record.limits += 1
        if self.escalates(before, failure, record):
            link = next(number for number, old in self.links.items() if old == before.id)
            record.next_link = link
            self.seen["escalated"] += 1
            return "failed"
        assert before.id not in self.links.values(), f"job {before.id} escalated after {failure}"
        if failure == "lost":
            record.losses += 1
            self.seen["failed of losses"] += record.losses >= 3
            return "failed" if record.losses >= 3 else "queued"
        if failure == "rate_limited":
            self.seen["failed of limits"] += record.limits >= 20
            return "failed" if record.limits >= 20 else "queued"
        if not self.retried(before.terms.retry, failure, record.retries):
            return "failed"
        record.retries += 1
        low, high = bounds(before.terms.retry, record.retries)
        now = self.steady()
        record.due = now + low, now + high
        return "retrying"

    def agent(self, job: Job) -> Agent:
        return self.rules.agents[job.terms.agent]

    def retried(self, policy: Policy, failure: str, spent: int) -> bool:
        allowed = failure not in NEVER_RETRIED if policy.on is None else FailureClass(failure) in policy.on
        return policy.strategy is not Strategy.NONE and allowed and spent < policy.max_retries

    # --- chains -------------------------------------------------------------------------------------

    def escalates(self, job: Job, failure: str, record: Record) -> bool:
        agent = self.agent(job)
        on = agent.escalate_on
        if agent.escalate_to is None or (failure in NOT_ESCALATED if on is None else FailureClass(failure) not in on):
            return False
        never = not self.retried(job.terms.retry, failure, record.retries)
        return never or (agent.escalate_after is not None and record.failures >= agent.escalate_after)

    def carry_on(self, link: Job, number: int, change: Change) -> None:
        """A link has what the contract says: all but the agent, and what comes with that."""
        old, spec = self.world.known[number], change.spec
        told = self.world.specs[number]
        assert spec is not None
        agent = self.rules.agents[self.agent(old).escalate_to or ""]
        assert link.terms.agent == agent.name
        for name in ("type", "tier", "boost", "source", "group", "interactive"):
            assert getattr(link.terms, name) == getattr(old.terms, name), f"an escalation drops {name}"
        for name in ("title", "prompt", "payload", "metadata", "labels", "cwd", "worktree", "verify"):
            assert getattr(spec, name) == getattr(told, name), f"an escalation drops {name}"
        assert dict(link.terms.needs) == {**dict(agent.needs), **dict(old.terms.needs)}
        assert link.terms.timeout == (old.terms.timeout if old.terms.timeout is not None else agent.timeout)
        assert link.queued_at == old.queued_at, "an escalation drops queued_at"
        assert link.terms.expires_in is None
        assert len(spec.previous) == len(told.previous) + 1
        assert spec.previous[-1]["agent"] == old.terms.agent
        self.of[link.id].ready = self.of[number].ready
        self.links[link.id] = number

    def last_link(self, number: int) -> int:
        while (link := self.of[number].next_link) is not None:
            number = link
        return number


def bounds(policy: Policy, number: int) -> tuple[int, int]:
    """The shortest and the longest delay before a retry, from the contract's words."""
    fibonacci = [1, 1]
    while len(fibonacci) < number:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    units = {
        Strategy.IMMEDIATE: 0,
        Strategy.LINEAR: number,
        Strategy.EXPONENTIAL: 2 ** (number - 1),
        Strategy.FIBONACCI: fibonacci[number - 1],
    }[policy.strategy]
    low = policy.base * units
    return min(low, policy.cap), min(int(low * (1 + policy.jitter)), policy.cap)


def cooldown(strikes: int) -> int:
    """The shortest cool-down after so many limits in a row when the provider names no reset."""
    return HOUR if strikes > 6 else MINUTE << (strikes - 1)


def nothing(*_: Any) -> None:
    """Nobody looks."""
