"""The registry in one SQLite file. All that touches aiosqlite is here; it knows nothing of what a job means.

Exactly one connection ever writes or checkpoints (SQLite 3.7.0 to 3.51.2 can corrupt a WAL that two work
on at once); reads go over two of their own, so that a long list keeps no lookup waiting. A transaction is
one hop to the writer's thread: its statements are staged, and `commit` runs them all.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter, deque
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiosqlite

from opusd.core.errors import StorageUnavailable
from opusd.store import sqlite_query, sqlite_write
from opusd.store.backups import making_backup
from opusd.store.base import (
    Batch,
    CommitFailed,
    CommitRefused,
    Detail,
    Forgotten,
    OutcomeUnknown,
    Query,
    Record,
    Snapshot,
    StoreError,
    contains,
)
from opusd.store.sqlite_load import load
from opusd.store.sqlite_lookup import Lookup
from opusd.store.sqlite_open import Migration, check, copy_into, explained, prepare, shipped_migrations, sync, uri
from opusd.store.sqlite_rows import (
    Row,
    attempt_from,
    by_agent,
    detail_from,
    event_from,
    record_from,
    to_json,
)
from opusd.store.sqlite_write import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opusd.core.job import Attempt, Event
    from opusd.store.sqlite_write import Statement, Values

_WAL_PAGES: Final = 4_000
_BUSY_SECONDS: Final = 2
_MOST_ROWS: Final = 64
"""Rows of one statement."""
_PREPARED: Final = 256
_WRONG: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    ValueError,
    TypeError,
)
"""A batch that no disk could take."""


class Outbox:
    """What the next commits run, in order; and whether the writer may still be trusted."""

    def __init__(self) -> None:
        self.staged: deque[list[Statement]] = deque()
        self.lost: str | None = None


class Transaction(sqlite3.Connection):
    """A connection of which `commit` is a whole transaction: the oldest in the outbox.

    It raises CommitFailed, CommitRefused or OutcomeUnknown, and then nothing of it is left open. After an
    I/O error in COMMIT itself the frames may be in the log, and come to life when it is read again. A small
    transaction of the same connection overwrites the first of them, and with it the checksums of all.
    """

    outbox: Outbox

    def commit(self) -> None:
        statements = self.outbox.staged.popleft()
        if self.outbox.lost is not None:
            raise OutcomeUnknown(self.outbox.lost)
        try:
            self.execute("BEGIN IMMEDIATE")
            for statement in statements:
                self._run(statement)
        except BaseException as error:
            self._roll_back()
            if isinstance(error, _WRONG):
                raise CommitRefused(str(error)) from error
            if isinstance(error, sqlite3.Error):
                raise CommitFailed(str(error)) from error
            raise
        try:
            self.end()
        except sqlite3.Error as error:
            self._roll_back()
            if _is_full(error):  # the frame that commits was never written whole
                raise CommitFailed(str(error)) from error
            self._make_sure(error)
            raise CommitFailed(str(error)) from error

    def _run(self, statement: Statement) -> None:
        sql, rows, expected = statement
        changed = self.executemany(sql, rows).rowcount if isinstance(sql, str) else self._run_together(sql, rows)
        if expected is not None and changed != expected:
            raise CommitRefused(f"{changed} of {expected} rows were as expected: {sql}")

    def _run_together(self, sql: Values, rows: list[Row]) -> int:
        """Many rows a statement. Each statement gives up the interpreter's lock and has to get it back, which takes
        up to 5 ms where the loop is busy: one for each row let a commit wait for hundreds.
        """
        at, changed = 0, 0
        while at < len(rows):
            count = min(_MOST_ROWS, 1 << (len(rows) - at).bit_length() - 1)  # so that few texts are ever prepared
            changed += self.execute(text_of(sql, count), [*chain.from_iterable(rows[at : at + count])]).rowcount
            at += count
        return changed

    def end(self) -> None:
        self.execute("COMMIT")

    def bury(self) -> None:
        self.execute("BEGIN IMMEDIATE")
        self.execute("UPDATE tombstone SET commits = commits + 1")
        self.execute("COMMIT")

    def _make_sure(self, cause: sqlite3.Error) -> None:
        try:
            self.bury()
        except sqlite3.Error as error:
            self._roll_back()
            self.outbox.lost = f"after {cause} in COMMIT: {error}"
            raise OutcomeUnknown(self.outbox.lost) from cause

    def _roll_back(self) -> None:
        """SQLite has rolled back by itself after some errors; where it can't now, it does before the next BEGIN."""
        with suppress(sqlite3.Error):
            if self.in_transaction:
                self.execute("ROLLBACK")


