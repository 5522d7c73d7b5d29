"""Records to rows and back. Nothing here knows a statement, a connection or a file.

A row holds exact `str` and `int` objects: sqlite3 asks its adapters about every enum, which costs more
than the insert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from opusd.core.job import (
    Attempt,
    Edge,
    EdgeState,
    Ending,
    Event,
    Extra,
    IfUnmet,
    Job,
    On,
    Outcome,
    Run,
    Spec,
    kept,
)
from opusd.core.lifecycle import Status
from opusd.store.base import Detail, Record
from opusd.store.sqlite_terms import terms_from

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[Any, ...]

# All of a job beside its id and when it was made, as one value: a start, for which each costs, reads the same one.
JOB_REST: Final = """
CAST(json_array(terms, version, queued_at, key, status, run_at, due_at, started_at, completed_at,
                json('[' || ancestors || ']'), attempts, retries, losses, json(run), json(extra)) AS BLOB)
"""
JOB_COLUMNS: Final = f"jobs.id, created_at, {JOB_REST}"
SPEC_COLUMNS: Final = "digest, title, labels, spec, prompt"
ATTEMPT_COLUMNS: Final = (
    "job, attempt, agent, attempt_id, token_hash, slot, over, started_at, timeout_at, ending, kill_at, ending_by,"
    " ending_reason, worker, lease_until, ended_at, failure, message, exit_code, signal, session_id, usage, log_bytes"
)
EVENT_COLUMNS: Final = "cursor, time, kind, job, attempt, from_status, to_status, actor, detail"


class _Rest(msgspec.Struct, array_like=True):
    """JOB_REST, which may end after any field that has a default."""

    terms: str
    version: int
    queued_at: int | None
    key: str | None
    status: Status = Status.QUEUED
    run_at: int | None = None
    due_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    ancestors: tuple[int, ...] | None = None
    attempts: int = 0
    retries: int = 0
    losses: int = 0
    run: Run | None = None
    extra: Extra | None = None


class _SpecRest(msgspec.Struct, omit_defaults=True):
    """The column `spec`: what pruning removes by name is `command`, `payload`, `metadata` and `env`."""

    command: list[str] | None = None
    payload: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    cwd: str = "/"
    env: dict[str, Any] = {}
    worktree: bool = False
    verify: list[str] | None = None
    previous: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []


_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_decode_rest = msgspec.json.Decoder(_Rest).decode
_decode_spec = msgspec.json.Decoder(_SpecRest).decode
_decode_outcome = msgspec.json.Decoder(Outcome).decode
_decode_strings = msgspec.json.Decoder(list[str]).decode
_decode_ids = msgspec.json.Decoder(tuple[int, ...]).decode
_decode_edges = msgspec.json.Decoder(list[tuple[int, On, IfUnmet, EdgeState]]).decode


def to_json(value: object) -> str:
    return _encode(value).decode()


def from_json(text: str) -> Any:
    return _decode_any(text)


# --- jobs -----------------------------------------------------------------------------------------


def state_row(job: Job) -> Row:
    """What most changes change: status, times, counts and the run."""
    run = job.run
    return (
        job.version,
        job.status._value_,
        job.queued_at,
        job.run_at,
        job.due_at,
        job.started_at,
        job.attempts,
        job.retries,
        job.losses,
        None if run is None else _encode(run).decode(),
        None if job.extra is None else _encode(job.extra).decode(),
    )


def birth_row(job: Job) -> Row:
    """What never changes."""
    ancestors = job.ancestors
    if not ancestors:
        return (job.id, job.created_at, job.key, None, None)
    return (job.id, job.created_at, job.key, ancestors[-1], ",".join(map(str, ancestors)))


def job_from(id_: int, created_at: int, rest: bytes, edges: tuple[Edge, ...] = ()) -> Job:
    """A Job of JOB_COLUMNS."""
    more = _decode_rest(rest)
    return Job(
        id=id_,
        version=more.version,
        status=more.status,
        terms=terms_from(more.terms),
        created_at=created_at,
        queued_at=more.queued_at,
        run_at=more.run_at,
        due_at=more.due_at,
        started_at=more.started_at,
        completed_at=more.completed_at,
        key=more.key,
        ancestors=more.ancestors or (),
        edges=edges,
        attempts=more.attempts,
        retries=more.retries,
        losses=more.losses,
        run=more.run,
        extra=None if more.extra is None else kept(more.extra),
    )


def edge_row(job: int, position: int, edge: Edge) -> Row:
    return (job, position, edge.upstream, edge.on._value_, edge.if_unmet._value_, edge.state._value_)


def edge_from(upstream: int, on: str, if_unmet: str, state: str) -> Edge:
    return Edge(upstream, On(on), IfUnmet(if_unmet), EdgeState(state))


def edges_from(text: str) -> tuple[Edge, ...]:
    """Edges from a JSON list of [upstream, on, if_unmet, state]."""
    return () if text == "[]" else tuple(Edge(*columns) for columns in _decode_edges(text))


# --- the rest of a record ---------------------------------------------------------------------------


def spec_row(spec: Spec) -> Row:
    """SPEC_COLUMNS."""
    rest = _SpecRest(
        spec.command,
        spec.payload,
        spec.metadata,
        spec.cwd,
        spec.env,
        spec.worktree,
        spec.verify,
        spec.previous,
        spec.answers,
    )
    return (
        spec.digest,
        spec.title,
        _encode(spec.labels).decode() if spec.labels else None,
        _encode(rest).decode(),
        spec.prompt,
    )


def spec_from(row: Row) -> Spec:
    digest, title, labels, text, prompt = row
    rest = _decode_spec(text)
    return Spec(
        title=title,
        prompt=prompt,
        command=rest.command,
        payload=rest.payload,
        metadata=rest.metadata,
        labels=[] if labels is None else _decode_strings(labels),
        cwd=rest.cwd,
        env=rest.env,
        worktree=rest.worktree,
        verify=rest.verify,
        previous=rest.previous,
        answers=rest.answers,
        digest=digest,
    )


def record_from(row: Row) -> Record:
    """A Record of JOB_COLUMNS, SPEC_COLUMNS, outcome, pruned, edges, dependents."""
    id_, created_at, rest = row[:3]
    outcome, pruned, edges, dependents = row[8:]
    return Record(
        job_from(id_, created_at, rest, edges_from(edges)),
        spec_from(row[3:8]),
        Outcome() if outcome is None else _decode_outcome(outcome),
        pruned == 1,
        () if dependents == "[]" else _decode_ids(dependents),
    )


def detail_from(row: Row) -> Detail:
    """A Detail of a job's id, SPEC_COLUMNS, outcome, dependents."""
    outcome, dependents = row[6:]
    return Detail(
        spec_from(row[1:6]),
        Outcome() if outcome is None else _decode_outcome(outcome),
        () if dependents == "[]" else _decode_ids(dependents),
    )


