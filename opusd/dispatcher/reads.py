"""The verbs that read: get, list, logs, history, why, peek, status. All they show is on disk."""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, Any, Final

import msgspec

from opusd.agents.spec import Chunk
from opusd.api import results
from opusd.api import types as wire
from opusd.core import explain
from opusd.core.errors import InvalidParams, NotFound
from opusd.core.job import Tier
from opusd.core.lifecycle import ALIVE, Status
from opusd.core.order import job_of
from opusd.core.times import from_rfc3339, parse_duration, to_rfc3339
from opusd.dispatcher.desk import Desk, Session, as_tuple, that_fit
from opusd.dispatcher.intake import read
from opusd.dispatcher.shorter import shorter
from opusd.dispatcher.views import Snapshot, attempt_view, event_view, snapshot
from opusd.store.base import Query, sort_values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from opusd.api import params as p
    from opusd.core.job import Job
    from opusd.dispatcher.tally import Tally
    from opusd.store.base import Record

_HISTORY: Final = 5_000
_ATTEMPTS: Final = 2_000
_SHOW_AT_ONCE: Final = 200
_QUEUED: Final = (Status.QUEUED.value,)
_UNPLACED: Final = 2
"""So many values has the cursor of a list by score that has come to the jobs without one."""


class ReadVerbs:
    """`read_output(job, attempt, offset, limit, wait_s)` gives a Chunk of an attempt's output.

    `begun(job, seconds)` waits, for so long at most, until a job has had an attempt or has ended.
    """

    job_get_shorter = job_list_shorter = queue_peek_shorter = queue_status_shorter = staticmethod(shorter)

    def __init__(
        self,
        desk: Desk,
        tally: Tally,
        read_output: Callable[[int, int, int, int, float], Awaitable[Chunk]],
        begun: Callable[[int, float], Awaitable[None]],
    ) -> None:
        self._desk = desk
        self._tally = tally
        self._read_output = read_output
        self._begun = begun
        self._started = desk.clock.monotonic()

    async def job_get(self, session: Session, params: p.JobGet) -> wire.Job:
        async with session.turn:
            number = await self._desk.find(params.id)
        return await self._desk.show(await self._desk.look(number))

    async def job_list(self, session: Session, params: p.JobList) -> results.JobPage:
        async with session.turn:
            parent = None if params.parent is None else await self._desk.find(params.parent, path="$.parent")
            query = _query(params, parent)
            await self._desk.settled()
        if params.order == "score":
            return await self._by_score(params, query)
        after = _cursor(params.cursor, params.order)
        records = await self._desk.store.query(msgspec.structs.replace(query, after=after, limit=params.limit + 1))
        jobs = that_fit(await self._shown(records[: params.limit], full=params.full))
        cursor = None
        if len(records) > len(jobs):
            cursor = ",".join(map(str, sort_values(params.order, records[len(jobs) - 1].job)))
        return results.JobPage(jobs=jobs, next_cursor=cursor)

    async def _shown(self, records: list[Record], *, full: bool) -> list[wire.Job]:
        """Records as read, with what memory derives for those that have not changed since."""
        state, now = self._desk.state, self._desk.now()

        def look() -> list[Snapshot]:
            seen = []
            for record in records:
                job = state.jobs.get(record.job.id)
                same = job is not None and job.version == record.job.version
                seen.append(
                    snapshot(state, record.job, now) if same else Snapshot(job=record.job, reason=_plain(record.job))
                )
            return seen

        seen = await self._desk.writer.read(look)
        return [self._desk.view(one, record, full=full) for one, record in zip(seen, records, strict=True)]

    async def _by_score(self, params: p.JobList, query: Query) -> results.JobPage:
        """Queued jobs in the order of dispatch, then the others by id; the cursor is the last's place, or `0,id`."""
        after = _cursor(params.cursor, "score") or ()
        found: list[wire.Job] = []
        if len(after) == _UNPLACED or params.dead or (query.status is not None and Status.QUEUED not in query.status):
            return await self._without_score(params, query, found, after[-1] if after else 0)
        keys = self._in_order(after[0] if after else None)
        last = None
        while len(found) < params.limit:
            chunk = [key for key, _ in zip(keys, range(_SHOW_AT_ONCE), strict=False)]
            if not chunk:
                return await self._without_score(params, query, found, 0)
            places = {job_of(key): key for key in chunk}
            kept = msgspec.structs.replace(
                query, ids=tuple(places), status=_QUEUED, limit=len(chunk), order="id", after=None
            )
            records = {record.job.id: record for record in await self._desk.store.query(kept)}
            ordered = [records[number] for number in places if number in records][: params.limit - len(found)]
            shown = await self._shown(ordered, full=params.full)
            fit = that_fit([*found, *shown])
            if len(fit) < len(found) + len(shown):
                return results.JobPage(jobs=fit, next_cursor=str(places.get(fit[-1].id, last)))
            found = fit
            last = places[ordered[-1].job.id] if len(found) >= params.limit else chunk[-1]
            keys = self._in_order(last)
        return results.JobPage(jobs=found, next_cursor=str(last))

    async def _without_score(
        self, params: p.JobList, query: Query, found: list[wire.Job], after: int
    ) -> results.JobPage:
        """The rest of a page by score: jobs that are not queued, by id, after this one."""
        statuses = tuple(status for status in query.status or map(str, Status) if status not in _QUEUED)
        room = params.limit - len(found)
        kept = msgspec.structs.replace(query, status=statuses, order="id", after=(after,), limit=room + 1)
        records = await self._desk.store.query(kept) if statuses else []
        jobs = that_fit([*found, *await self._shown(records[:room], full=params.full)])
        held = len(jobs) - len(found)
        if len(records) <= held:
            return results.JobPage(jobs=jobs, next_cursor=None)
        return results.JobPage(jobs=jobs, next_cursor=f"0,{records[held - 1].job.id if held else after}")

    def _in_order(self, after: int | None = None, agent: str | None = None) -> Iterator[int]:
        lanes = [lane for name, lane in self._desk.state.lanes.items() if agent in (None, name)]
        return merge(*(lane.order if after is None else lane.order.after(after) for lane in lanes))

    async def job_logs(self, session: Session, params: p.JobLogs) -> results.LogChunk:
        wait = read("$", "wait", parse_duration, params.wait) / 1e6
        async with session.turn:
            job = await self._desk.current(params.id)
            await self._desk.settled()
        if wait > 0 and not job.attempts and not job.final:
            until = self._desk.clock.monotonic() + wait
            await self._begun(job.id, wait)
            job = await self._desk.current(job.id)
            wait = max(0.0, until - self._desk.clock.monotonic())
        attempt = params.attempt if params.attempt is not None else job.attempts
        if params.attempt is not None and params.attempt > job.attempts:
            message = f"job {job.id} has had {job.attempts} attempts, not {params.attempt}"
            raise NotFound(message, path="$.attempt")
        if not attempt:
            return results.LogChunk(data="", offset=0, next_offset=0, eof=job.final)
        await self._desk.engine.launched(job.id, attempt)
        chunk = await self._read_output(job.id, attempt, params.offset, params.limit, wait)
        return results.LogChunk(
            data=chunk.data,
            offset=chunk.offset,
            next_offset=chunk.next_offset,
            dropped=chunk.dropped,
            eof=chunk.eof,
            truncated=chunk.truncated,
        )

    async def job_history(self, session: Session, params: p.JobHistory) -> results.History:
        async with session.turn:
            number = await self._desk.find(params.id)
            await self._desk.settled()
        events = await self._desk.store.history(number, _HISTORY + 1)
        rows = await self._desk.store.attempts(number)
        return results.History(
            events=[event_view(event) for event in events[-_HISTORY:]],
            attempts=[attempt_view(row) for row in rows[-_ATTEMPTS:]],
            chain=await self._chain(number),
            truncated=len(events) > _HISTORY or len(rows) > _ATTEMPTS,
        )

    async def _chain(self, number: int) -> list[int]:
        """The links of this job's chain of escalation, first to last."""
        chain = [number]
        for onward in (True, False):
            link: int | None = number
            while link is not None:
                found = await self._desk.store.records([link])  # none: it is past its retention
                extra = found[0].job.extra if found else None
                link = None if extra is None else extra.escalated_to if onward else extra.escalated_from
                if link is not None:
                    chain.insert(len(chain) if onward else 0, link)
        return chain

    async def job_why(self, session: Session, params: p.JobWhy) -> results.Why:
        async with session.turn:
            job = await self._desk.current(params.id)
        state = self._desk.state

        def look() -> results.Why:
            current = state.jobs.get(job.id, job)
            found = explain.constraints(state, current, self._desk.now())
            runnable = current.status is Status.QUEUED and not found
            return results.Why(runnable=runnable, constraints=[_constraint(one) for one in found])

        return await self._desk.writer.read(look)

    # --- the queue --------------------------------------------------------------------------------

    async def queue_peek(self, session: Session, params: p.QueuePeek) -> results.Jobs:
        self._desk.require_agent(params.agent)
        state = self._desk.state

        def look() -> list[Snapshot]:
            keys = zip(self._in_order(agent=params.agent), range(params.limit), strict=False)
            now = self._desk.now()
            return [snapshot(state, state.jobs[job_of(key)], now) for key, _ in keys]

        async with session.turn:
            seen = await self._desk.writer.read(look)
        shown = await self._desk.show_all(seen, full=False)
        held = that_fit(shown)
        return results.Jobs(jobs=held, omitted=len(shown) - len(held))

    async def queue_status(self, session: Session, params: p.QueueStatus) -> results.Status:
        del params
        async with session.turn:
            return await self.status()

    async def status(self) -> results.Status:
        """The queue at a glance, as on disk."""
        state, now = self._desk.state, self._desk.now()

        def look() -> tuple[results.Counts, results.Pool, list[Snapshot], set[str]]:
            statuses = {status.value: count for status, count in state.statuses.items() if count}
            finals = {status: count for status, count in self._tally.finals.items() if count}
            counts = results.Counts(
                status={**statuses, **finals},
                tier={Tier(tier).word: count for tier, count in state.tiers.items() if count},
                agent={agent: count for agent, count in state.agents.items() if count},
            )
            running = [snapshot(state, job, now) for job in state.running.values()]
            return counts, self.pool(), running, set(state.pauses.names)

        counts, pool, running, paused = await self._desk.writer.read(look)
        shown = await self._desk.show_all(running, full=False)
        held = that_fit(shown)
        return results.Status(
            counts=counts,
            running=held,
            omitted=len(shown) - len(held),
            pool=pool,
            paused="*" in paused,
            paused_agents=sorted(name[6:] for name in paused if name.startswith("agent:")),
            paused_groups=sorted(name[6:] for name in paused if name.startswith("group:")),
            uptime=self._desk.clock.monotonic() - self._started,
        )

    def pool(self) -> results.Pool:
        state = self._desk.state
        return results.Pool(
            max_concurrent=state.max_concurrent,
            busy=state.pool_busy(),
            interactive_slots=state.limits.interactive_slots,
        )


