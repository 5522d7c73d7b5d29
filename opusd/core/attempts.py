"""The life of an attempt: it starts, its time runs out, it ends, and what that makes of its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from opusd.core.job import Attempt, Ending, Job, Outcome, Run
from opusd.core.lifecycle import Status, Step
from opusd.core.retry import FailureClass, delay, retries

if TYPE_CHECKING:
    from opusd.core.decision import Decision

MAX_LOSSES: Final = 3


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
    usage: dict[str, Any] | None = None
    log_bytes: int = 0
    first: bool = True
    never_ran: bool = False
    chance: float = 0.0
    detail: dict[str, Any] = {}


def start(decision: Decision, job: Job, *, attempt_id: str, token_hash: bytes, over: bool) -> Job:
    """The attempt is on disk as running before anything is launched."""
    now = decision.now
    timeout = job.terms.timeout
    run = Run(
        attempt=job.attempts + 1,
        attempt_id=attempt_id,
        token_hash=token_hash,
        slot=decision.state.free_slot_number(),
        over=over,
        started_at=now,
        timeout_at=None if timeout is None else now + timeout,
    )
    after = decision.step(job, Step.START, run=run, attempts=run.attempt, started_at=now)
    row = Attempt(job=job.id, agent=job.terms.agent, run=run)
    return decision.put(job, after, "started", attempt=row, detail={"slot": run.slot})


def time_out(decision: Decision, job: Job, grace: int) -> Job:
    """The attempt has had its time: it is ended while the job is still running, and then judged."""
    assert job.run is not None
    run = replace(job.run, ending=Ending.TIMEOUT, kill_at=decision.now + grace, ending_by="scheduler")
    return decision.put(job, replace(job, run=run), "updated", detail={"timeout": True})


def put_back(decision: Decision, job: Job, grace: int) -> Job:
    """An operator stops the daemon with its agents: the attempt is ended and the job keeps its place, at no cost."""
    run = job.run
    if run is None or run.ending is not None:
        return job
    run = replace(run, ending=Ending.PUT_BACK, kill_at=decision.now + grace, ending_by=decision.actor)
    return decision.put(job, replace(job, run=run), "updated", detail={"stopping": True})


def end(decision: Decision, job: Job, attempt: int, ended: End, outcome: Outcome) -> Job:
    """The attempt is over and none of its processes is left; a second report of the same end changes nothing."""
    run = job.run
    if run is None or run.attempt != attempt:
        return job
    failure, message = _classify(run, ended)
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
    error = _error(failure, message, ended)
    brought = replace(outcome, result=_result(failure, ended.result, outcome.result), error=error)
    rest = replace(job, run=None)
    after, kind, detail = _judge(decision, rest, run, failure, ended)
    detail = {**detail, **({"class": failure.value, "message": message} if failure else {}), **ended.detail}
    actor = run.ending_by if after.status in (Status.CANCELLED, Status.HELD) else None
    done = decision.put(
        job, after, kind, attempt=row, outcome=brought, detail=detail or None, actor=actor, number=attempt
    )
    if done.final:
        decision.settle(done)
    return done


def _classify(run: Run, ended: End) -> tuple[FailureClass | None, str | None]:
    """The class of an attempt that the daemon ended is the daemon's reason, unless its result was in first."""
    if run.ending is None or (ended.failure is None and ended.first):
        return ended.failure, ended.message
    if run.ending is Ending.TIMEOUT:
        limit = "" if run.timeout_at is None else f" after {(run.timeout_at - run.started_at) / 1e6:g} s"
        return FailureClass.TIMEOUT, f"timed out{limit}"
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
        return decision.step(job, Step.QUEUE), "queued", {"put_back": "the attempt never began"}
    if failure is FailureClass.LOST:
        losses = job.losses + 1
        if losses < MAX_LOSSES:
            return decision.step(job, Step.LOSE, losses=losses), "lost", {"losses": losses}
        return decision.step(job, Step.FAIL, losses=losses, completed_at=now), "failed", {"losses": losses}
    policy = job.terms.retry
    if retries(policy, failure, job.retries):
        number = job.retries + 1
        due_at = now + delay(policy, number, ended.chance)
        return decision.step(job, Step.BACK_OFF, retries=number, due_at=due_at), "retrying", {"retry": number}
    return decision.step(job, Step.FAIL, completed_at=now), "failed", {}
