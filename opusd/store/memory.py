"""The reference model: what a store does, in as few words as possible. Nothing outlives the process.

Records are kept encoded, so that nobody holds a part of the registry in hands.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from opusd.core.errors import StorageUnavailable
from opusd.core.job import Attempt, Change, Event, Job, Outcome, Spec
from opusd.core.lifecycle import ALIVE, FINAL, Status
from opusd.store.backups import making_backup
from opusd.store.base import (
    DURATIONS,
    DURATIONS_AMONG,
    Batch,
    CommitFailed,
    CommitRefused,
    Detail,
    Forgotten,
    Query,
    Record,
    Snapshot,
    contains,
    sort_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_encode: Final = msgspec.json.encode


class _Head(msgspec.Struct, frozen=True):
    """What is looked at of every record; nobody can change it, so it is decoded once."""

    job: Job
    pruned: bool = False


@lru_cache(maxsize=10_000)
def _head(text: bytes) -> _Head:
    return msgspec.json.decode(text, type=_Head)


class _Tables(msgspec.Struct):
    """Everything, as JSON texts by their ids."""

    jobs: dict[int, bytes] = {}
    events: dict[int, bytes] = {}
    attempts: dict[int, dict[int, bytes]] = {}
    settings: dict[str, bytes] = {}
    last_job: int = 0

    def copy(self) -> _Tables:
        attempts = {job: dict(some) for job, some in self.attempts.items()}
        return _Tables(dict(self.jobs), dict(self.events), attempts, dict(self.settings), self.last_job)

    def record(self, id_: int) -> Record:
        return msgspec.json.decode(self.jobs[id_], type=Record)

    def records(self) -> list[Record]:
        return [self.record(id_) for id_ in sorted(self.jobs)]

    def heads(self) -> list[_Head]:
        return [_head(self.jobs[id_]) for id_ in sorted(self.jobs)]


class MemoryStore:
    """`opusd.store.base.Store` without a disk; what was committed is there again after `close` and `open`."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    # --- writing ------------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> None:
        """On a copy that takes the tables' place at the end."""
        if not self._is_open:
            raise CommitFailed("the registry is closed")
        tables = self._tables.copy()
        try:
            changed = {change.after.id for change in batch.changes}
            _prune(tables, [one for one in batch.pruned if one[0] not in changed])
            for change in batch.changes:
                _apply(tables, change)
            for id_ in changed:
                _check(tables.record(id_))
            for event in [*batch.events, *(change.event for change in batch.changes if change.event is not None)]:
                if event.cursor in tables.events:
                    raise CommitRefused(f"event {event.cursor} is there already")
                tables.events[event.cursor] = _encode(event)
            for name, value in batch.settings.items():
                if value is None:
                    tables.settings.pop(name, None)
                else:
                    tables.settings[name] = _encode(value)
            _check_keys(tables)
            _prune(tables, [one for one in batch.pruned if one[0] in changed])
        except (TypeError, ValueError, OverflowError) as error:
            raise CommitRefused(f"the batch can't be encoded: {error}") from error
        self._tables = tables

    async def forget(self, before: int, limit: int) -> Forgotten:
        tables = self._open().copy()
        past = [record for record in tables.records() if record.pruned and _ended_before(record.job, before)]
        awaited = _awaited(tables)
        jobs = [record.job for record in sorted(past, key=_by_end) if record.job.id not in awaited][:limit]
        ended = _ended(tables, [job.id for job in jobs])
        for job in jobs:
            del tables.jobs[job.id]
            tables.attempts.pop(job.id, None)
        gone = 0
        for event in _events(tables)[:-1]:
            if event.time >= before or len(jobs) + gone == limit:
                break
            del tables.events[event.cursor]
            gone += 1
        self._tables = tables
        return Forgotten(dict(Counter(job.status.value for job in jobs)), gone, ended)

    # --- reading ------------------------------------------------------------------------------------

    async def load_active(self) -> Snapshot:
        tables = self._open()
        jobs = [record.job for record in tables.records() if not record.job.final]
        settings = {name: msgspec.json.decode(value) for name, value in tables.settings.items()}
        finals = Counter(record.job.status.value for record in tables.records() if record.job.final)
        ended = _ended(tables, tables.attempts)
        return Snapshot(jobs, tables.last_job, max(tables.events, default=0), settings, dict(finals), ended)

    async def records(self, ids: Sequence[int]) -> list[Record]:
        tables = self._open()
        return _with_dependents(tables, [tables.record(id_) for id_ in ids if id_ in tables.jobs])

    async def details(self, ids: Sequence[int]) -> dict[int, Detail]:
        records = await self.records(ids)
        return {record.job.id: Detail(record.spec, record.outcome, record.dependents) for record in records}

    async def by_key(self, keys: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        return {
            record.job.key: (record.job.id, record.spec.digest)
            for record in self._open().records()
            if record.job.key is not None and record.job.key in keys and not record.pruned
        }

    async def query(self, query: Query) -> list[Record]:
        found = [record for record in self._open().records() if _matches(query, record)]
        found.sort(key=lambda record: _place(query.order, sort_values(query.order, record.job)))
        if query.after is not None:
            last = _place(query.order, query.after)
            found = [record for record in found if _place(query.order, sort_values(query.order, record.job)) > last]
        return _with_dependents(self._open(), found[: query.limit])

    async def attempts(self, job: int) -> list[Attempt]:
        attempts = self._open().attempts.get(job, {})
        return [msgspec.json.decode(attempts[number], type=Attempt) for number in sorted(attempts)]

    async def unpruned(self, ids: Sequence[int]) -> set[int]:
        return {head.job.id for head in self._open().heads() if not head.pruned}.intersection(ids)

    async def tree_size(self, root: int) -> int:
        return sum(root in head.job.ancestors for head in self._open().heads())

    async def events(
        self, since: int, limit: int, *, kinds: Sequence[str] = (), jobs: Sequence[int] = (), group: str | None = None
    ) -> list[Event]:
        tables = self._open()

        def wanted(event: Event) -> bool:
            return (
                event.cursor > since
                and (not kinds or event.kind in kinds)
                and (not jobs or event.job in jobs)
                and (group is None or (event.job in tables.jobs and tables.record(event.job).job.terms.group == group))
            )

        return [event for event in _events(tables) if wanted(event)][:limit]

    async def history(self, job: int, limit: int) -> list[Event]:
        return [event for event in _events(self._open()) if event.job == job][-limit:]

    async def oldest_event(self) -> int:
        oldest = min(self._open().events, default=0)
        return oldest if oldest > 1 else 0

    async def durations(self, agent: str, type_: str | None) -> list[int]:
        ended = sorted((record for record in self._open().records() if record.job.final), key=_by_end, reverse=True)
        return [
            job.completed_at - job.started_at
            for job in (record.job for record in ended[:DURATIONS_AMONG])
            if job.status is Status.COMPLETED
            and job.started_at is not None
            and job.completed_at is not None
            and job.terms.agent == agent
            and type_ in (None, job.terms.type)
        ][:DURATIONS]

    async def prunable(self, before: int, statuses: Sequence[str], limit: int) -> list[int]:
        tables = self._open()
        awaited = _awaited(tables)
        found = [
            record
            for record in tables.records()
            if _ended_before(record.job, before)
            and not record.pruned
            and (not statuses or record.job.status in statuses)
            and record.job.id not in awaited
        ]
        return [record.job.id for record in sorted(found, key=_by_end)][:limit]

    async def backup(self, path: Path) -> None:
        text = _encode(self._open())
        with making_backup(path):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)

    async def facts(self) -> dict[str, Any]:
        return {"store": "memory"}

    def _open(self) -> _Tables:
        if not self._is_open:
            raise StorageUnavailable("the registry is closed")
        return self._tables


