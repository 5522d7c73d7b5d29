"""The life of an attempt: it starts, its time runs out, it ends, and what that makes of its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from opusd.core import budgets, cooling, escalation
from opusd.core.job import PLAIN, Attempt, Ending, Job, Outcome, Question, Run, Spec
from opusd.core.lifecycle import Status, Step
from opusd.core.retry import FailureClass, delay, retries
from opusd.core.times import to_rfc3339

if TYPE_CHECKING:
    from opusd.core.decision import Decision

MAX_LOSSES: Final = 3
_ITS_OWN: Final = (None, Ending.TIMEOUT, Ending.STALL)
"""Ends that are the agent's own failure, and no person's wish."""
_PUT_BACK: Final = (FailureClass.LOST, FailureClass.RATE_LIMITED)
"""Classes that cost nothing: neither a retry nor one of the failures that escalate a job."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended, as whoever ran it says. `failure` None: it succeeded.

    `first` is true when the attempt had ended by itself before anybody asked it to end.
    `chance` in 0..1 is the random part of a backoff.
    """

    failure: FailureClass | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    result: dict[str, Any] | None = None
    session_id: str | None = None
    session_unknown: bool = False  # the program does not know the session that it was to take up
    usage: dict[str, Any] | None = None
    log_bytes: int = 0
    first: bool = True
    never_ran: bool = False
    chance: float = 0.0
    limited_until: int | None = None  # the reset that a rate limit named
    question: tuple[str, tuple[str, ...]] | None = None
    output_tail: str = ""
    verify_output: str | None = None  # of a verification that failed
    detail: dict[str, Any] = {}


def start(
    decision: Decision,
    job: Job,
    *,
    attempt_id: str,
    token_hash: bytes,
    over: bool = False,
    lease: tuple[str, int] | None = None,
) -> Job:
    """The attempt is on disk as running before anything is launched. `lease`: a worker has it, for so long at first."""
    now, extra = decision.now, job.extra
    timeout = job.terms.timeout
    worker, length = lease or (None, 0)
    run = Run(
        attempt=job.attempts + 1,
        attempt_id=attempt_id,
        token_hash=token_hash,
        slot=decision.state.free_slot_number() if lease is None else 0,
        over=over,
        started_at=now,
        timeout_at=None if timeout is None else now + timeout,
        worker=worker,
        lease_until=None if lease is None else now + length,
        lease=length,
        answered=extra is not None and extra.answered,
        skew=decision.state.timeline.skew,
    )
    after = decision.step(job, Step.START, run=run, attempts=run.attempt, started_at=now)
    if run.answered:
        after = after.with_extra(answered=False)
    row = Attempt(job=job.id, agent=job.terms.agent, run=run)
    detail = {"slot": run.slot} if worker is None else {"worker": worker}
    started = decision.put(job, after, "started", attempt=row, detail=detail)
    cooling.began(decision, started)
    return started


def ask(decision: Decision, job: Job, text: str, options: tuple[str, ...], grace: int) -> Job:
    """The agent asks a person: the attempt is ended, which frees its slot, and the job then needs input."""
    assert job.run is not None
    number = (job.extra or PLAIN).asked + 1
    question = Question(number, text, options, decision.now + decision.state.limits.answer_in)
    run = replace(job.run, ending=Ending.ASK, kill_at=decision.now + grace, ending_by=f"job:{job.id}")
    after = replace(job, run=run).with_extra(asked=number, question=question)
    return decision.put(job, after, "updated", detail={"asking": number})


def stall(decision: Decision, job: Job, grace: int) -> Job:
    """Neither output nor a heartbeat for too long: the attempt is ended, and then judged."""
    assert job.run is not None
    run = replace(job.run, ending=Ending.STALL, kill_at=decision.now + grace, ending_by="scheduler")
    return decision.put(job, replace(job, run=run), "updated", detail={"stalled": True})


def time_out(decision: Decision, job: Job, grace: int) -> Job:
    """The attempt has had its time: it is ended while the job is still running, and then judged."""
    assert job.run is not None
    run = replace(job.run, ending=Ending.TIMEOUT, kill_at=decision.now + grace, ending_by="scheduler")
    return decision.put(job, replace(job, run=run), "updated", detail={"timeout": True})


def lapse(decision: Decision, job: Job) -> Job:
    """A worker's lease is over: its token is dead from now on, and its attempt is to be ended as lost."""
    assert job.run is not None
    detail = {"lease_over": True, "worker": job.run.worker}
    return decision.put(job, replace(job, run=replace(job.run, lease_until=None)), "updated", detail=detail)


def put_back(decision: Decision, job: Job, grace: int) -> Job:
    """An operator stops the daemon with its agents: the attempt is ended and the job keeps its place, at no cost."""
    run = job.run
    if run is None or run.ending is not None:
        return job
    run = replace(run, ending=Ending.PUT_BACK, kill_at=decision.now + grace, ending_by=decision.actor)
    return decision.put(job, replace(job, run=run), "updated", detail={"stopping": True})


