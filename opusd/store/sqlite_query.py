"""Reads as SQL text and its parameters. Nothing here knows a connection.

Lists of values go in as one JSON parameter, so that the text, and with it the prepared statement, does
not depend on how many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opusd.core.lifecycle import FINAL, Status
from opusd.store.base import DURATIONS, DURATIONS_AMONG, Query
from opusd.store.sqlite_rows import ATTEMPT_COLUMNS, EVENT_COLUMNS, JOB_COLUMNS, SPEC_COLUMNS, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Bound = tuple[str, list[Any]]

_AMONG: Final = "IN (SELECT value FROM json_each(?))"
_DEPENDENTS: Final = """
(SELECT json_group_array(job) FROM (SELECT DISTINCT job FROM dependencies WHERE upstream = {job} ORDER BY job))
"""
# One statement, so that a record is of one moment.
_RECORD: Final = f"""
SELECT {JOB_COLUMNS}, {SPEC_COLUMNS}, outcome, pruned,
       (SELECT json_group_array(json_array(upstream, on_end, if_unmet, state))
          FROM (SELECT * FROM dependencies WHERE dependencies.job = jobs.id ORDER BY position)),
       {_DEPENDENTS.format(job="jobs.id")}
  FROM jobs CROSS JOIN specs ON specs.job = jobs.id
  LEFT JOIN outcomes ON outcomes.job = jobs.id
"""

# Of jobs that memory knows: without the table of jobs, a page less to find for each.
_DETAIL: Final = f"""
SELECT specs.job, {SPEC_COLUMNS}, outcome, {_DEPENDENTS.format(job="specs.job")}
  FROM specs LEFT JOIN outcomes ON outcomes.job = specs.job
"""
LOAD_EDGES: Final = """
SELECT dependencies.job, upstream, on_end, if_unmet, state
  FROM dependencies CROSS JOIN jobs ON jobs.id = dependencies.job
 WHERE jobs.completed_at IS NULL ORDER BY dependencies.job, position
"""
LOAD_SETTINGS: Final = "SELECT name, value FROM settings"
LAST_IDS: Final = """
SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0), ifnull((SELECT max(cursor) FROM events), 0)
"""
# By the index: with IS NOT NULL SQLite reads all rows, the unfinished too.
FINALS: Final = "SELECT status, count(*) FROM jobs WHERE completed_at > -1 GROUP BY status"
_ENDED: Final = "SELECT agent, count(*), sum(failure IS NULL) FROM attempts WHERE ended_at IS NOT NULL"
ENDED: Final = f"{_ENDED} GROUP BY agent"
ENDED_OF: Final = f"{_ENDED} AND job {_AMONG} GROUP BY agent"
BY_KEY: Final = f"""
SELECT key, id, digest FROM jobs CROSS JOIN specs ON specs.job = jobs.id WHERE pruned = 0 AND key {_AMONG}
"""
ATTEMPTS: Final = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job = ? ORDER BY attempt"
UNPRUNED: Final = f"SELECT id FROM jobs WHERE pruned = 0 AND id {_AMONG}"
HISTORY: Final = f"SELECT {EVENT_COLUMNS} FROM events WHERE job = ? ORDER BY cursor DESC LIMIT ?"
TREE_SIZE: Final = "SELECT count(*) FROM ancestry WHERE ancestor = ?"
OLDEST_EVENT: Final = "SELECT ifnull((SELECT min(cursor) FROM events), 0)"
# Pruned jobs that an unfinished one waits for stay, so that `show` can name what it waits for.
_UNAWAITED: Final = """
NOT EXISTS (SELECT 1 FROM dependencies CROSS JOIN jobs AS waiting ON waiting.id = dependencies.job
             WHERE dependencies.upstream = jobs.id AND waiting.completed_at IS NULL)
"""
FORGETTABLE: Final = f"""
SELECT id, status FROM jobs WHERE completed_at < ? AND pruned = 1 AND {_UNAWAITED} ORDER BY completed_at, id LIMIT ?
"""
# Events go from the old end alone and the newest stays: what is kept has no gap, and no cursor comes twice.
FORGETTABLE_EVENTS: Final = """
SELECT count(*), ifnull(max(cursor), 0) + 1 FROM (
  SELECT cursor FROM events
   WHERE cursor < (SELECT max(cursor) FROM events)
     AND cursor < ifnull((SELECT cursor FROM events WHERE time >= ? ORDER BY cursor LIMIT 1), 1 << 62)
   ORDER BY cursor LIMIT ?)