# --- one batch --------------------------------------------------------------------------------------


def _apply(tables: _Tables, change: Change) -> None:
    before, after = change.before, change.after
    known = tables.record(after.id) if after.id in tables.jobs else None
    if before is None:
        if known is not None:
            raise CommitRefused(f"job {after.id} is there already")
        if change.spec is None:
            raise CommitRefused(f"job {after.id}: a new job without a spec")
        tables.last_job = max(tables.last_job, after.id)
        known = Record(after, change.spec, Outcome())
    elif known is None or known.job.version != before.version:
        raise CommitRefused(f"job {after.id} is not as it was expected")
    elif _birth(before) != _birth(after):
        raise CommitRefused(f"job {after.id}: its id, key, ancestors and created_at never change")
    tables.jobs[after.id] = _encode(
        Record(after, change.spec or known.spec, change.outcome or known.outcome, known.pruned)
    )
    if change.attempt is not None:
        if change.attempt.job != after.id:
            raise CommitRefused(f"job {after.id}: an attempt of job {change.attempt.job}")
        tables.attempts.setdefault(after.id, {})[change.attempt.run.attempt] = _encode(change.attempt)


def _birth(job: Job) -> tuple[object, ...]:
    return (job.id, job.key, job.ancestors, job.created_at)


def _check(record: Record) -> None:
    """What a job of each status has."""
    job = record.job
    holds = {
        "completed_at exactly when final": (job.completed_at is not None) == (job.status in FINAL),
        "a run exactly when an attempt is under way": (job.run is not None) == (job.status in ALIVE),
        "queued_at when queued": job.status is not Status.QUEUED or job.queued_at is not None,
        "run_at when scheduled": job.status is not Status.SCHEDULED or job.run_at is not None,
        "due_at when backing off": job.status is not Status.RETRYING or job.due_at is not None,
        "not been pruned, or stay final": job.final or not record.pruned,
        "a version": job.version >= 1,
        "counts": min(job.attempts, job.retries, job.losses) >= 0,
        "a boost within 49": abs(job.terms.boost) <= 49,
        "no edge to itself": all(edge.upstream != job.id for edge in job.edges),
        "older ancestors": all(ancestor < job.id for ancestor in job.ancestors),
    }
    for what, true in holds.items():
        if not true:
            raise CommitRefused(f"job {job.id} is {job.status}: it must have {what}")


