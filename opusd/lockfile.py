"""One daemon for one state folder: a file that is locked for life and says who holds it.

The lock, not the file, is the claim: it ends with the process, however that ends, and the file stays.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import ClassVar, Self


class AlreadyRunning(Exception):
    """Another daemon holds the lock; `pid` is None when it has not said which yet."""

    exit_code: ClassVar[int] = os.EX_TEMPFAIL

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"with pid {pid}" if pid is not None else "(its pid is not known yet)"
        super().__init__(f"another opusd {who} holds {path}")
        self.path = path
        self.pid = pid


class LockFile:
    """A held lock. It is not inherited by programs that are started."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """AlreadyRunning when another process, or another LockFile, holds it; OSError when there can be none."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_at(path, descriptor):  # it was removed between the two: what we hold nobody else can find
                    os.close(descriptor)
                    continue
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            except BlockingIOError:
                said = os.pread(descriptor, 32, 0).strip()
                os.close(descriptor)
                raise AlreadyRunning(path, int(said) if said.isdigit() else None) from None
            except OSError:
                os.close(descriptor)
                raise
            return cls(path, descriptor)

    def release(self) -> None:
        """The file stays: removing it would let two hold a lock of the same name."""
        os.close(self._descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
