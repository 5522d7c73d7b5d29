"""From a path to a registry that may be used: checks, creation, migration. Runs in a thread, before any other opens it.

Whatever is doubtful is refused with what is wrong and what to do. A registry that can't be read is never
taken for one that is not there: only a path where nothing ever was gets a new one, and that appears
whole, by a rename. One connection at a time is open here, and none when `prepare` returns.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from opusd.store.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

APPLICATION_ID: Final = 0x6F707573  # "opus"
_MAGIC: Final = b"SQLite format 3\0"
# fmt: off
_NETWORK: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "9p", "coda", "gfs", "gfs2", "ocfs2", "lustre",
    "gpfs", "beegfs", "glusterfs", "davfs", "vboxsf", "prl_fs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph",
    "fuse.s3fs", "fuse.rclone", "fuse.davfs", "fuse.vmhgfs-fuse",
})
# fmt: on
_BLOCK: Final = 1 << 17
_RESTORE: Final = "restore a backup (opusctl backup makes them; opusd.db.before-NNNN are those made before upgrades)"


class Migration(NamedTuple):
    number: int
    name: str
    sql: str


def shipped_migrations() -> list[Migration]:
    """The files NNNN_name.sql in order; their numbers have no gap."""
    found = []
    for entry in resources.files("opusd.store.migrations").iterdir():
        matched = re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name)
        if matched is not None:
            found.append(Migration(int(matched[1]), matched[2], entry.read_text("utf-8")))
    found.sort()
    assert [migration.number for migration in found] == list(range(1, len(found) + 1)), "a migration is missing"
    return found


def uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def prepare(path: Path, migrations: Sequence[Migration]) -> None:
    """Leave a registry of the newest version at `path`, or raise StoreError; damage inside is for `check` to find."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_file_system(path)
        if _is_new(path):
            _create(path, migrations)
        _check_header(path)
        _read_through(path)
        _check_and_migrate(path, migrations)
    except sqlite3.Error as error:
        raise StoreError(explained(path, error)) from error
    except OSError as error:
        hint = (
            "the disk is full: make room"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "see to it, and start again"
        )
        raise StoreError(f"{error.filename or path}: {error.strerror or error}; {hint}, and start again") from error


def check(path: Path) -> None:
    """StoreError when a page is damaged. Reads the whole file, and needs no turn of Python while it does."""
    try:
        with closing(_connect(path, "ro")) as db:
            _check(db, path)
    except sqlite3.Error as error:
        raise StoreError(explained(path, error)) from error