def attempt_row(attempt: Attempt) -> Row:
    """ATTEMPT_COLUMNS."""
    run, ending = attempt.run, attempt.run.ending
    return (
        attempt.job,
        run.attempt,
        attempt.agent,
        run.attempt_id,
        run.token_hash,
        run.slot,
        1 if run.over else 0,
        run.started_at,
        run.timeout_at,
        None if ending is None else ending._value_,
        run.kill_at,
        run.ending_by,
        run.ending_reason,
        run.worker,
        run.lease_until,
        attempt.ended_at,
        None if attempt.failure is None else str(attempt.failure),
        attempt.message,
        attempt.exit_code,
        attempt.signal,
        attempt.session_id,
        None if attempt.usage is None else to_json(attempt.usage),
        attempt.log_bytes,
    )


def attempt_from(row: Row) -> Attempt:
    run = Run(
        attempt=row[1],
        attempt_id=row[3],
        token_hash=row[4],
        slot=row[5],
        over=row[6] == 1,
        started_at=row[7],
        timeout_at=row[8],
        ending=None if row[9] is None else Ending(row[9]),
        kill_at=row[10],
        ending_by=row[11],
        ending_reason=row[12],
        worker=row[13],
        lease_until=row[14],
    )
    return Attempt(
        job=row[0],
        agent=row[2],
        run=run,
        ended_at=row[15],
        failure=row[16],
        message=row[17],
        exit_code=row[18],
        signal=row[19],
        session_id=row[20],
        usage=None if row[21] is None else from_json(row[21]),
        log_bytes=row[22],
    )


def event_row(event: Event) -> Row:
    """EVENT_COLUMNS."""
    before, after, detail = event.before, event.after, event.detail
    return (
        event.cursor,
        event.time,
        event.kind,
        event.job,
        event.attempt,
        None if before is None else str(before),
        None if after is None else str(after),
        event.actor,
        None if detail is None else _encode(detail).decode(),
    )


def event_from(row: Row) -> Event:
    cursor, time, kind, job, attempt, before, after, actor, detail = row
    return Event(
        cursor=cursor,
        time=time,
        kind=kind,
        job=job,
        attempt=attempt,
        before=before,
        after=after,
        actor=actor,
        detail=None if detail is None else _decode_any(detail),
    )


def by_agent(rows: Iterable[Row]) -> dict[str, tuple[int, int]]:
    """Attempts that have ended, and of which succeeded."""
    return {str(agent): (int(all_), int(good)) for agent, all_, good in rows}
