"""A registry that can't be used is never taken for one that is not there."""

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from opusd.store import open_store
from opusd.store.base import Batch, StoreError
from opusd.store.sqlite import SqliteStore
from opusd.store.sqlite_open import APPLICATION_ID, Migration, file_system_of, shipped_migrations
from opusd.testing.records import born, job

OLD = Path(__file__).parents[1] / "data"
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def path(tmp_path):
    """A registry with 300 jobs, closed."""
    path = tmp_path / "opusd.db"
    store = await open_store(path)
    await store.commit(Batch(changes=[born(job(number)) for number in range(1, 301)]))
    await store.close()
    return path


async def start(store):
    try:
        await store.open()
        await store.load_active()
    finally:
        await store.close()


async def refusal(path, **options):
    before = path.read_bytes() if path.is_file() else None
    store = SqliteStore(path, **options)
    with pytest.raises(StoreError) as caught:
        await start(store)
    assert (path.read_bytes() if path.is_file() else None) == before
    return caught.value.message


async def test_flipped_bytes_are_found_at_the_start(path):
    content = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(content), 4096):
        content[at : at + 64] = os.urandom(64)
    path.write_bytes(content)
    assert "corrupt" in await refusal(path)


async def test_a_truncated_file_is_found_at_the_start(path):
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    assert "corrupt" in await refusal(path)


async def test_a_damaged_beginning_is_no_new_registry(path):
    with path.open("r+b") as file:
        file.write(b"\0" * 100)
    assert "no SQLite database" in await refusal(path)
    path.write_bytes(b"SQLite")
    assert "no SQLite database" in await refusal(path)


async def test_an_empty_file_is_no_new_registry(path):
    os.truncate(path, 0)
    assert "is empty" in await refusal(path)
    Path(f"{path}-wal").write_bytes(b"what was written last")
    assert "opusd.db-wal still holds what was written last" in await refusal(path)


async def test_a_missing_file_beside_its_log_is_no_new_registry(path):
    path.unlink()
    Path(f"{path}-wal").write_bytes(b"what was written last")
    assert "is missing, but" in await refusal(path)
    assert not path.exists()


async def test_a_folder_a_pipe_and_a_dangling_link_are_no_new_registry(tmp_path):
    path = tmp_path / "opusd.db"
    path.mkdir()
    assert "no regular file" in await refusal(path)
    path.rmdir()
    os.mkfifo(path)
    assert "no regular file" in await refusal(path)
    path.unlink()
    path.symlink_to(tmp_path / "unmounted" / "opusd.db")
    assert "which is not there" in await refusal(path)


async def test_a_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "opusd.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE places (url TEXT)")
        db.commit()
    assert "belongs to another program" in await refusal(path)


