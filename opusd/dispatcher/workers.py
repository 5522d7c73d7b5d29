"""The verbs of workers, and of a pushed agent that speaks for itself (contract, sections 7 and 8)."""

from __future__ import annotations

import asyncio
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from opusd.api import results
from opusd.api.framing import LINE_LIMIT
from opusd.core import attempts, leases
from opusd.core.access import require_person
from opusd.core.attempts import End
from opusd.core.errors import Conflict, Forbidden, InvalidParams
from opusd.core.job import Job, Outcome, Tier
from opusd.core.leases import Wanted
from opusd.core.retry import FailureClass
from opusd.core.times import SECOND, from_rfc3339, parse_duration, to_rfc3339
from opusd.dispatcher.claims import Asked, Claims, Taken
from opusd.dispatcher.intake import read
from opusd.dispatcher.prompts import prompt_for
from opusd.dispatcher.shorter import shortened, shorter
from opusd.dispatcher.tokens import hash_token
from opusd.dispatcher.views import NOTHING, Snapshot, snapshot, view

if TYPE_CHECKING:
    from opusd.api import params as p
    from opusd.api import types as wire
    from opusd.core.decision import Decision
    from opusd.core.job import Spec
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.hearing import Hearing
    from opusd.dispatcher.roll import Roll
    from opusd.store.base import Record

_LONGEST_LEASE: Final = 24 * 3600 * SECOND
_MOST_BYTES: Final = 3 << 20  # of claims in one reply, which has at most 4 MiB
_MOST_ALONE: Final = LINE_LIMIT - 4096  # of one claim, for the reply has an id too
_MOST_DATA: Final = 1 << 20
_LONGEST_TEXT: Final = 64 << 10
_MOST_OPTIONS: Final = 100
_FAILURES: Final = sorted(FailureClass)


class _Answer(NamedTuple):
    job: wire.Job | None
    claims: list[results.Claim]


