import os
import subprocess
import sys
from pathlib import Path

import pytest

from opusd.lockfile import AlreadyRunning, LockFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "opusd.lock"


def test_a_second_daemon_is_told_the_pid_of_the_first(path: Path) -> None:
    lock = LockFile.acquire(path)
    assert path.read_text() == f"{os.getpid()}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} holds {path}") as refused:
        LockFile.acquire(path)
    assert (refused.value.exit_code, refused.value.pid) == (75, os.getpid())
    lock.release()
    LockFile.acquire(path).release()


def test_a_shorter_pid_leaves_nothing_of_a_longer_one(path: Path) -> None:
    path.write_text("99999999999999999999\n")
    lock = LockFile.acquire(path)
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_the_lock_ends_with_its_process_however_that_ends(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from opusd.lockfile import LockFile;"
        "lock = LockFile.acquire(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"pid {holder.pid} "):
            LockFile.acquire(path)
        holder.kill()
        holder.wait()
    LockFile.acquire(path).release()


def test_programs_that_are_started_do_not_hold_the_lock(path: Path) -> None:
    lock = LockFile.acquire(path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        LockFile.acquire(path).release()
        child.kill()


def test_a_removed_file_is_not_what_is_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes the file between our open and our lock: we must end with a file that others find."""
    import fcntl

    real, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(path.unlink())
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = LockFile.acquire(path)
    with pytest.raises(AlreadyRunning):
        LockFile.acquire(path)
    lock.release()


def test_a_link_in_the_lock_s_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        LockFile.acquire(path)
    assert not (tmp_path / "elsewhere").exists()