def end(decision: Decision, job: Job, attempt: int, ended: End, outcome: Outcome, spec: Spec | None = None) -> Job:
    """The attempt is over and none of its processes is left; a second report of the same end changes nothing.

    `spec` is needed where the agent may escalate: the next link is submitted from it.
    """
    run = job.run
    if run is None or run.attempt != attempt:
        return job
    failure, message = _classify(job, ended)
    row = Attempt(
        job=job.id,
        agent=job.terms.agent,
        run=run,
        ended_at=decision.now,
        failure=failure,
        message=message,
        exit_code=ended.exit_code,
        signal=ended.signal,
        session_id=ended.session_id,
        usage=ended.usage,
        log_bytes=ended.log_bytes,
    )
    fresh = job.extra is not None and job.extra.fresh
    brought = replace(
        _with_session(outcome, job.terms.agent, ended, fresh=fresh),
        result=_result(failure, ended.result, outcome.result),
        error=_error(failure, message, ended),
        usage=add_usage(outcome.usage, ended.usage),
        verify_output=None if failure is None else ended.verify_output or outcome.verify_output,
    )
    rest = budgets.ended(decision, job, replace(job, run=None), ended.usage)
    if fresh and not ended.never_ran:
        rest = rest.with_extra(fresh=False)
    cooling.ended(decision, job, well=failure is None)
    if failure is not None and run.ending in _ITS_OWN and not ended.never_ran:
        if failure not in _PUT_BACK:
            rest = rest.with_extra(failures=(rest.extra or PLAIN).failures + 1)
        agent = decision.state.limits.agents.get(job.terms.agent)
        if spec is not None and escalation.wanted(agent, rest, failure, (rest.extra or PLAIN).failures):
            return _escalate(decision, job, rest, failure, message, ended, row=row, brought=brought, spec=spec)
    after, kind, detail = _judge(decision, rest, run, failure, ended)
    over = budgets.passed(decision.state, rest) if after.status in (Status.RETRYING, Status.QUEUED) else None
    if over is not None:
        counted = replace(after, status=rest.status, due_at=None)  # what this attempt cost it counts all the same
        after, kind, detail = _needs_input(decision, counted, (over[1], (budgets.CONTINUE, budgets.STOP)), over[0])
    detail = {**detail, **({"class": failure.value, "message": message} if failure else {}), **ended.detail}
    actor = run.ending_by if after.status in (Status.CANCELLED, Status.HELD) else None
    done = decision.put(
        job, after, kind, attempt=row, outcome=brought, detail=detail or None, actor=actor, number=attempt
    )
    if done.final:
        decision.settle(done)
    if failure is FailureClass.RATE_LIMITED and done.status is Status.QUEUED and not _auto_resume(decision, done):
        detail = {"reason": "its agent's auto_resume is off: a person lets it go on"}
        return decision.put(done, decision.step(done, Step.HOLD, queued_at=None), "held", detail=detail)
    return done


def _escalate(  # noqa: PLR0913 - all of an attempt's end
    decision: Decision,
    job: Job,
    rest: Job,
    failure: FailureClass,
    message: str | None,
    ended: End,
    *,
    row: Attempt,
    brought: Outcome,
    spec: Spec,
) -> Job:
    """In one transaction: the job is failed, and the next link carries on."""
    if failure is FailureClass.RATE_LIMITED:
        cooling.limited(decision, job.terms.agent, ended.limited_until, ended.chance)
    previous = {
        "agent": job.terms.agent,
        "class": failure.value,
        "message": message,
        "output_tail": ended.output_tail,
    }
    link = escalation.carry_on(decision, job, spec, previous, brought)
    after = decision.step(rest, Step.FAIL, completed_at=decision.now).with_extra(escalated_to=link.id)
    detail = {"escalated_to": link.id, "agent": link.terms.agent, "class": failure.value, "message": message}
    return decision.put(job, after, "escalated", attempt=row, outcome=brought, detail=detail, number=row.run.attempt)


def _with_session(outcome: Outcome, agent: str, ended: End, *, fresh: bool) -> Outcome:
    """The session that a next attempt takes up: this attempt's, or the one before it unless that is given up."""
    if ended.session_id is None or ended.session_unknown:
        if not ended.session_unknown and (not fresh or ended.never_ran):
            return outcome
        return replace(outcome, session_id=None, session_agent=None, session_usage=None)
    same = (ended.session_id, agent) == (outcome.session_id, outcome.session_agent)
    used = add_usage(outcome.session_usage, ended.usage) if same else ended.usage
    return replace(outcome, session_id=ended.session_id, session_agent=agent, session_usage=used)


def _auto_resume(decision: Decision, job: Job) -> bool:
    agent = decision.state.limits.agents.get(job.terms.agent)
    return agent is None or agent.auto_resume