"""


def details(ids: Iterable[int]) -> Bound:
    return f"{_DETAIL} WHERE specs.job {_AMONG}", [to_json(list(ids))]


def records(ids: Iterable[int]) -> Bound:
    return f"{_RECORD} WHERE jobs.id {_AMONG}", [to_json(list(ids))]


def query(asked: Query) -> Bound:
    """The records of one page of job.list."""
    terms, values = _filters(asked)
    _after(asked, terms, values)
    where = " AND ".join(terms) or "1"
    values.append(asked.limit)
    return f"{_RECORD} WHERE {where} ORDER BY {_ORDERS[asked.order]} LIMIT ?", values


_ORDERS: Final = {
    "id": "jobs.id",
    "-id": "jobs.id DESC",
    "completed_at": "completed_at NULLS LAST, jobs.id",
    "-completed_at": "completed_at DESC, jobs.id DESC",
}
_TIMES: Final = {"created": "created_at", "started": "started_at", "completed": "completed_at"}


def _filters(asked: Query) -> tuple[list[str], list[Any]]:
    terms: list[str] = []
    values: list[Any] = []

    def add(term: str, *parameters: object) -> None:
        terms.append(term)
        values.extend(parameters)

    for column, wanted in (
        ("jobs.id", asked.ids),
        ("status", asked.status),
        ("tier", asked.tier),
        ("type", asked.type),
        ("agent", asked.agent),
        ("source", asked.source),
    ):
        if wanted is not None:
            add(f"{column} {_AMONG}", to_json(wanted))
    if asked.status is not None and not FINAL.intersection(asked.status):
        add("completed_at IS NULL")  # the index gives these at once, however many have ended
    if asked.label is not None:
        add("EXISTS (SELECT 1 FROM json_each(labels) WHERE value = ?)", asked.label)
    if asked.group is not None:
        add("grp = ?", asked.group)
    if asked.parent is not None:
        add("parent = ? AND jobs.id IN (SELECT job FROM ancestry WHERE ancestor = ?)", asked.parent, asked.parent)
    column = _TIMES[asked.time]
    if asked.since is not None:
        add(f"{column} >= ?", asked.since)
    if asked.until is not None:
        add(f"{column} < ?", asked.until)
    if asked.text is not None:
        # SQLite itself knows the cases of ASCII alone, and is no faster.
        add("(contains(title, ?) OR contains(prompt, ?))", asked.text, asked.text)
    if asked.dead:
        add("status = ? AND pruned = 0 AND json_extract(extra, '$.escalated_to') IS NULL", Status.FAILED.value)
    return terms, values


def _after(asked: Query, terms: list[str], values: list[Any]) -> None:
    """Only what comes after the last row of the page before, whose `sort_values` are known."""
    if asked.after is None:
        return
    if asked.order in ("id", "-id"):
        terms.append("jobs.id > ?" if asked.order == "id" else "jobs.id < ?")
        values += asked.after
        return
    ended, id_ = asked.after
    sign = "<" if asked.order.startswith("-") else ">"
    if ended < 0:  # the unfinished come last
        terms.append(f"completed_at IS NULL AND jobs.id {sign} ?")
        values.append(id_)
    else:
        terms.append(f"(completed_at IS NULL OR (completed_at, jobs.id) {sign} (?, ?))")
        values += asked.after


def events(since: int, limit: int, kinds: Sequence[str], jobs: Sequence[int], group: str | None) -> Bound:
    terms, values = ["cursor > ?"], [since]
    parameters: list[Any] = values
    if kinds:
        terms.append(f"kind {_AMONG}")
        parameters.append(to_json(list(kinds)))
    if jobs:
        terms.append(f"job {_AMONG}")
        parameters.append(to_json(list(jobs)))
    if group is not None:
        terms.append("EXISTS (SELECT 1 FROM jobs WHERE jobs.id = events.job AND grp = ?)")
        parameters.append(group)
    parameters.append(limit)
    where = " AND ".join(terms)
    return f"SELECT {EVENT_COLUMNS} FROM events WHERE {where} ORDER BY cursor LIMIT ?", parameters


def durations(agent: str, type_: str | None) -> Bound:
    kind, values = ("", [agent]) if type_ is None else (" AND type = ?", [agent, type_])
    sql = f"""
    SELECT completed_at - started_at FROM (
      SELECT * FROM jobs WHERE completed_at IS NOT NULL ORDER BY completed_at DESC, id DESC LIMIT {DURATIONS_AMONG})
     WHERE status = 'completed' AND started_at IS NOT NULL AND agent = ?{kind} LIMIT {DURATIONS}
    """
    return sql, list(values)


def prunable(before: int, statuses: Sequence[str], limit: int) -> Bound:
    some, values = ("", []) if not statuses else (f" AND status {_AMONG}", [to_json(list(statuses))])
    sql = f"""
    SELECT id FROM jobs WHERE completed_at < ? AND pruned = 0{some} AND {_UNAWAITED} ORDER BY completed_at, id LIMIT ?
    """
    return sql, [before, *values, limit]
