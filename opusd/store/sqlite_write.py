"""A batch as the few statements that one transaction runs. Nothing here knows a connection.

The steps of one job within a batch become one: the row goes from the first `before` to the last
`after`, for nobody can see what lies between. So each job is written once, no two rows of a batch
concern one job, and all rows of a kind go together, whatever the order of decision was.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from opusd.core.job import Change, Job, Outcome, Spec
from opusd.store import sqlite_rows as rows
from opusd.store.base import Batch, CommitRefused
from opusd.store.sqlite_terms import TERMS_COLUMNS, terms_row

_STATE: Final = "version, status, queued_at, run_at, due_at, started_at, attempts, retries, losses, run, extra"


class Values(NamedTuple):
    """An INSERT or REPLACE up to its rows; `width` is how many columns each has."""

    before: str
    width: int


@lru_cache(maxsize=256)
def text_of(sql: Values, count: int) -> str:
    """The statement for so many rows."""
    row = f"({', '.join('?' * sql.width)})"
    return f"{sql.before} VALUES {', '.join([row] * count)}"


def _into(table: str, columns: str, verb: str = "INSERT") -> Values:
    return Values(f"{verb} INTO {table} ({columns})", columns.count(",") + 1)


def _settings(columns: str) -> str:
    return ", ".join(f"{column.strip()} = ?" for column in columns.split(","))


INSERT_JOB: Final = _into("jobs", f"id, created_at, key, parent, ancestors, {_STATE}, completed_at, {TERMS_COLUMNS}")
# Without completed_at SQLite leaves the index over it alone.
UPDATE_STATE: Final = f"UPDATE jobs SET {_settings(_STATE)} WHERE id = ? AND version = ?"
UPDATE_END: Final = f"UPDATE jobs SET {_settings(_STATE)}, completed_at = ? WHERE id = ? AND version = ?"
UPDATE_TERMS: Final = f"UPDATE jobs SET {_settings(TERMS_COLUMNS)} WHERE id = ?"
INSERT_SPEC: Final = _into("specs", f"{rows.SPEC_COLUMNS}, job")
UPDATE_SPEC: Final = f"UPDATE specs SET {_settings(rows.SPEC_COLUMNS)} WHERE job = ?"
PUT_OUTCOME: Final = _into("outcomes", "job, outcome", "REPLACE")
PUT_EDGE: Final = _into("dependencies", "job, position, upstream, on_end, if_unmet, state", "REPLACE")
DROP_EDGES: Final = "DELETE FROM dependencies WHERE job = ? AND position >= ?"
INSERT_ANCESTRY: Final = _into("ancestry", "ancestor, job")
DROP_ANCESTRY: Final = (
    "DELETE FROM ancestry WHERE job = ? AND ancestor IN"
    " (SELECT value FROM jobs, json_each('[' || ancestors || ']') WHERE jobs.id = ?)"
)
PUT_ATTEMPT: Final = _into("attempts", rows.ATTEMPT_COLUMNS, "REPLACE")
INSERT_EVENT: Final = _into("events", rows.EVENT_COLUMNS)
PUT_SETTING: Final = _into("settings", "name, value", "REPLACE")
DROP_SETTING: Final = "DELETE FROM settings WHERE name = ?"
PRUNE_JOB: Final = (
    "UPDATE jobs SET pruned = 1, key = CASE WHEN ? THEN NULL ELSE key END WHERE id = ? AND completed_at IS NOT NULL"
)
PRUNE_SPEC: Final = (
    "UPDATE specs SET prompt = NULL, spec = json_remove(spec, '$.command', '$.payload', '$.metadata', '$.env',"
    " '$.previous', '$.answers')"
    " WHERE job = ?"
)
PRUNE_OUTCOME: Final = "UPDATE outcomes SET outcome = json_remove(outcome, '$.result', '$.verify_output') WHERE job = ?"


class Statement(NamedTuple):
    """`expected` is the number of rows that must change; None: any. Text is run for one row after the other."""

    sql: Values | str
    rows: list[tuple[Any, ...]]
    expected: int | None = None


class _Steps:
    """All that a batch does to one job."""

    __slots__ = ("after", "before", "outcome", "spec")

    def __init__(self, change: Change) -> None:
        self.before = change.before
        self.after = change.after
        self.spec: Spec | None = change.spec
        self.outcome: Outcome | None = change.outcome

    def follow(self, change: Change) -> None:
        before = change.before
        if before is None or before.version != self.after.version:
            raise CommitRefused(f"job {self.after.id}: a step that does not follow on the one before it in its batch")
        _same_birth(self.after, change.after)
        self.after = change.after
        self.spec = change.spec or self.spec
        self.outcome = change.outcome or self.outcome


def stage(batch: Batch) -> list[Statement]:
    """The statements of one transaction, in order; CommitRefused when the batch contradicts itself."""
    steps: dict[int, _Steps] = {}
    births: list[_Steps] = []
    changed: list[_Steps] = []
    events = list(batch.events)
    attempts: dict[tuple[int, int], tuple[Any, ...]] = {}
    for change in batch.changes:
        id_ = change.after.id
        known = steps.get(id_)
        if known is None:
            steps[id_] = step = _Steps(change)
            (births if change.before is None else changed).append(step)
        else:
            known.follow(change)
        attempt = change.attempt
        if attempt is not None:
            if attempt.job != id_:
                raise CommitRefused(f"job {id_}: an attempt of job {attempt.job}")
            attempts[id_, attempt.run.attempt] = rows.attempt_row(attempt)
        if change.event is not None:
            events.append(change.event)
    events.sort(key=attrgetter("cursor"))
    # A pruned key is free for the batch's new jobs; a job that ends in this batch is pruned after it ended.
    early = [one for one in batch.pruned if one[0] not in steps]
    late = [one for one in batch.pruned if one[0] in steps]
    statements = [
        *(_prune(early) if early else ()),
        *(_births(births) if births else ()),
        *(_changes(changed) if changed else ()),
        Statement(PUT_ATTEMPT, list(attempts.values())),
        Statement(INSERT_EVENT, [rows.event_row(event) for event in events]),
        *(_settings_of(batch) if batch.settings else ()),
        *(_prune(late) if late else ()),
    ]
    return [statement for statement in statements if statement.rows]


def _births(steps: list[_Steps]) -> list[Statement]:
    jobs, specs, outcomes, edges, ancestry = [], [], [], [], []
    for step in steps:
        job = step.after
        if step.spec is None:
            raise CommitRefused(f"job {job.id}: a new job without a spec")
        jobs.append((*rows.birth_row(job), *rows.state_row(job), job.completed_at, *terms_row(job.terms)))
        specs.append((*rows.spec_row(step.spec), job.id))
        if step.outcome is not None:
            outcomes.append((job.id, rows.to_json(step.outcome)))
        if job.edges:
            edges += [rows.edge_row(job.id, position, edge) for position, edge in enumerate(job.edges)]
        if job.ancestors:
            ancestry += [(ancestor, job.id) for ancestor in job.ancestors]
    return [
        Statement(INSERT_JOB, jobs),
        Statement(INSERT_SPEC, specs),
        Statement(PUT_OUTCOME, outcomes),
        Statement(PUT_EDGE, edges),
        Statement(INSERT_ANCESTRY, ancestry),
    ]


def _changes(steps: list[_Steps]) -> list[Statement]:
    states, ends, terms, specs, outcomes, edges, dropped = [], [], [], [], [], [], []
    for step in steps:
        before, job = step.before, step.after
        assert before is not None
        _same_birth(before, job)
        if before.completed_at == job.completed_at:
            states.append((*rows.state_row(job), job.id, before.version))
        else:
            ends.append((*rows.state_row(job), job.completed_at, job.id, before.version))
        if before.terms is not job.terms:
            terms.append((*terms_row(job.terms), job.id))
        if step.spec is not None:
            specs.append((*rows.spec_row(step.spec), job.id))
        if step.outcome is not None:
            outcomes.append((job.id, rows.to_json(step.outcome)))
        if before.edges is not job.edges:
            old = before.edges
            for position, edge in enumerate(job.edges):
                if position >= len(old) or (edge is not old[position] and edge != old[position]):
                    edges.append(rows.edge_row(job.id, position, edge))
            if len(old) > len(job.edges):
                dropped.append((job.id, len(job.edges)))
    return [
        Statement(UPDATE_STATE, states, len(states)),
        Statement(UPDATE_END, ends, len(ends)),
        Statement(UPDATE_TERMS, terms, len(terms)),
        Statement(UPDATE_SPEC, specs, len(specs)),
        Statement(PUT_OUTCOME, outcomes),
        Statement(DROP_EDGES, dropped),
        Statement(PUT_EDGE, edges),
    ]


def _same_birth(before: Job, after: Job) -> None:
    if (
        before.id != after.id
        or before.key != after.key
        or before.created_at != after.created_at
        or before.ancestors != after.ancestors
    ):
        raise CommitRefused(f"job {before.id}: its id, key, ancestors and created_at never change")


def _settings_of(batch: Batch) -> list[Statement]:
    kept = [(name, rows.to_json(value)) for name, value in batch.settings.items() if value is not None]
    dropped = [(name,) for name, value in batch.settings.items() if value is None]
    return [Statement(PUT_SETTING, kept), Statement(DROP_SETTING, dropped)]


def _prune(pruned: list[tuple[int, bool]]) -> list[Statement]:
    jobs = [(job,) for job, _ in pruned]
    return [
        Statement(PRUNE_JOB, [(1 if free_key else 0, job) for job, free_key in pruned], len(pruned)),
        Statement(PRUNE_SPEC, jobs, len(jobs)),
        Statement(PRUNE_OUTCOME, jobs),
    ]


def forget(jobs: list[int], events_below: int) -> list[Statement]:
    """Remove these pruned jobs entirely, and the events with a smaller cursor."""
    ids = [(job,) for job in jobs]
    statements = [
        Statement(DROP_ANCESTRY, [(job, job) for job in jobs]),
        Statement("DELETE FROM jobs WHERE id = ? AND pruned = 1", ids, len(ids)),
        Statement("DELETE FROM specs WHERE job = ?", ids),
        Statement("DELETE FROM outcomes WHERE job = ?", ids),
        Statement("DELETE FROM attempts WHERE job = ?", ids),
        Statement("DELETE FROM dependencies WHERE job = ?", ids),
        Statement("DELETE FROM events WHERE cursor < ?", [(events_below,)] if events_below else []),
    ]
    return [statement for statement in statements if statement.rows]