def _is_full(error: sqlite3.Error) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF == sqlite3.SQLITE_FULL


class SqliteStore:
    """`opusd.store.base.Store` in the file at `path`; `migrations` and `transaction` are for tests."""

    def __init__(
        self,
        path: Path,
        *,
        migrations: Sequence[Migration] | None = None,
        transaction: type[Transaction] = Transaction,
    ) -> None:
        self.path = path
        self._migrations = shipped_migrations() if migrations is None else migrations
        self._transaction = transaction
        self._outbox = Outbox()
        self._writer: aiosqlite.Connection | None = None
        self._lookup: aiosqlite.Connection | None = None
        self._scan: aiosqlite.Connection | None = None
        self._details = Lookup(lambda ids: _read(self._lookup, *sqlite_query.details(ids)))
        self._records = Lookup(lambda ids: _read(self._lookup, *sqlite_query.records(ids)))

    # --- opening and closing ------------------------------------------------------------------------

    async def open(self) -> None:
        await asyncio.to_thread(prepare, self.path, self._migrations)
        self._outbox = Outbox()
        try:
            self._writer = await aiosqlite.connect(
                uri(self.path, "rw"),
                uri=True,
                factory=self._connection,
                isolation_level=None,
                timeout=_BUSY_SECONDS,
                cached_statements=_PREPARED,
            )
            await self._require_wal(self._writer)
            await self._writer.execute_fetchall("PRAGMA synchronous = FULL")
            await self._writer.execute_fetchall(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            self._lookup = await self._reader()
            self._scan = await self._reader()
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error):
                raise StoreError(explained(self.path, error)) from error
            raise

    async def _require_wal(self, writer: aiosqlite.Connection) -> None:
        [(mode,)] = await writer.execute_fetchall("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise StoreError(f"{self.path}: SQLite can't keep a write-ahead log here (journal_mode {mode})")

    def _connection(self, *arguments: Any, **options: Any) -> Transaction:
        connection = self._transaction(*arguments, **options)
        connection.outbox = self._outbox
        return connection

    async def _reader(self) -> aiosqlite.Connection:
        reader = await aiosqlite.connect(uri(self.path, "ro"), uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
        try:
            await reader.execute_fetchall("PRAGMA query_only = ON")
            await reader.create_function("contains", 2, contains, deterministic=True)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def close(self) -> None:
        """What was handed to the writer is written first. The writer closes last: it checkpoints, readers must not."""
        connections = (self._scan, self._lookup, self._writer)
        self._scan = self._lookup = self._writer = None
        for connection in connections:
            if connection is not None:
                await connection.close()
        await self._records.close()
        await self._details.close()

    # --- writing ------------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> None:
        try:
            statements = sqlite_write.stage(batch)
        except (TypeError, ValueError, OverflowError) as error:
            raise CommitRefused(f"the batch can't be encoded: {error}") from error
        await self._write(statements)

    async def _write(self, statements: list[Statement]) -> None:
        """One hop. A caller that is cancelled stops waiting, and its transaction goes on."""
        if not statements:
            return
        if self._writer is None:
            raise CommitFailed("the registry is closed")
        self._outbox.staged.append(statements)
        await self._writer.commit()  # handed to its thread before anything is awaited

    async def forget(self, before: int, limit: int) -> Forgotten:
        jobs = await _read(self._scan, sqlite_query.FORGETTABLE, [before, limit])
        [(events, below)] = await _read(self._scan, sqlite_query.FORGETTABLE_EVENTS, [before, limit - len(jobs)])
        ids = [job for job, _ in jobs]
        ended = by_agent(await _read(self._scan, sqlite_query.ENDED_OF, [to_json(ids)]))
        await self._write(sqlite_write.forget(ids, below if events else 0))
        return Forgotten(dict(Counter(status for _, status in jobs)), int(events), ended)

    # --- reading ------------------------------------------------------------------------------------

    async def load_active(self) -> Snapshot:
        """Another thread looks meanwhile whether the pages are sound: beside this that takes no time of its own."""
        if self._scan is None:
            raise StorageUnavailable("the registry is closed")
        checked, snapshot = await asyncio.gather(
            asyncio.to_thread(check, self.path), asyncio.to_thread(load, self.path), return_exceptions=True
        )
        if isinstance(checked, BaseException):
            raise checked
        if isinstance(snapshot, BaseException):
            raise snapshot
        return snapshot

    async def records(self, ids: Sequence[int]) -> list[Record]:
        return [record_from(row) for row in await self._records.rows(ids)]

    async def details(self, ids: Sequence[int]) -> dict[int, Detail]:
        return {row[0]: detail_from(row) for row in await self._details.rows(ids)}

    async def by_key(self, keys: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        rows = await _read(self._lookup, sqlite_query.BY_KEY, [to_json(list(keys))])
        return {key: (id_, digest) for key, id_, digest in rows}

    async def query(self, query: Query) -> list[Record]:
        return [record_from(row) for row in await _read(self._scan, *sqlite_query.query(query))]

    async def attempts(self, job: int) -> list[Attempt]:
        return [attempt_from(row) for row in await _read(self._lookup, sqlite_query.ATTEMPTS, [job])]

    async def unpruned(self, ids: Sequence[int]) -> set[int]:
        return {id_ for (id_,) in await _read(self._lookup, sqlite_query.UNPRUNED, [to_json(list(ids))])}

    async def tree_size(self, root: int) -> int:
        [(size,)] = await _read(self._lookup, sqlite_query.TREE_SIZE, [root])
        return int(size)

    async def events(
        self, since: int, limit: int, *, kinds: Sequence[str] = (), jobs: Sequence[int] = (), group: str | None = None
    ) -> list[Event]:
        rows = await _read(self._scan, *sqlite_query.events(since, limit, kinds, jobs, group))
        return [event_from(row) for row in rows]

    async def history(self, job: int, limit: int) -> list[Event]:
        rows = await _read(self._scan, sqlite_query.HISTORY, [job, limit])
        return [event_from(row) for row in reversed(rows)]

    async def oldest_event(self) -> int:
        [(oldest,)] = await _read(self._lookup, sqlite_query.OLDEST_EVENT)
        return int(oldest) if oldest > 1 else 0

    async def durations(self, agent: str, type_: str | None) -> list[int]:
        return [time for (time,) in await _read(self._scan, *sqlite_query.durations(agent, type_))]

    async def prunable(self, before: int, statuses: Sequence[str], limit: int) -> list[int]:
        return [id_ for (id_,) in await _read(self._scan, *sqlite_query.prunable(before, statuses, limit))]

    async def facts(self) -> dict[str, Any]:
        return {
            "store": "sqlite",
            "path": str(self.path),
            "db_bytes": _size(self.path),
            "wal_bytes": _size(Path(f"{self.path}-wal")),
            "free_disk": _free(self.path.parent),
            "sqlite_version": sqlite3.sqlite_version,
            "schema_version": self._migrations[-1].number,
        }

    # --- backup -------------------------------------------------------------------------------------

    async def backup(self, path: Path) -> None:
        """By a connection that reads one moment; its thread is not the writer's."""
        try:
            await asyncio.to_thread(_copy, self.path, path)
        except sqlite3.Error as error:
            raise StorageUnavailable(f"no backup at {path}: {error}; the registry is as it was") from error


def _copy(source: Path, target: Path) -> None:
    """`target` appears whole: its name is taken first, then replaced."""
    partial = target.parent / f".{target.name}.partial"
    with making_backup(target):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            partial.unlink(missing_ok=True)
            reader = sqlite3.connect(uri(source, "ro"), uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
            try:
                copy_into(reader, partial)
            finally:
                reader.close()
            partial.replace(target)
            sync(target.parent)
        except BaseException:
            with suppress(OSError):
                target.unlink()
            raise


async def _read(connection: aiosqlite.Connection | None, sql: str, values: Iterable[Any] = ()) -> list[Row]:
    if connection is None:
        raise StorageUnavailable("the registry is closed")
    try:
        return list(await connection.execute_fetchall(sql, values))  # type: ignore[arg-type]
    except sqlite3.Error as error:
        raise StorageUnavailable(f"the registry can't be read: {error}") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