async def test_a_registry_of_a_newer_version_is_refused_with_what_to_do(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 4711")
        db.commit()
    message = await refusal(path)
    assert "version 4711" in message
    assert "install the newer opusd" in message


@pytest.mark.slow
async def test_a_registry_held_by_another_program_is_refused_after_a_moment(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert "in use by another program" in await refusal(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("there", [True, False])
async def test_a_read_only_file_system_is_refused(path, there):
    if not there:
        path.unlink()
    program = (
        "import asyncio, pathlib, sys; from opusd.store import open_store; from opusd.store.base import StoreError\n"
        "try: asyncio.run(open_store(pathlib.Path(sys.argv[1])))\nexcept StoreError as error: print(error)"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$4"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", path.parent, sys.executable, program, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert "ead-only" in done.stdout, done


async def test_a_file_that_others_can_read_is_closed_to_them(path):
    path.chmod(0o644)
    await (await open_store(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_an_unfinished_creation_left_is_no_hindrance(tmp_path):
    path = tmp_path / "opusd.db"
    for name in ("opusd.db.new", "opusd.db.new-journal"):
        (tmp_path / name).write_bytes(b"half")
    await (await open_store(path)).close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["opusd.db"]


async def test_a_migration_is_one_step_after_a_backup(path):
    more = Migration(2, "more", "CREATE TABLE more (id INTEGER PRIMARY KEY) STRICT;\nINSERT INTO more VALUES (1);\n")
    first = shipped_migrations()[:1]
    store = SqliteStore(path, migrations=[*first, more])
    await store.open()
    assert len(list((await store.load_active()).jobs)) == 300
    await store.close()
    backup = path.with_name("opusd.db.before-0002")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert "newer opusd" in await refusal(path, migrations=first)
    store = SqliteStore(backup, migrations=first)
    await store.open()
    assert len(list((await store.load_active()).jobs)) == 300
    await store.close()


async def test_a_migration_that_fails_changes_nothing_and_can_be_tried_again(path):
    first = shipped_migrations()[:1]
    broken = Migration(2, "broken", "CREATE TABLE more (id INTEGER);\nINSERT INTO missing VALUES (1);\n")
    for _ in range(2):
        await refusal(path, migrations=[*first, broken])
    store = SqliteStore(path, migrations=first)
    await store.open()
    assert len(list((await store.load_active()).jobs)) == 300
    await store.close()


@pytest.mark.parametrize("name", sorted(file.name for file in OLD.glob("opusd-v*.db")))
async def test_an_old_registry_opens_with_the_code_of_today(tmp_path, name):
    path = tmp_path / "opusd.db"
    shutil.copyfile(OLD / name, path)
    store = await open_store(path)
    snapshot = await store.load_active()
    assert [one.id for one in snapshot.jobs] == [1, 2, 7]
    assert (snapshot.last_job, snapshot.last_event, snapshot.settings) == (9, 3, {"paused": ["*"]})
    [full] = await store.records([7])
    from opusd.testing.records import FULL_OUTCOME, FULL_RUN, FULL_SPEC, FULL_TERMS

    assert (full.job.terms, full.job.run, full.spec, full.outcome) == (FULL_TERMS, FULL_RUN, FULL_SPEC, FULL_OUTCOME)
    assert [edge.upstream for edge in full.job.edges] == [1, 2]
    assert [attempt.run for attempt in await store.attempts(7)] == [FULL_RUN]
    assert len(await store.events(0, 10)) == 3
    await store.close()


def test_the_newest_version_has_an_old_registry_kept():
    """Whoever adds a migration adds what it makes: tests/data/opusd-vN.db, by tests/store/old_registry.py."""
    newest = shipped_migrations()[-1].number
    kept = sorted(OLD.glob("opusd-v*.db"))
    assert [file.name for file in kept] == [f"opusd-v{number}.db" for number in range(1, newest + 1)]
    assert int.from_bytes(b"opus") == APPLICATION_ID


def test_the_file_system_of_a_folder_is_that_of_its_deepest_mount():
    mounts = (
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "30 22 0:40 / /home rw shared:3 - nfs4 server:/home rw\n"
        "31 30 0:41 / /home/a\\040b rw - tmpfs none rw\n"
        "32 31 0:42 / /home/a\\040b rw - btrfs /dev/vdb rw\n"
        "nonsense\n"
    )
    assert file_system_of(Path("/homework"), mounts) == "ext4"
    assert file_system_of(Path("/home/ana/.local"), mounts) == "nfs4"
    assert file_system_of(Path("/home/a b/state"), mounts) == "btrfs"


async def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    from opusd.store import sqlite_open

    monkeypatch.setattr(sqlite_open, "file_system_of", lambda *_: "nfs4")
    assert "nfs4 file system" in await refusal(tmp_path / "opusd.db")
    assert list(tmp_path.iterdir()) == []


async def test_no_row_that_is_written_costs_a_table_of_a_list(path):
    """`x IN (a, b, c)` in a CHECK does: a third of what a job's row takes."""
    with closing(sqlite3.connect(path)) as db:
        tables = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'")]
        assert len(tables) > 5
        for sql in tables:
            assert not re.search(r"\bIN\s*\(", sql), sql