def add_usage(known: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    """The usage of all attempts: what is not known of any stays unknown."""
    if known is None or more is None:
        return more if known is None else known
    names = [*known, *(name for name in more if name not in known)]
    return {name: more.get(name) if known.get(name) is None else known[name] + (more.get(name) or 0) for name in names}


def _classify(job: Job, ended: End) -> tuple[FailureClass | None, str | None]:
    """The class of an attempt that the daemon ended is the daemon's reason, unless its result was in first."""
    run = job.run
    assert run is not None
    if run.ending is None or (ended.failure is None and ended.first):
        return ended.failure, ended.message
    if run.ending is Ending.TIMEOUT:
        limit = "" if job.terms.timeout is None else f" after {job.terms.timeout / 1e6:g} s"
        return FailureClass.TIMEOUT, f"timed out{limit}"
    if run.ending is Ending.STALL:
        return FailureClass.STALLED, "neither output nor a heartbeat for too long"
    if run.ending is Ending.ASK:
        return None, None
    return FailureClass.CANCELLED, run.ending_reason or f"{run.ending} by {run.ending_by}"


def _result(
    failure: FailureClass | None, own: dict[str, Any] | None, earlier: dict[str, Any] | None
) -> dict[str, Any] | None:
    """What the attempt brought; what an earlier one brought when this one failed and brought nothing."""
    if failure is None or earlier is None or (own is not None and any(own.values())):
        return own
    return earlier


def _error(failure: FailureClass | None, message: str | None, ended: End) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {"class": failure.value, "message": message, "exit_code": ended.exit_code, "signal": ended.signal}


def _judge(
    decision: Decision, job: Job, run: Run, failure: FailureClass | None, ended: End
) -> tuple[Job, str, dict[str, Any]]:
    """The job after the attempt, the event's kind and its detail."""
    now = decision.now
    asked = ended.question if job.status is Status.RUNNING else None
    open_question = (job.extra or PLAIN).question
    if ended.failure is None and asked is None and open_question is not None and open_question.budget is not None:
        job = job.with_extra(question=None)  # it was done before its budget could end it
    elif run.ending is Ending.ASK or asked is not None:
        return _needs_input(decision, job, asked)
    if failure is None:
        return decision.step(job, Step.COMPLETE, completed_at=now), "completed", {}
    if job.status is Status.CANCELLING:
        if run.ending is Ending.HOLD:
            return decision.step(job, Step.HOLD, queued_at=None), "held", {"stopped": True}
        detail = {"reason": run.ending_reason} if run.ending_reason else {}
        return decision.step(job, Step.CANCEL, completed_at=now), "cancelled", detail
    if run.ending is Ending.PUT_BACK:
        return decision.step(job, Step.QUEUE), "queued", {"put_back": "the daemon was stopped"}
    if ended.never_ran:
        return decision.step(job, Step.QUEUE), "queued", {"put_back": ended.message or "the attempt never began"}
    if failure is FailureClass.LOST:
        losses = job.losses + 1
        if losses < MAX_LOSSES:
            return decision.step(job, Step.LOSE, losses=losses), "lost", {"losses": losses}
        return decision.step(job, Step.FAIL, losses=losses, completed_at=now), "failed", {"losses": losses}
    if failure is FailureClass.RATE_LIMITED:
        return _limited(decision, job, ended)
    job = job.with_extra(limits=0) if job.extra is not None and job.extra.limits else job
    policy = job.terms.retry
    if retries(policy, failure, job.retries):
        number = job.retries + 1
        due_at = now + delay(policy, number, ended.chance)
        return decision.step(job, Step.BACK_OFF, retries=number, due_at=due_at), "retrying", {"retry": number}
    return decision.step(job, Step.FAIL, completed_at=now), "failed", {}


def _limited(decision: Decision, job: Job, ended: End) -> tuple[Job, str, dict[str, Any]]:
    """The job is put back and its agent cools down; no retry is spent, but not without end."""
    until = cooling.limited(decision, job.terms.agent, ended.limited_until, ended.chance)
    limits = (job.extra or PLAIN).limits + 1
    job = job.with_extra(limits=limits)
    if limits >= cooling.MAX_LIMITS:
        return decision.step(job, Step.FAIL, completed_at=decision.now), "failed", {"limits": limits}
    return (
        decision.step(job, Step.QUEUE),
        "queued",
        {"rate_limited": True, "until": to_rfc3339(until), "limits": limits},
    )


def _needs_input(
    decision: Decision, job: Job, asked: tuple[str, tuple[str, ...]] | None, budget: str | None = None
) -> tuple[Job, str, dict[str, Any]]:
    """The attempt is over and the job waits for a person; `asked`: it ended with the question, or for its `budget`."""
    if asked is not None:
        number = (job.extra or PLAIN).asked + 1
        question = Question(number, asked[0], asked[1], decision.now + decision.state.limits.answer_in, budget)
        job = job.with_extra(asked=number, question=question)
    open_question = (job.extra or PLAIN).question
    detail = {} if open_question is None else {"question": open_question.id}
    return decision.step(job, Step.ASK), "asked", detail