class WorkerVerbs:
    worker_release_shorter = worker_ask_shorter = staticmethod(shorter)

    def __init__(self, desk: Desk, hearing: Hearing, roll: Roll) -> None:
        self._desk = desk
        self._hearing = hearing
        self._claims = Claims(desk)
        self._roll = roll

    # --- claiming ---------------------------------------------------------------------------------

    async def worker_claim(self, session: Session, params: p.WorkerClaim) -> results.Claims:
        require_person(session.caller, "claiming jobs")
        asked, seconds = self._asked(params)
        async with session.turn:
            future = self._desk.writer.command(
                lambda decision: self._claims.take(decision, asked), _actor(asked.worker)
            )
        try:
            taken = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._unanswered)
            raise
        if not taken and seconds > 0:
            taken = await self._claims.wait(asked, seconds)
        return results.Claims(claims=(await self._handed(session, taken)).claims)

    def _unanswered(self, future: asyncio.Future[list[Taken]]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._claims.give_back(future.result())

    def _asked(self, params: p.WorkerClaim, path: str = "$") -> tuple[Asked, float]:
        """The claim, and for how many seconds it waits."""
        known = self._desk.state.limits.agents
        for name in params.agents or ():
            if name not in known or known[name].slots:
                which = ", ".join(leases.claimed_agents(self._desk.state))
                why = "is not configured" if name not in known else "has slots: opusd runs its jobs itself"
                message = f"agent {name!r} {why}; workers claim jobs of: {which}"
                raise InvalidParams(message, path=f"{path}.agents")
        wanted = Wanted(
            agents=None if params.agents is None else tuple(dict.fromkeys(params.agents)),
            types=None if params.types is None else frozenset(params.types),
            labels=None if params.labels is None else frozenset(params.labels),
            group=params.group,
            min_tier=0 if params.min_tier is None else int(Tier[params.min_tier.upper()]),
        )
        agents = tuple(params.agents or leases.claimed_agents(self._desk.state))
        self._roll.see(params.worker, self._desk.now(), agents)
        asked = Asked(params.worker, wanted, params.count, _lease(params.lease, path))
        return asked, read(path, "wait", parse_duration, params.wait) / 1e6

    async def _handed(self, session: Session, taken: list[Taken], done: Snapshot | None = None) -> _Answer:
        """What the reply shows: the claims, and the job that is `done`. All of it is read at once.

        Back go the claims that a reply can't hold, and all of them when nobody is there to read it.
        """
        try:
            look = partial(self._read, taken, done)
            answer = await (look() if done is None else self._desk.eventually(look))
        except BaseException:  # a cancelled call, a registry that can't be read
            self._claims.give_back(taken)
            raise
        if session.gone:
            answer.claims.clear()
        held = len(answer.claims)
        for one in taken[:held]:
            self._roll.holds(session.caller, one.seen.job)
        self._claims.give_back(taken[held:])
        return answer

    async def _read(self, taken: list[Taken], done: Snapshot | None) -> _Answer:
        if done is None and not taken:
            return _Answer(None, [])
        unknown = [*([] if done is None else [done.job.id]), *(one.seen.job.id for one in taken if one.spec is None)]
        found = await self._desk.store.records(unknown) if unknown else []
        records = {record.job.id: record for record in found}
        job = None if done is None else self._desk.view(done, records[done.job.id], full=True)
        claims: list[results.Claim] = []
        if len(taken) == 1:  # it is given out whatever its size: nothing to weigh
            return _Answer(job, [self._shown(taken[0], records)])
        size = len(msgspec.json.encode(job)) if taken else 0
        for one in taken:
            shown = self._shown(one, records)
            size += len(msgspec.json.encode(shown))
            if size > _MOST_BYTES and claims:
                break
            claims.append(shown)
        return _Answer(job, claims)

    def worker_claim_unanswered(self, result: results.Claims | results.Finished) -> None:
        """The reply could not be written: whoever asked does not know what it holds."""
        self._claims.unlearned((one.job.id, one.attempt) for one in result.claims)

    worker_complete_unanswered = worker_fail_unanswered = worker_claim_unanswered

    def worker_claim_shorter(self, result: results.Claims) -> results.Claims:
        """None of the claims, which go back: an answer to a batch has no room left for them, or no line holds one."""
        for one in result.claims:
            size = len(msgspec.json.encode(one))
            if size > _MOST_ALONE:
                self._claims.refuse(one.job.id, one.attempt, size)
            else:
                self._claims.unlearned([(one.job.id, one.attempt)])
        return results.Claims(claims=[])

    def worker_complete_shorter(self, result: results.Finished) -> results.Finished:
        """The job cut; without the claims where they are what is long."""
        short = replace(result, job=shortened(result.job))
        if len(msgspec.json.encode(short)) > _MOST_ALONE:
            short.claims = self.worker_claim_shorter(results.Claims(claims=short.claims)).claims
        return short

    worker_fail_shorter = worker_complete_shorter

    def _shown(self, one: Taken, records: dict[int, Record]) -> results.Claim:
        job = one.seen.job
        assert job.run is not None
        if one.spec is not None:
            spec, outcome = one.spec, NOTHING
            shown = view(one.seen, spec, outcome)
        else:
            record = records[job.id]
            spec, outcome = record.spec, record.outcome
            shown = self._desk.view(one.seen, record, full=True)
        prompt = prompt_for(job, spec, outcome, resumed=False)
        return results.Claim(
            job=shown,
            attempt=job.run.attempt,
            attempt_id=job.run.attempt_id,
            token=one.token,
            expires_at=_expires_at(job) or "",
            prompt=UNSET if prompt == spec.prompt else prompt,
        )

    # --- while it runs ----------------------------------------------------------------------------

    async def worker_heartbeat(self, session: Session, params: p.WorkerHeartbeat) -> results.Heartbeat:
        """A worker's lease goes on; a pushed agent, which has none, says how far it is."""
        desk, hashed = self._desk, hash_token(params.token)
        number = await desk.find(params.id)
        self._require_own(session, number)
        lease = None if params.lease is None else _lease(params.lease, "$")
        _check_progress(params.progress)
        async with session.turn:
            job = leases.holder(desk.state, number, hashed, desk.now())
            assert job.run is not None
            if job.run.worker is None:
                desk.engine.liveness.heard((number, job.run.attempt), desk.clock.monotonic())
            else:
                self._roll.holds(session.caller, job)
                self._roll.see(job.run.worker, desk.now())
                future = desk.writer.command(
                    lambda decision: self._renew(decision, number, hashed, lease), _actor(job.run.worker)
                )
                job = await future
            run = job.run
        assert run is not None
        if params.progress is not None:
            self._hearing.progress(job, run.attempt, params.progress)
        return results.Heartbeat(expires_at=_expires_at(job), cancel=run.ending is not None)

    @staticmethod
    def _renew(decision: Decision, number: int, hashed: bytes, lease: int | None) -> Job:
        return leases.renew(decision, leases.holder(decision.state, number, hashed, decision.now), lease)

    async def worker_ask(self, session: Session, params: p.WorkerAsk) -> wire.Job:
        desk, hashed = self._desk, hash_token(params.token)
        _check_question(params.text, params.options)
        number = await desk.find(params.id)
        self._require_own(session, number)
        job = leases.holder(desk.state, number, hashed, desk.now())
        assert job.run is not None
        text, options = params.text.strip(), tuple(params.options)
        if job.run.worker is not None:
            seen, _ = await self._finish(session, number, params.token, End(question=(text, options)))
            return await desk.eventually(partial(desk.show, seen))

        def decide(decision: Decision) -> Snapshot:
            job = leases.holder(decision.state, number, hashed, decision.now)
            if job.run is None or job.run.ending is not None:
                message = f"the attempt of job {number} is being ended: it can't ask any more"
                raise Conflict(message, status=job.status)
            after = attempts.ask(decision, job, text, options, decision.state.limits.grace)
            desk.engine.stop_after(decision, after)
            return snapshot(decision.state, after, decision.now)

        async with session.turn:
            future = desk.writer.command(decide, f"job:{number}")
        return await desk.eventually(partial(desk.show, await future))

    # --- the end ----------------------------------------------------------------------------------

    async def worker_complete(self, session: Session, params: p.WorkerComplete) -> results.Finished:
        if params.result is not None and len(msgspec.json.encode(params.result)) > _MOST_DATA:
            message = f"$.result: a result has at most {_MOST_DATA} bytes"
            raise InvalidParams(message, path="$.result")
        return await self._finished(session, params, End(result=_result(params.result), chance=random()))

    async def worker_fail(self, session: Session, params: p.WorkerFail) -> results.Finished:
        error = params.error
        if error.class_ not in _FAILURES:
            message = f"$.error.class: {error.class_!r} is not one of {', '.join(_FAILURES)}"
            raise InvalidParams(message, path="$.error.class")
        until = None if error.until is None else read("$.error", "until", from_rfc3339, error.until)
        end = End(
            failure=FailureClass(error.class_),
            message=error.message or f"failed as {error.class_}",
            limited_until=until,
            chance=random(),
        )
        return await self._finished(session, params, end)

    async def worker_release(self, session: Session, params: p.WorkerRelease) -> wire.Job:
        require_person(session.caller, "releasing what a worker holds")
        number = await self._desk.find(params.id)
        end = End(failure=FailureClass.LOST, message="released by its worker", never_ran=True)
        seen, _ = await self._finish(session, number, params.token, end)
        return await self._desk.eventually(partial(self._desk.show, seen))

    async def _finished(self, session: Session, params: p.WorkerComplete | p.WorkerFail, end: End) -> results.Finished:
        require_person(session.caller, "ending a worker's attempt")
        asked = None if params.claim is None else self._asked(params.claim, "$.claim")[0]
        number = await self._desk.find(params.id)
        seen, taken = await self._finish(session, number, params.token, end, asked)
        job, claims = await self._handed(session, taken, seen)
        assert job is not None
        return results.Finished(job=job, claims=claims)

    async def _finish(
        self, session: Session, number: int, token: str, end: End, asked: Asked | None = None
    ) -> tuple[Snapshot, list[Taken]]:
        """End a worker's attempt, and take what is there of the next, in one commit; this never waits for a job."""
        desk, hashed = self._desk, hash_token(token)

        def decide(decision: Decision) -> tuple[Snapshot, list[Taken]]:
            job = leases.holder(decision.state, number, hashed, decision.now)
            assert job.run is not None
            _require_wanted(job, end)
            after = attempts.end(decision, job, job.run.attempt, end, outcome, spec)
            taken = [] if asked is None else self._claims.take(decision, asked)
            return snapshot(decision.state, after, decision.now), taken

        async with session.turn:
            job = leases.holder(desk.state, number, hashed, desk.now())
            if job.run is None or job.run.worker is None:
                message = f"no worker holds job {number}: opusd itself runs it, and sees how it ends"
                raise Forbidden(message)
            worker = job.run.worker
            outcome, spec = await self._brought(job)
            future = desk.writer.command(decide, _actor(worker))
        done = await future
        self._roll.count(worker, desk.now(), end)
        return done

    async def _brought(self, job: Job) -> tuple[Outcome, Spec | None]:
        """What earlier attempts brought, and what another agent would carry on with; not read where there is none."""
        agent = self._desk.state.limits.agents.get(job.terms.agent)
        if job.attempts == 1 and (agent is None or agent.escalate_to is None):
            return Outcome(), None
        await self._desk.settled()
        [record] = await self._desk.store.records([job.id])
        return record.outcome, record.spec

    # --- who they are -----------------------------------------------------------------------------

    async def worker_list(self, session: Session, params: p.WorkerList) -> results.Workers:
        del params

        async with session.turn:
            return results.Workers(workers=await self._desk.writer.read(lambda: self._roll.call(self._desk.now())))

    @staticmethod
    def _require_own(session: Session, number: int) -> None:
        caller = session.caller
        if caller.agent and caller.job not in (None, number):
            message = f"the agent of job {caller.job} may speak for itself alone"
            raise Forbidden(message)


def _actor(worker: str) -> str:
    return f"worker:{worker}"


def _require_wanted(job: Job, end: End) -> None:
    """An attempt is cancelled when that was asked of it, and its job then ends as was asked; else it failed."""
    if end.failure is FailureClass.CANCELLED and job.run is not None and job.run.ending is None:
        others = ", ".join(name for name in _FAILURES if name != FailureClass.CANCELLED)
        message = (
            f"$.error.class: nobody asked to end the attempt of job {job.id}, so it is not cancelled: "
            f"name one of {others}, or release it"
        )
        raise InvalidParams(message, path="$.error.class")


def _lease(value: float | str, path: str) -> int:
    lease = read(path, "lease", parse_duration, value)
    if not SECOND <= lease <= _LONGEST_LEASE:
        message = f"{path}.lease: a lease is 1 s to 24 h long"
        raise InvalidParams(message, path=f"{path}.lease")
    return lease


def _expires_at(job: Job) -> str | None:
    return None if job.run is None or job.run.lease_until is None else to_rfc3339(job.run.lease_until)


def _result(given: Any) -> dict[str, Any]:
    """`{summary, data}` as it is, anything else as the data."""
    if isinstance(given, dict) and given and given.keys() <= {"summary", "data"}:
        summary = given.get("summary")
        if summary is None or isinstance(summary, str):
            return {"summary": summary, "data": given.get("data")}
    return {"summary": None, "data": given}


def _check_progress(progress: wire.Progress | None) -> None:
    if progress is not None and progress.fraction is not None and not 0 <= progress.fraction <= 1:
        message = "progress.fraction is between 0 and 1"
        raise InvalidParams(message, path="$.progress.fraction")


def _check_question(text: str, options: list[str]) -> None:
    if not text.strip() or len(text.encode()) > _LONGEST_TEXT:
        message = f"$.text: a question is text of 1 to {_LONGEST_TEXT} bytes"
        raise InvalidParams(message, path="$.text")
    if len(options) > _MOST_OPTIONS or any(not 1 <= len(option) <= 1000 for option in options):
        message = f"$.options: at most {_MOST_OPTIONS} options of 1 to 1,000 characters"
        raise InvalidParams(message, path="$.options")
