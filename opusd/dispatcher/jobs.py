"""The verbs that change jobs: submit, update, hold, release, cancel, retry, prune (contract, section 7)."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from opusd.api import results
from opusd.core import commands
from opusd.core.access import may_edit, require_descendant, require_person
from opusd.core.admission import Facts, MissingFact, Submission, submit
from opusd.core.errors import Conflict, Forbidden, InternalError, InvalidParams, OpusError
from opusd.core.job import Job, Spec
from opusd.core.lifecycle import FINAL, Status
from opusd.core.times import parse_duration
from opusd.dispatcher.desk import Desk, Ref, Session, one_of
from opusd.dispatcher.intake import Intake, check_objects, read
from opusd.dispatcher.learning import REREADS, learn
from opusd.dispatcher.shorter import brief, shorter
from opusd.dispatcher.views import NOTHING, Snapshot, snapshot, view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opusd.api import params as p
    from opusd.api import types as wire
    from opusd.core.access import Caller
    from opusd.core.decision import Decision

Admitted = tuple[Snapshot, Spec] | int
"""A new job and its Spec, which is not on disk yet; or the id of the key's job."""


class JobVerbs:
    job_submit_shorter = job_hold_shorter = job_release_shorter = job_cancel_shorter = staticmethod(shorter)
    job_retry_shorter = job_update_shorter = staticmethod(shorter)

    def __init__(self, desk: Desk, intake: Intake) -> None:
        self._desk = desk
        self._intake = intake
        self._workdirs: dict[tuple[int, int], str] = {}

    # --- submit -----------------------------------------------------------------------------------

    async def job_submit(self, session: Session, params: p.JobSubmit) -> results.Submitted:
        try:
            return (await self._submit(session, [params], ["$"]))[0]
        except OpusError as error:
            error.data.pop("index", None)
            raise

    async def job_submit_batch(self, session: Session, params: p.JobSubmitBatch) -> results.SubmittedBatch:
        paths = [f"$.jobs[{index}]" for index in range(len(params.jobs))]
        try:
            return results.SubmittedBatch(jobs=await self._submit(session, params.jobs, paths, full=False))
        except OpusError as error:
            path, index = str(error.data.get("path", "")), error.data.get("index")
            if isinstance(index, int) and path.startswith("$.") and not path.startswith(paths[index]):
                error.data["path"] = paths[index] + path[1:]  # whoever refused it knew the entry alone
            raise

    def job_submit_batch_shorter(self, result: results.SubmittedBatch) -> dict[str, Any]:
        """The jobs are entered: whoever sent them learns their ids, however long they are."""
        jobs = [{"job": brief(one.job), "created": one.created} for one in result.jobs]
        return {"jobs": jobs, "shortened": True}

    async def _submit(
        self, session: Session, sent: Sequence[wire.JobSpec], paths: list[str], *, full: bool = True
    ) -> list[results.Submitted]:
        try:
            admitted = await self._enter(session, sent, paths)
        except InternalError:
            if all(spec.key is None for spec in sent):
                raise
            # A finished job took the key between our look at the registry and the commit: look again.
            admitted = await self._enter(session, sent, paths)
        return [
            # What is new is shown as it was decided: no read of the registry on the way of a submission.
            results.Submitted(job=await self._known(one, full=full), created=False)
            if isinstance(one, int)
            else results.Submitted(job=view(*one, NOTHING, full=full), created=True)
            for one in admitted
        ]

    async def _enter(self, session: Session, sent: Sequence[wire.JobSpec], paths: list[str]) -> list[Admitted]:
        async with session.turn:
            future = await self._admit(session.caller, sent, paths)
        return await future

    async def _admit(
        self, caller: Caller, sent: Sequence[wire.JobSpec], paths: list[str]
    ) -> asyncio.Future[list[Admitted]]:
        desk = self._desk
        submissions = []
        for index, (spec, path) in enumerate(zip(sent, paths, strict=True)):
            try:
                submission = self._intake.submission(spec, desk.now(), path)
                if caller.agent:
                    submission = await self._inside(caller, submission, sent_cwd=spec.cwd is not None)
            except OpusError as error:
                error.data["index"] = index
                raise
            submissions.append(submission)
        facts = Facts()
        known: set[Ref] = set()
        for _ in range(REREADS):
            await learn(desk, caller, submissions, facts, known)
            try:
                return desk.writer.command(partial(self._decide_submit, submissions, facts, caller), caller.actor)
            except MissingFact as error:
                known.discard(str(error.data["key"]))
        message = "the registry is too busy to tell whether the key is in use: try again"
        raise Conflict(message)

    def _decide_submit(
        self, submissions: list[Submission], facts: Facts, caller: Caller, decision: Decision
    ) -> list[Admitted]:
        state = self._desk.state
        admitted = submit(decision, submissions, facts, caller)
        specs = {change.after.id: change.spec for change in decision.changes if change.spec is not None}
        return [
            (snapshot(state, job, decision.now), specs[job.id]) if isinstance(job, Job) else job for job, _ in admitted
        ]

    async def _inside(self, caller: Caller, submission: Submission, *, sent_cwd: bool) -> Submission:
        """A job's agent works inside its own workdir, after links are resolved."""
        if caller.job is None or caller.attempt is None:
            return submission
        key = (caller.job, caller.attempt)
        workdir = self._workdirs.get(key)
        if workdir is None:
            records = await self._desk.store.records([caller.job])
            place = records[0].outcome.workdir or records[0].spec.cwd if records else "/nonexistent"
            workdir = self._workdirs[key] = os.path.realpath(place)
            if len(self._workdirs) > 1000:
                self._workdirs = {key: workdir}
        if not sent_cwd:
            return replace(submission, spec=replace(submission.spec, cwd=workdir))
        cwd = os.path.realpath(submission.spec.cwd)
        if os.path.commonpath([cwd, workdir]) != workdir:
            message = f"the agent of job {caller.job} may submit inside its own workdir {workdir} alone, not in {cwd}"
            raise Forbidden(message, path="$.cwd")
        return replace(submission, spec=replace(submission.spec, cwd=cwd))

    async def _known(self, number: int, *, full: bool) -> wire.Job:
        async def look() -> wire.Job:
            [job] = await self._desk.show_all([await self._desk.look(number)], full=full)
            return job

        return await self._desk.eventually(look)

    # --- steering ---------------------------------------------------------------------------------

    async def job_hold(self, session: Session, params: p.JobHold) -> wire.Job | results.Jobs:
        def verb(decision: Decision, job: Job) -> Job:
            require_descendant(session.caller, job.id, job.ancestors, "hold")
            after = commands.hold(decision, job, stop=params.stop, grace=self._desk.state.limits.grace)
            if after is not job and after.run is not None:
                self._desk.engine.stop_after(decision, after)
            return after

        skip = (
            (Status.RUNNING, Status.CANCELLING, Status.NEEDS_INPUT)
            if not params.stop
            else (Status.CANCELLING, Status.NEEDS_INPUT)
        )
        return await self._steer(session, params.id, params.group, verb, skip)

    async def job_release(self, session: Session, params: p.JobRelease) -> wire.Job | results.Jobs:
        def verb(decision: Decision, job: Job) -> Job:
            require_descendant(session.caller, job.id, job.ancestors, "release")
            return commands.release(decision, job)

        return await self._steer(session, params.id, params.group, verb, tuple(set(Status) - {Status.HELD}))

    async def job_cancel(self, session: Session, params: p.JobCancel) -> wire.Job | results.Jobs:
        grace = (
            self._desk.state.limits.grace if params.grace is None else read("$", "grace", parse_duration, params.grace)
        )

        def verb(decision: Decision, job: Job) -> Job:
            require_descendant(session.caller, job.id, job.ancestors, "cancel")
            if job.status is Status.CANCELLED and not params.cascade:
                return job
            for relative in commands.family_of(decision.state, job.id) if params.cascade else ():
                known = decision.state.jobs.get(relative)
                if known is not None:
                    require_descendant(session.caller, relative, known.ancestors, "cancel")
            before = len(decision.changes)
            after = commands.cancel(decision, job, reason=params.reason, grace=grace, cascade=params.cascade)
            for change in decision.changes[before:]:
                if change.after.run is not None:
                    self._desk.engine.stop_after(decision, change.after)
            return after

        return await self._steer(session, params.id, params.group, verb, ())

    async def _steer(
        self,
        session: Session,
        ref: Ref | None,
        group: str | None,
        verb: Callable[[Decision, Job], Job],
        skip: tuple[Status, ...],
    ) -> wire.Job | results.Jobs:
        """One job, or those of a group that are in none of the statuses of `skip`."""
        one_of(id=ref, group=group)
        if ref is not None:
            return await self._desk.change(session, ref, verb)
        assert group is not None
        require_person(session.caller, "steering a whole group")
        desk = self._desk
        async with session.turn:
            jobs = [job for job in await desk.of_group(group) if job.status not in skip]
            future = await desk.decide_many(session, jobs, verb)
        seen = await desk.kept(future, *jobs)
        return await desk.eventually(partial(desk.show_many, seen))

    async def job_retry(self, session: Session, params: p.JobRetry) -> results.Jobs:
        refs: list[Ref] = list(params.ids)
        if not refs:
            message = "ids is empty: name the jobs to retry"
            raise InvalidParams(message, path="$.ids")
        desk, facts = self._desk, Facts()

        def verb(decision: Decision, job: Job) -> Job:
            require_descendant(session.caller, job.id, job.ancestors, "retry")
            return commands.retry(decision, job, fresh=params.fresh, facts=facts)

        async with session.turn:
            if params.cascade:
                refs += await self._disappointed(refs)
            jobs = await self._to_retry(refs, facts)
            future = await desk.decide_many(session, jobs, verb)
        seen = await desk.kept(future, *jobs)
        return await desk.eventually(partial(desk.show_many, seen))

    async def _to_retry(self, refs: Sequence[Ref], facts: Facts) -> list[Job]:
        """The jobs, none of them pruned; `facts` learns how the finished jobs ended that they wait for."""
        desk = self._desk
        asked: set[int] = set()
        while True:
            jobs = [await desk.current(ref) for ref in dict.fromkeys(refs)]
            finished = [job for job in jobs if job.final]
            upstreams = {edge.upstream for job in finished for edge in job.edges}
            unknown = {job.id for job in finished} | {number for number in upstreams if number not in desk.state.jobs}
            if unknown <= asked:
                return jobs
            asked |= unknown
            await desk.settled()
            for record in await desk.store.records(sorted(unknown)):
                facts.finals[record.job.id] = (record.job.status, record.job.ancestors)
                if record.pruned and any(job.id == record.job.id for job in finished):
                    message = f"job {record.job.id} was pruned: what it was to do is gone; submit it again"
                    raise Conflict(message, job=record.job.id)

    async def _disappointed(self, refs: Sequence[Ref]) -> list[Ref]:
        """The finished jobs, completed ones aside, that waited for these, in any number of steps."""
        todo = [(await self._desk.current(ref)).id for ref in refs]
        await self._desk.settled()
        seen = set(todo)
        found: list[Ref] = []
        while todo:
            upstream = todo.pop()
            [record] = await self._desk.store.records([upstream])
            for number in record.dependents:
                if number in seen:
                    continue
                seen.add(number)
                job = await self._desk.current(number)
                if job.status in FINAL and job.status is not Status.COMPLETED:
                    found.append(number)
                    todo.append(number)
        return found

    async def job_update(self, session: Session, params: p.JobUpdate) -> wire.Job:
        desk = self._desk
        edit = self._intake.edit(params)
        if session.caller.agent and edit.given() & {"tier", "boost"}:
            message = "a job's agent may not change a priority or a boost"
            raise Forbidden(message, path="$.priority")
        async with session.turn:
            while True:
                number = await desk.find(params.id)
                await desk.settled()
                spec = (await desk.store.records([number]))[0]
                facts, known = Facts(), set[Ref]()
                if edit.title is None and spec.pruned:
                    message = f"job {number} was pruned: what its title was made of is gone; give one"
                    raise Conflict(message, job=number)
                if not isinstance(edit.metadata, UnsetType):
                    check_objects(spec.spec.payload, edit.metadata, "$", "metadata")
                if edit.depends:
                    await learn(desk, session.caller, [Submission(spec=spec.spec, depends=edit.depends)], facts, known)
                job = desk.unchanged(spec)
                if job is None:
                    continue  # what we would write back may be old

                def verb(decision: Decision, job: Job) -> Job:
                    require_descendant(session.caller, job.id, job.ancestors, "update")
                    if edit.given() & {"agent", "command"}:
                        agent = job.terms.agent if isinstance(edit.agent, UnsetType) else edit.agent
                        may_edit(session.caller, agent, desk.state, command=edit.command is not UNSET)
                    after = commands.update(decision, job, spec.spec, edit, facts, params.version)  # noqa: B023 - called at once
                    if after is not job and after.run is not None and "timeout" in edit.given():
                        desk.engine.deadline_after(decision, after)
                    return after

                future = desk.writer.command(partial(desk.decided, job=job, verb=verb), session.caller.actor)
                break
        return await desk.eventually(partial(desk.show, await desk.kept(future, job)))
