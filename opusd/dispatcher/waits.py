"""Calls that wait: job.wait and queue.drain. An agent that waits for its own tree lends its slot meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opusd.api import results
from opusd.core.errors import Conflict, InvalidParams
from opusd.core.job import EdgeState
from opusd.core.lifecycle import FINAL, Status
from opusd.core.times import parse_duration
from opusd.dispatcher.desk import no_group, one_of
from opusd.dispatcher.intake import read
from opusd.dispatcher.shorter import shorter
from opusd.store.base import Query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opusd.api import params as p
    from opusd.core.job import Change, Job
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.views import Snapshot

MAX_JOBS: Final = 1000


class Waits:
    job_wait_shorter = staticmethod(shorter)

    def __init__(self) -> None:
        self._desk: Desk | None = None
        self._by_job: dict[int, dict[asyncio.Event, None]] = {}  # woken in the order in which they came
        self._idle: dict[asyncio.Event, None] = {}
        self._awaited: dict[int, Counter[int]] = {}  # an agent's job -> the jobs it waits for
        self._lending: Counter[int] = Counter()

    def attach(self, desk: Desk) -> None:
        self._desk = desk

    def released(self, changes: list[Change]) -> None:
        """These changes are on disk: those who wait for them look again."""
        for change in changes:
            for event in self._by_job.get(change.after.id, ()):
                event.set()
            if change.before is not None and change.before.run is not None and change.after.run is None:
                for event in self._idle:
                    event.set()

    async def job_wait(self, session: Session, params: p.JobWait) -> results.Waited:
        desk = self._desk
        assert desk is not None
        one_of(ids=params.ids, group=params.group)
        deadline = None
        if params.timeout is not None:
            deadline = desk.clock.monotonic() + read("$", "timeout", parse_duration, params.timeout) / 1e6
        async with session.turn:
            numbers = await self._numbers(params)
            links = {number: await desk.last_link(number) for number in numbers}
            caller = session.caller.job if session.caller.agent else None
            if caller is not None:
                self._check_end(caller, list(links.values()))
        while True:
            awaited = list(dict.fromkeys(links.values()))
            with self._watching(awaited) as changed, self._as_waiting(caller, awaited):
                done = await self._until(awaited, params, changed, deadline)
            later = {number: await desk.last_link(link) for number, link in links.items()}
            if not done or later == links:
                return await self._waited([await desk.look(number) for number in numbers], done=done)
            links = later

    async def _until(
        self, numbers: list[int], params: p.JobWait, changed: asyncio.Event, deadline: float | None
    ) -> bool:
        """Until these are as asked, and that is on disk; false when the time is over first."""
        desk = self._desk
        assert desk is not None
        while True:
            changed.clear()
            if self._over(numbers, params):
                seen = [await desk.look(number) for number in numbers]
                if _enough([_met(one.job, params.until) for one in seen], any_=params.any):
                    return True
                continue
            left = None if deadline is None else deadline - desk.clock.monotonic()
            if not await desk.clock.wait(changed, left):
                return False

    async def _numbers(self, params: p.JobWait) -> list[int]:
        desk = self._desk
        assert desk is not None
        if params.ids is not None:
            if not 1 <= len(params.ids) <= MAX_JOBS:
                message = f"ids names 1 to {MAX_JOBS} jobs, not {len(params.ids)}"
                raise InvalidParams(message, path="$.ids")
            return list(dict.fromkeys([await desk.find(ref, path="$.ids") for ref in params.ids]))
        assert params.group is not None
        await desk.settled()
        kept = await desk.store.query(Query(group=params.group, limit=MAX_JOBS))
        numbers = sorted({record.job.id for record in kept} | set(desk.state.groups.get(params.group, ())))
        if not numbers:
            raise no_group(params.group)
        return numbers

    def _over(self, numbers: list[int], params: p.JobWait) -> bool:
        desk = self._desk
        assert desk is not None
        jobs = [desk.state.jobs.get(number) for number in numbers]
        return _enough([job is None or _met(job, params.until) for job in jobs], any_=params.any)

    async def _waited(self, seen: list[Snapshot], *, done: bool) -> results.Waited:
        desk = self._desk
        assert desk is not None
        shown = await desk.show_many(seen)
        return results.Waited(jobs=shown.jobs, omitted=shown.omitted, done=done)

    @contextmanager
    def _watching(self, numbers: list[int]) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        for number in numbers:
            self._by_job.setdefault(number, {})[event] = None
        try:
            yield event
        finally:
            for number in numbers:
                self._by_job[number].pop(event, None)
                if not self._by_job[number]:
                    del self._by_job[number]

    @contextmanager
    def _as_waiting(self, caller: int | None, numbers: list[int]) -> Iterator[None]:
        """Remember whom an agent waits for; its slots count as free when all are of its own tree."""
        desk = self._desk
        assert desk is not None
        state = desk.state
        own = state.jobs.get(caller) if caller is not None else None
        if caller is None or own is None:
            yield
            return
        awaited = self._awaited.setdefault(caller, Counter())
        awaited.update(numbers)
        tree = all((job := state.jobs.get(number)) is None or job.root == own.root for number in numbers)
        if tree:
            self._lending[caller] += 1
            state.lend(caller)
            desk.engine.poke()
        try:
            yield
        finally:
            awaited.subtract(numbers)
            self._awaited[caller] = +awaited
            if not self._awaited[caller]:
                del self._awaited[caller]
            if tree:
                self._lending[caller] -= 1
                if not self._lending[caller]:
                    del self._lending[caller]
                    state.lent.discard(caller)

    def _check_end(self, caller: int, numbers: list[int]) -> None:
        """Conflict for a wait that can't end: a job that waits for the caller, or that needs what it holds."""
        desk = self._desk
        assert desk is not None
        jobs = desk.state.jobs
        own = jobs.get(caller)
        held: Counter[str] = Counter()
        if own is not None:
            for holder in (*own.ancestors, caller):
                if holder in jobs and jobs[holder].run is not None and (holder == caller or holder in self._awaited):
                    held.update(dict(jobs[holder].terms.needs))
        seen: set[int] = set()
        todo = list(numbers)
        while todo:
            number = todo.pop()
            if number == caller:
                message = f"job {caller} would wait for itself: what it waits for waits for it"
                raise Conflict(message, job=caller)
            job = jobs.get(number)
            if number in seen or job is None:
                continue
            seen.add(number)
            todo += [edge.upstream for edge in job.edges if edge.state is EdgeState.PENDING]
            todo += self._awaited.get(number, ())
            if job.run is None:
                self._check_needs(job, held, caller)

    def _check_needs(self, job: Job, held: Counter[str], caller: int) -> None:
        desk = self._desk
        assert desk is not None
        for name, amount in job.terms.needs:
            if held[name] and desk.state.limits.capacity(name) - held[name] < amount:
                message = f"job {job.id} needs {name}, which job {caller} holds while it waits: it would wait for ever"
                raise Conflict(message, job=job.id, need=name)

    async def begun(self, number: int, seconds: float) -> None:
        """Until the job has had an attempt, or has ended, and that is on disk; or for so long at most."""
        desk = self._desk
        assert desk is not None
        deadline = desk.clock.monotonic() + seconds
        with self._watching([number]) as changed:
            while True:
                changed.clear()
                if _met((await desk.look(number)).job, "started"):
                    return
                if not await desk.clock.wait(changed, deadline - desk.clock.monotonic()):
                    return

    async def idle(self, seconds: float | None, *, workers: bool = True) -> bool:
        """Until no attempt runs, of `workers` neither if they count; false when the time is over first."""
        desk = self._desk
        assert desk is not None
        event = asyncio.Event()
        self._idle[event] = None
        deadline = None if seconds is None else desk.clock.monotonic() + seconds
        try:
            while True:
                event.clear()
                await desk.settled()
                if not (desk.state.running if workers else desk.state.pushed):
                    return True
                left = None if deadline is None else deadline - desk.clock.monotonic()
                if not await desk.clock.wait(event, left):
                    return False
        finally:
            self._idle.pop(event, None)


def _met(job: Job, until: str) -> bool:
    if job.status in FINAL:
        return True
    return until == "started" and (job.attempts > 0 or job.status is Status.RUNNING)


def _enough(met: list[bool], *, any_: bool) -> bool:
    return any(met) if any_ else all(met)