def _check_keys(tables: _Tables) -> None:
    keys = [head.job.key for head in tables.heads() if head.job.key is not None and not head.pruned]
    if len(keys) != len(set(keys)):
        raise CommitRefused("a key is in use")


def _prune(tables: _Tables, pruned: Sequence[tuple[int, bool]]) -> None:
    for id_, free_key in pruned:
        if id_ not in tables.jobs:
            raise CommitRefused(f"job {id_} can't be pruned: it is not there")
        record = tables.record(id_)
        if not record.job.final:
            raise CommitRefused(f"job {id_} can't be pruned: it is {record.job.status}")
        spec, job = record.spec, record.job
        tables.jobs[id_] = _encode(
            Record(
                msgspec.structs.replace(job, key=None) if free_key else job,
                _stripped(spec),
                msgspec.structs.replace(record.outcome, result=None, verify_output=None),
                pruned=True,
            )
        )


def _stripped(spec: Spec) -> Spec:
    return msgspec.structs.replace(spec, prompt=None, command=None, payload={}, metadata={}, env={})


# --- reading ------------------------------------------------------------------------------------------


def _events(tables: _Tables) -> list[Event]:
    return [msgspec.json.decode(tables.events[cursor], type=Event) for cursor in sorted(tables.events)]


def _with_dependents(tables: _Tables, records: list[Record]) -> list[Record]:
    found: dict[int, list[int]] = {}
    for head in tables.heads():
        for upstream in {edge.upstream for edge in head.job.edges}:
            found.setdefault(upstream, []).append(head.job.id)
    return [msgspec.structs.replace(one, dependents=tuple(found.get(one.job.id, ()))) for one in records]


def _awaited(tables: _Tables) -> set[int]:
    """The jobs that an unfinished one has an edge to."""
    return {edge.upstream for head in tables.heads() if not head.job.final for edge in head.job.edges}


def _ended(tables: _Tables, jobs: Iterable[int]) -> dict[str, tuple[int, int]]:
    """By agent: the attempts of these jobs that have ended, and of which succeeded."""
    ended: dict[str, tuple[int, int]] = {}
    for row in (one for job in jobs for one in tables.attempts.get(job, {}).values()):
        attempt = msgspec.json.decode(row, type=Attempt)
        if attempt.ended_at is not None:
            all_, good = ended.get(attempt.agent, (0, 0))
            ended[attempt.agent] = (all_ + 1, good + (attempt.failure is None))
    return ended


def _ended_before(job: Job, before: int) -> bool:
    return job.completed_at is not None and job.completed_at < before


def _by_end(record: Record) -> tuple[int, int]:
    assert record.job.completed_at is not None
    return record.job.completed_at, record.job.id


def _place(order: str, values: tuple[int, ...]) -> tuple[int, ...]:
    sign = -1 if order.startswith("-") else 1
    if order in ("id", "-id"):
        return (sign * values[0],)
    ended, id_ = values
    return (1 if ended < 0 else 0, sign * ended, sign * id_)


def _matches(query: Query, record: Record) -> bool:
    job, terms, spec = record.job, record.job.terms, record.spec
    time = {"created": job.created_at, "started": job.started_at, "completed": job.completed_at}[query.time]
    return (
        (query.ids is None or job.id in query.ids)
        and (query.status is None or job.status in query.status)
        and (query.tier is None or terms.tier in query.tier)
        and (query.type is None or terms.type in query.type)
        and (query.agent is None or terms.agent in query.agent)
        and (query.source is None or terms.source in query.source)
        and (query.label is None or query.label in spec.labels)
        and (query.group is None or terms.group == query.group)
        and (query.parent is None or job.parent == query.parent)
        and (query.since is None or (time is not None and time >= query.since))
        and (query.until is None or (time is not None and time < query.until))
        and (query.text is None or contains(spec.title, query.text) or contains(spec.prompt, query.text))
        and (not query.dead or (job.status is Status.FAILED and not job.escalated and not record.pruned))
    )
