"""What the conformance suite can't ask: one hop, durability, faults of the disk."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from opusd.core.errors import StorageUnavailable
from opusd.core.job import Attempt, Edge, EdgeState, IfUnmet, Outcome, Spec, Terms
from opusd.core.lifecycle import Status
from opusd.store import open_store, sqlite_load, sqlite_query
from opusd.store.base import Batch, CommitFailed, CommitRefused, OutcomeUnknown, Query
from opusd.store.sqlite import _MOST_ROWS, SqliteStore, Transaction
from opusd.testing.records import born, changed, event, everything, job, run

OURS = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "opusd.db"


@pytest.fixture
async def store(path):
    store = await open_store(path)
    yield store
    await store.close()


async def ids(store):
    return [one.id for one in (await store.load_active()).jobs]


def batch(*numbers):
    return Batch(changes=[born(job(number)) for number in numbers])


class Slow(Transaction):
    """A transaction that waits for the test before it ends."""

    reached = threading.Event()
    go_on = threading.Event()

    def end(self):
        self.reached.set()
        assert self.go_on.wait(10)
        super().end()


@pytest.fixture
async def slow(path):
    Slow.reached.clear()
    Slow.go_on.clear()
    store = SqliteStore(path, transaction=Slow)
    await store.open()
    yield store
    Slow.go_on.set()
    await store.close()


async def test_a_cancelled_commit_still_commits(slow):
    committing = asyncio.create_task(slow.commit(batch(1)))
    assert await asyncio.to_thread(Slow.reached.wait, 10)
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    Slow.go_on.set()
    await slow.commit(batch(2))
    assert await ids(slow) == [1, 2]


async def test_a_commit_cancelled_before_it_reached_the_writer_still_commits(store):
    """Else its statements would stay in the outbox, and each later commit run those of the one before."""
    committing = asyncio.create_task(store.commit(batch(1)))
    await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop: staged, and not yet sent
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    await store.commit(batch(2))
    assert await ids(store) == [1, 2]


async def test_a_close_waits_for_the_commit_under_way(slow, path):
    committing = asyncio.create_task(slow.commit(batch(1)))
    assert await asyncio.to_thread(Slow.reached.wait, 10)
    closing_ = asyncio.create_task(slow.close())
    Slow.go_on.set()
    await committing
    await closing_
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id FROM jobs").fetchall() == [(1,)]


async def test_reads_go_on_while_a_commit_is_under_way(slow):
    committing = asyncio.create_task(slow.commit(batch(1)))
    assert await asyncio.to_thread(Slow.reached.wait, 10)
    assert await ids(slow) == []
    assert await slow.records([1]) == []
    Slow.go_on.set()
    await committing
    assert await ids(slow) == [1]


async def test_a_commit_is_one_hop_to_the_writer(path):
    """However many statements: BEGIN and COMMIT run in one call of `commit`."""
    calls = []

    class Counted(Transaction):
        def commit(self):
            calls.append(len(self.outbox.staged[0]))
            super().commit()

    store = SqliteStore(path, transaction=Counted)
    await store.open()
    one = job(1)
    await store.commit(batch(1, 2, 3))
    await store.commit(Batch(changes=[changed(one, Status.CANCELLED), born(job(9))], settings={"a": 1}))
    await store.close()
    assert len(calls) == 2


MANY = 3 * _MOST_ROWS + 7
"""Rows of a kind that take several statements, of several lengths."""


def everything_of(number):
    """A new job that has a row of every kind, no value of which another one has."""
    new = job(
        number,
        Status.RUNNING,
        run=replace(run(number), attempt_id=f"{number:032x}"),
        key=f"key {number}",
        terms=Terms(boost=number % 49, group=f"group {number}"),
        ancestors=(1, 2, number - 1),
        edges=(Edge(number - 1, state=EdgeState.SATISFIED), Edge(number - 2, if_unmet=IfUnmet.RUN)),
        attempts=number,
        version=number,
    )
    return born(
        new,
        spec=Spec(title=f"title {number}", prompt=f"prompt {number}", labels=[f"label {number}"]),
        outcome=Outcome(session_id=f"session {number}"),
        attempt=Attempt(job=number, agent=f"agent {number}", run=new.run, log_bytes=number),
        event=event(number, number, detail={"n": number}),
    )


@pytest.mark.parametrize("count", [1, _MOST_ROWS - 1, _MOST_ROWS, _MOST_ROWS + 1, MANY])
async def test_rows_that_take_several_statements_are_each_what_they_were(store, count):
    births = [everything_of(number) for number in range(10, 10 + count)]
    settings = {f"setting {number}": number for number in range(count)}
    await store.commit(Batch(changes=births, settings=settings))
    found = await store.records([one.after.id for one in births])
    known = {record.job.id: (record.job, record.spec, record.outcome) for record in found}
    assert known == {one.after.id: (one.after, one.spec, one.outcome) for one in births}
    for one in births:
        assert await store.attempts(one.after.id) == [one.attempt]
    assert await store.events(0, 10_000) == [one.event for one in births]
    assert (await store.load_active()).settings == settings
    assert await store.tree_size(2) == count
    ends = [changed(one.after, Status.COMPLETED, outcome=Outcome(session_id="x")) for one in births]
    await store.commit(Batch(changes=ends))
    again = await store.records([one.after.id for one in births])
    assert {record.job.id: record.job for record in again} == {one.after.id: one.after for one in ends}
    assert {record.outcome.session_id for record in again} == {"x"}


@pytest.mark.parametrize("place", [0, _MOST_ROWS - 1, _MOST_ROWS, MANY - 1])
@pytest.mark.parametrize("wrong", ["birth", "state", "end", "pruned"])
async def test_one_wrong_row_wherever_it_is_refuses_all_statements_of_its_batch(store, wrong, place):
    jobs = [job(number) for number in range(1, MANY + 1)]
    gone = [job(number, Status.CANCELLED) for number in range(MANY + 1, 2 * MANY + 1)]
    await store.commit(Batch(changes=[born(one) for one in (*jobs, *gone)]))
    before = await everything(store)
    new = [born(job(number)) for number in range(1000, 1000 + MANY)]
    held = [changed(one, Status.HELD) for one in jobs]
    pruned = [(one.id, False) for one in gone]
    match wrong:
        case "birth":
            new[place] = born(job(1))
        case "state":
            held[place] = changed(replace(jobs[place], version=9), Status.HELD)
        case "end":
            held[place] = changed(replace(jobs[place], version=9), Status.COMPLETED)
        case _:
            pruned[place] = (5000, False)
    with pytest.raises(CommitRefused):
        await store.commit(Batch(changes=[*new, *held], pruned=pruned, settings={"a": 1}))
    assert await everything(store) == before


async def test_after_close_nothing_is_promised(path):
    store = await open_store(path)
    await store.close()
    with pytest.raises(CommitFailed):
        await store.commit(batch(1))
    with pytest.raises(StorageUnavailable):
        await store.load_active()
    with pytest.raises(StorageUnavailable):
        await store.records([1])


async def test_only_one_connection_may_write(store):
    for reader in (store._lookup, store._scan):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reader.execute_fetchall("UPDATE tombstone SET commits = 1")


async def test_the_writer_is_durable_and_its_log_is_bounded(store):
    assert list(await store._writer.execute_fetchall("PRAGMA synchronous")) == [(2,)]
    assert list(await store._writer.execute_fetchall("PRAGMA journal_mode")) == [("wal",)]
    assert list(await store._writer.execute_fetchall("PRAGMA wal_autocheckpoint")) == [(4000,)]


async def test_all_files_are_private(store, path):
    await store.commit(batch(1))
    found = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert found == {"opusd.db": 0o600, "opusd.db-wal": 0o600, "opusd.db-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_backup_is_a_registry_that_opens(store, path, tmp_path):
    await store.commit(batch(1, 2))
    backup = tmp_path / "backup.db"
    commits = asyncio.gather(*(store.commit(batch(number)) for number in range(3, 40)))
    await store.backup(backup)
    await commits
    copy = await open_store(backup)
    found = await ids(copy)
    await copy.close()
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 2
    assert not list(tmp_path.glob(".*.partial"))


async def test_a_kill_at_any_moment_loses_no_acknowledged_job(path, tmp_path):
    program = tmp_path / "writer.py"
    program.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from opusd.store import open_store
        from opusd.store.base import Batch
        from opusd.testing.records import born, job

        async def main():
            store = await open_store(Path(sys.argv[1]))
            first = (await store.load_active()).last_job + 1
            for number in range(first, first + 100_000):
                await store.commit(Batch(changes=[born(job(number))]))
                print(number, flush=True)

        asyncio.run(main())
        """)
    )
    told = 0
    for lines in (1, 20, 77):
        with subprocess.Popen([sys.executable, program, path], stdout=subprocess.PIPE, text=True, env=OURS) as writer:
            for _ in range(lines):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                told = int(line) if line.endswith("\n") else told
        store = await open_store(path)
        found = await ids(store)
        await store.close()
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= told


