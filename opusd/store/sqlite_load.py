"""What a start reads: every unfinished job, and what is counted once. One connection, one moment of the registry.

A job that just waits, as nearly all of a million do, comes as three values: its id, when it was made, and its Terms.
Each value of a million rows costs 100 ms, and a text that is hashed 150: so Terms that many have come as a number.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from opusd.core.errors import StorageUnavailable
from opusd.core.job import Edge, Job
from opusd.core.lifecycle import Status
from opusd.store import sqlite_query
from opusd.store.base import Snapshot
from opusd.store.sqlite_open import uri
from opusd.store.sqlite_rows import JOB_REST, by_agent, edge_from, from_json, job_from
from opusd.store.sqlite_terms import terms_from

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CHUNK: Final = 4_000
"""Jobs of one statement: the rows of a million take more room than the jobs."""
_FREQUENT: Final = 8
"""Terms that come as a number; those of the last jobs of a chunk, for the next are likely to be like them."""
_LOOKED_AT: Final = 64

_NUMBER: Final = f"CASE terms {' '.join(f'WHEN :t{at} THEN {at}' for at in range(1, _FREQUENT + 1))} ELSE terms END"
_REST: Final = f"""
CASE WHEN status = 'queued' AND run_at IS NULL AND due_at IS NULL AND started_at IS NULL AND ancestors IS NULL
          AND attempts = 0 AND retries = 0 AND losses = 0 AND extra IS NULL
     THEN CASE WHEN version = 1 AND queued_at = created_at AND key IS NULL THEN {_NUMBER}
               ELSE CAST(json_array(terms, version, queued_at, key) AS BLOB) END
     ELSE {JOB_REST} END
"""
LOAD: Final = f"""
SELECT id, created_at, {_REST} FROM jobs WHERE completed_at IS NULL AND id > :last ORDER BY id LIMIT :chunk
"""
# Of ids without a gap the rows are read as they lie, and their number says which they are.
_LOAD_DENSE: Final = f"""
SELECT created_at, {_REST} FROM jobs NOT INDEXED
 WHERE completed_at IS NULL AND id BETWEEN :last + 1 AND :last + :chunk ORDER BY id
"""


def load(path: Path, chunk: int = _CHUNK) -> Snapshot:
    """StorageUnavailable when the registry at `path` can't be read. Meant for a thread of its own."""
    try:
        with closing(sqlite3.connect(uri(path, "ro"), uri=True, isolation_level=None, timeout=2)) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            return _snapshot(db, chunk)
    except sqlite3.Error as error:
        raise StorageUnavailable(f"the registry can't be read: {error}") from error


def _snapshot(db: sqlite3.Connection, chunk: int) -> Snapshot:
    edges: dict[int, list[Edge]] = {}
    for job, *columns in db.execute(sqlite_query.LOAD_EDGES):
        edges.setdefault(job, []).append(edge_from(*columns))
    others, alike = _jobs(db, chunk)
    if edges:
        linked = [job for jobs in (others, *alike) for job in jobs if job.id in edges]
        alike = [[job for job in jobs if job.id not in edges] for jobs in alike]
        others = [job for job in others if job.id not in edges]
        others += [msgspec.structs.replace(job, edges=tuple(edges[job.id])) for job in linked]
    settings = {name: from_json(value) for name, value in db.execute(sqlite_query.LOAD_SETTINGS)}
    [(last_job, last_event)] = db.execute(sqlite_query.LAST_IDS)
    finals = dict(db.execute(sqlite_query.FINALS))
    ended = by_agent(db.execute(sqlite_query.ENDED))
    return Snapshot(others, last_job, last_event, settings, finals, ended, [jobs for jobs in alike if jobs])


def _jobs(db: sqlite3.Connection, chunk: int) -> tuple[list[Job], list[list[Job]]]:
    """Those that have something of their own, and those that just wait, by their Terms; without edges."""
    others: list[Job] = []
    alike: list[list[Job]] = []
    frequent: list[str] = []
    queued, last, dense = Status.QUEUED, 0, False
    while True:
        where = where_from(last, chunk, frequent)
        rows: Sequence[tuple[int, Any]] = db.execute(_LOAD_DENSE, where).fetchall() if dense else ()
        if len(rows) == chunk:
            ids: Sequence[int] = range(last + 1, last + chunk + 1)
        else:
            found = db.execute(LOAD, where).fetchall()
            if not found:
                return others, alike
            ids = [number for number, _, _ in found]
            rows = [(created, rest) for _, created, rest in found]
            dense = ids[-1] - ids[0] == len(ids) - 1
        waiting: list[list[Job]] = [[] for _ in frequent]
        places = {at: (terms_from(text), waiting[at - 1].append) for at, text in enumerate(frequent, 1)}
        find = places.get
        for number, (created, rest) in zip(ids, rows, strict=True):
            if (known := find(rest)) is None:
                others.append(_job(number, created, rest))
            else:
                terms, append = known
                append(Job(id=number, status=queued, terms=terms, created_at=created, queued_at=created))
        alike += filter(None, waiting)
        last = ids[-1]
        new = {rest for _, rest in rows[-_LOOKED_AT:] if isinstance(rest, str)}
        frequent = [*frequent, *new][-_FREQUENT:]


def where_from(last: int, chunk: int, frequent: Sequence[str] = ()) -> dict[str, Any]:
    """The values of LOAD: the jobs behind the last one."""
    terms: dict[str, str | None] = dict.fromkeys((f"t{at}" for at in range(1, _FREQUENT + 1)), None)
    return {"last": last, "chunk": chunk, **terms, **{f"t{at}": text for at, text in enumerate(frequent, 1)}}


def _job(number: int, created: int, rest: str | bytes) -> Job:
    if isinstance(rest, bytes):
        return job_from(number, created, rest)
    return Job(id=number, status=Status.QUEUED, terms=terms_from(rest), created_at=created, queued_at=created)