def _check(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA ignore_check_constraints = ON")  # they held when the rows were written; a million take 4 s
    problems = [line for (line,) in db.execute("PRAGMA quick_check(3)") if line != "ok"]
    if problems:
        raise StoreError(f"{path} is corrupt ({'; '.join(problems)}): move it away, and {_RESTORE}")
    db.execute("PRAGMA ignore_check_constraints = OFF")


def explained(path: Path, error: sqlite3.Error) -> str:
    """What a person reads when the registry at `path` can't be used."""
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"{path} is corrupt ({error}): move it away, and {_RESTORE}"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{path} is in use by another program ({error}): end it, and start again"
        case sqlite3.SQLITE_FULL:
            return f"{path}: the disk is full ({error}): make room, and start again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"{path}, or a file beside it, can't be written ({error}): see to its owner, mode and file system"
        case _:
            return f"{path} can't be used ({error}): {_RESTORE}, if that does not pass"


# --- the file ---------------------------------------------------------------------------------------


def _is_new(path: Path) -> bool:
    """Whether nothing ever was here. StoreError for a registry that is there and can't be used."""
    left = [name for name in (f"{path}-wal", f"{path}-journal") if Path(name).exists() and Path(name).stat().st_size]
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise StoreError(
                f"{path} is a link to {path.readlink()}, which is not there: is a disk not mounted?"
            ) from None
        if left:
            raise StoreError(
                f"{path} is missing, but {left[0]} is there with what was written last: put {path.name} back,"
                f" or {_RESTORE}; to begin anew, move {left[0]} away"
            ) from None
        return True
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is no regular file: the registry is a file; move what is there away")
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(
            f"{path} can't be read and written: see to its owner and mode, and whether its file system is read-only"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreError(f"{path.parent} can't be written: the registry keeps its log beside it")
    for name in left:
        if not os.access(name, os.R_OK | os.W_OK):
            raise StoreError(
                f"{name} can't be read and written: it holds what was written last; see to its owner and mode"
            )
    if found.st_size == 0:
        beside = f"; {left[0]} still holds what was written last, keep it" if left else ""
        raise StoreError(f"{path} is empty, as a registry never is{beside}: {_RESTORE}; to begin anew, move it away")
    if found.st_mode & 0o077:
        path.chmod(0o600)
    return False


def _check_header(path: Path) -> None:
    """Before SQLite touches it: an SQLite file, and one of ours."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreError(f"{path} is no SQLite database, or its beginning is damaged: move it away, and {_RESTORE}")
    application = int.from_bytes(header[68:72])
    if application != APPLICATION_ID:
        raise StoreError(
            f"{path} belongs to another program (application_id {application:#010x}): name another state folder"
        )


def _read_through(path: Path) -> None:
    """From front to back, into the kernel's cache: page by page in the order of its trees a cold disk takes ten times
    as long. Here and not later, for closing a file that SQLite has open takes SQLite's locks away. A block whose first
    page is in the cache is taken to be there.
    """
    block = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        for offset in range(0, os.fstat(file.fileno()).st_size, _BLOCK):
            if not _is_cached(file.fileno(), offset):
                os.preadv(file.fileno(), [block], offset)


def _is_cached(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # EAGAIN: it is not; EOPNOTSUPP: this file system does not say
        return False


def _check_file_system(path: Path) -> None:
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return  # not knowable here
    kind = file_system_of(path.parent.resolve(), mounts)
    if kind in _NETWORK:
        raise StoreError(
            f"{path} is on a {kind} file system: SQLite's log needs memory that is shared, and locks that hold, on one"
            " machine; name a state folder on a local disk"
        )


def file_system_of(folder: Path, mountinfo: str) -> str | None:
    """The type of the file system that holds this resolved folder, of the text of /proc/self/mountinfo (proc(5))."""
    best, kind = -1, None
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        columns = fields.split(" ")
        if len(columns) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), columns[4])
        depth = len(Path(point).parts)
        if folder.is_relative_to(point) and depth >= best:  # of two on one point the later hides the earlier
            best, kind = depth, rest.split(" ", 1)[0]
    return kind


# --- creation, soundness, migration -------------------------------------------------------------------


def _create(path: Path, migrations: Sequence[Migration]) -> None:
    """A new registry, under another name until it is whole and on disk."""
    new = path.with_name(f"{path.name}.new")
    for name in (new, f"{new}-wal", f"{new}-shm", f"{new}-journal"):
        Path(name).unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with closing(_connect(new)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for migration in migrations:
            _migrate(db, migration)
        db.execute("PRAGMA journal_mode = WAL")
    sync(new)
    new.rename(path)
    sync(path.parent)


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    return sqlite3.connect(uri(path, mode), uri=True, isolation_level=None, timeout=2)


def _check_and_migrate(path: Path, migrations: Sequence[Migration]) -> None:
    with closing(_connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        newest = migrations[-1].number
        if version > newest:
            raise StoreError(
                f"{path} is of version {version}, made by a newer opusd; this one knows {newest}:"
                f" install the newer opusd again, or {_RESTORE}"
            )
        if version < 1:
            raise StoreError(f"{path} was begun and never finished (version {version}): move it away, and {_RESTORE}")
        if version < newest:
            _check(db, path)
        for migration in migrations[version:]:
            _backup_before(db, path, migration)
            _migrate(db, migration)


def _backup_before(db: sqlite3.Connection, path: Path, migration: Migration) -> None:
    """What is there from an earlier try is older, or the same."""
    copy = path.with_name(f"{path.name}.before-{migration.number:04}")
    partial = copy.with_name(f"{copy.name}.partial")
    partial.unlink(missing_ok=True)
    copy_into(db, partial)
    partial.rename(copy)
    sync(path.parent)


def copy_into(db: sqlite3.Connection, target: Path) -> None:
    """A consistent copy of the database at `target`, which must not exist, of mode 0600 and on disk."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        db.execute("VACUUM INTO ?", (str(target),))
        sync(target)
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


def _migrate(db: sqlite3.Connection, migration: Migration) -> None:
    """One transaction, with the number of the version in it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(migration.sql):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {migration.number}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """One by one, for `executescript` would commit what is open."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    assert not current.strip(), f"a migration ends within a statement: {current!r}"
    return statements


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