@pytest.mark.slow
async def test_a_registry_locked_by_another_program_fails_the_commit_and_no_more(store, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CommitFailed, match="locked"):
            await store.commit(batch(1))
        assert await ids(store) == []
        other.execute("ROLLBACK")
    await store.commit(batch(1))
    assert await ids(store) == [1]


# --- a log that can't be written: RLIMIT_FSIZE makes the write of a frame fail with EFBIG ----------------


@contextmanager
def no_file_grows_past(size):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


class Limited(Transaction):
    """COMMIT fails with a real I/O error; whether the tombstone does too is the test's choice."""

    armed = False
    tombstone_fails = False

    def limit(self):
        wal = self.execute("PRAGMA database_list").fetchone()[2] + "-wal"
        return no_file_grows_past(Path(wal).stat().st_size + 100)

    def end(self):
        if not self.armed:
            return super().end()
        with self.limit():
            return super().end()

    def bury(self):
        if not self.tombstone_fails:
            return super().bury()
        with self.limit():
            return super().bury()


@pytest.fixture
async def limited(path):
    Limited.armed = Limited.tombstone_fails = False
    store = SqliteStore(path, transaction=Limited)
    await store.open()
    await store.commit(batch(1))
    yield store
    await store.close()


async def reopened(path):
    store = await open_store(path)
    found = await ids(store)
    await store.close()
    return found