def _plain(job: Job) -> str:
    """The reason of a job that memory has moved on from in the meantime."""
    return "" if job.final or job.status in ALIVE else f"was {job.status} a moment ago"


def _constraint(found: explain.Constraint) -> results.Constraint:
    until = None if found.until is None else to_rfc3339(found.until)
    return results.Constraint(kind=found.kind, detail=found.detail, until=until)


def _query(params: p.JobList, parent: int | None) -> Query:
    tiers = as_tuple(params.tier)
    times: dict[str, Any] = {
        name: read("$", name, from_rfc3339, value)
        for name, value in (("since", params.since), ("until", params.until))
        if value is not None
    }
    return Query(
        status=as_tuple(params.status),
        tier=None if tiers is None else tuple(Tier[word.upper()] for word in tiers),
        type=as_tuple(params.type),
        agent=as_tuple(params.agent),
        source=as_tuple(params.source),
        label=params.label,
        group=params.group,
        parent=parent,
        time=params.time,
        text=params.text,
        dead=params.dead,
        order=params.order,
        limit=params.limit,
        **times,
    )


def _cursor(text: str | None, order: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    score = order == "score"
    lengths = (1, _UNPLACED) if score else (2,) if "completed" in order else (1,)
    try:
        cursor = tuple(map(int, text.split(",")))
    except ValueError:
        cursor = ()
    place = score and len(cursor) == 1  # any integer is one
    if len(cursor) not in lengths or not (place or all(-(1 << 63) <= value < 1 << 63 for value in cursor)):
        message = "cursor is not one that job.list gave for this order"
        raise InvalidParams(message, path="$.cursor")
    return cursor
