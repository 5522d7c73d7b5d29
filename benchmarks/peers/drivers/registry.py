"""A registry like opusd's own, and rows of it: what those put there who do nothing else for a job."""

from __future__ import annotations

import sqlite3
from typing import Any


def like(source: str, path: str) -> sqlite3.Connection:
    """A new one at `path`, with the tables, indexes and settings of that at `source`."""
    made = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as registry:
        made.execute(f"PRAGMA page_size={registry.execute('PRAGMA page_size').fetchone()[0]}")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"):
            made.execute(f"PRAGMA {pragma}")
        tables = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        for (sql,) in registry.execute(tables):
            made.execute(sql)
    registry.close()
    return made


def rows_of(
    source: str, table: str, column: str, first: int, count: int
) -> tuple[str, list[str], list[tuple[Any, ...]]]:
    """The INSERT up to its rows, the columns, and the rows of these jobs, `column` being the job's id."""
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as registry:
        asked = f"SELECT * FROM {table} WHERE {column} >= ? AND {column} < ? ORDER BY 1"
        found = registry.execute(asked, (first, first + count))
        columns = [one[0] for one in found.description]
        rows = found.fetchall()
    registry.close()
    return f"INSERT INTO {table} ({', '.join(columns)})", columns, rows


def row_of(source: str, table: str, column: str, job: int) -> tuple[str, tuple[Any, ...]]:
    """The same of one job: its first row."""
    into, _, rows = rows_of(source, table, column, job, 1)
    return into, rows[0]