async def test_an_io_error_in_commit_is_a_failed_commit_once_a_tombstone_lies_over_it(limited, path):
    Limited.armed = True
    with pytest.raises(CommitFailed, match="disk I/O error"):
        await limited.commit(batch(2))
    assert list(await limited._writer.execute_fetchall("SELECT commits FROM tombstone")) == [(1,)]
    assert await ids(limited) == [1]
    Limited.armed = False
    await limited.commit(batch(3))
    await limited.close()
    assert await reopened(path) == [1, 3]


async def test_an_io_error_in_commit_and_in_the_tombstone_leaves_the_outcome_unknown(limited, path):
    Limited.armed = Limited.tombstone_fails = True
    with pytest.raises(OutcomeUnknown, match="disk I/O error"):
        await limited.commit(batch(2))
    Limited.armed = False
    with pytest.raises(OutcomeUnknown):  # nothing may be built on what may not be there
        await limited.commit(batch(3))
    await limited.close()
    assert await reopened(path) in ([1], [1, 2])


FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from opusd.core.job import Spec
from opusd.store import open_store
from opusd.store.base import Batch, CommitFailed
from opusd.testing.records import born, job

async def main(folder):
    store = await open_store(folder / "opusd.db")
    number, failed = 0, 0
    while failed < 3:
        new = born(job(number + 1), spec=Spec(title="", prompt="x" * 50_000))
        try:
            await store.commit(Batch(changes=[new]))
            number += 1
        except CommitFailed as error:
            assert "full" in str(error), error
            failed += 1
    assert number > 20, number
    ids = [one.id for one in (await store.load_active()).jobs]
    assert ids == list(range(1, number + 1)), (ids, number)
    (folder / "ballast").unlink()
    await store.commit(Batch(changes=[born(job(number + 1))]))
    await store.close()
    store = await open_store(folder / "opusd.db")
    ids = [one.id for one in (await store.load_active()).jobs]
    assert ids == list(range(1, number + 2)), (ids, number)
    await store.close()

folder = Path(sys.argv[1])
(folder / "ballast").write_bytes(bytes(1 << 20))
asyncio.run(main(folder))
print("went on")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_full_disk_fails_commits_loses_nothing_and_goes_on_when_there_is_room(tmp_path):
    program = tmp_path / "full.py"
    program.write_text(FULL_DISK)
    folder = tmp_path / "small"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=6m,mode=700 none "$1" && exec "$2" "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", folder, sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=OURS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


async def test_a_read_that_fails_says_so_and_is_no_crash(store, monkeypatch):
    monkeypatch.setattr(sqlite_query, "UNPRUNED", "SELECT x FROM nowhere WHERE x = ?")
    with pytest.raises(StorageUnavailable, match="nowhere"):
        await store.unpruned([1])


async def test_a_start_and_a_page_use_an_index(store):
    """Unfinished jobs are found without reading the finished; a page in the order of ends without sorting them all."""
    for sql, values in (
        (sqlite_load.LOAD, sqlite_load.where_from(0, 10)),
        sqlite_query.query(Query(order="-completed_at")),
        sqlite_query.query(Query(order="completed_at")),
        sqlite_query.query(Query(status=("running",))),
        sqlite_query.prunable(1, [], 10),
        sqlite_query.durations("exec", None),
    ):
        plan = " ".join(row[3] for row in await store._scan.execute_fetchall(f"EXPLAIN QUERY PLAN {sql}", values))
        assert "jobs_by_end" in plan, (sql, plan)
        assert "TEMP B-TREE FOR ORDER BY" not in plan, (sql, plan)
