"""What the shim and the daemon both ask of Linux: processes with their start times, verified signals, holes in files.

Standard library only; the launcher loads it by path. Must not know what an attempt is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

PAGE = 4096
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = ctypes.CDLL(None).prctl  # found once, in the launcher, and not by each shim and agent


def prctl(option: int, argument: int | bytes) -> None:
    """Change something about this process; a kernel that can't is left as it is."""
    _prctl(option, argument, 0, 0, 0)


def monotonic_seconds() -> float:
    """Seconds since boot without suspended time: what deadlines in the folder's files are counted in.

    Every process of one boot counts alike, so a later daemon reads what an earlier one wrote; and as nothing runs
    while the machine is suspended, no agent's time passes.
    """
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@cache
def boot_id() -> str:
    """Which boot this is. As bytes, for a text's codec would be imported anew by each shim."""
    with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
        return file.read(100).decode().strip()


@cache
def pid_namespace() -> int:
    """The pid namespace in which our pids mean something."""
    return os.stat("/proc/self/ns/pid").st_ino


def parent_and_start(pid: int) -> tuple[int, int] | None:
    """The parent of a process and its start time in clock ticks since boot; None when it is gone."""
    fields = _stat(pid)
    return (int(fields[1]), int(fields[19])) if len(fields) > 19 else None


def is_stopped(pid: int) -> bool:
    """Whether a process does nothing until somebody sends it SIGCONT."""
    return _stat(pid)[:1] == [b"T"]


def _stat(pid: int) -> list[bytes]:
    """What stands after its name in /proc/PID/stat, its state first; nothing when it is gone."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        stat = os.read(file, 1024)
    except OSError:
        return []
    finally:
        os.close(file)
    return stat[stat.rfind(b")") + 2 :].split()


def descendants(root: int) -> list[tuple[int, int]]:
    """All processes below `root` as (pid, start time). Since the shim is a subreaper nothing below it gets away."""
    children: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (seen := parent_and_start(int(name))) is not None:
            children.setdefault(seen[0], []).append((int(name), seen[1]))
    found: list[tuple[int, int]] = []
    front = [root]
    while front:
        below = children.pop(front.pop(), [])
        found += below
        front += [pid for pid, _ in below]
    return found


def open_verified(pid: int, start: int) -> int | None:
    """A pidfd of exactly the process that started then; None when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    seen = parent_and_start(pid)
    if seen is None or seen[1] != start:
        os.close(handle)
        return None
    return handle


def signal_verified(pid: int, start: int, *signals: signal.Signals) -> bool:
    """Signal exactly the process that started then, never one that took its pid since; False when it is gone."""
    handle = open_verified(pid, start)
    if handle is None:
        return False
    try:
        for number in signals:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def ancestor(pid: int, known: dict[tuple[int, int], T]) -> T | None:
    """What is known of the nearest process at or above `pid`, by (pid, start time); None when nothing is."""
    for _ in range(3):  # a parent that ends meanwhile hands its children on: begin again
        at, born = pid, None
        while at > 1:
            seen = parent_and_start(at)
            if seen is None or (born is not None and seen[1] > born):
                break  # gone, or its pid is somebody else's by now
            if (at, seen[1]) in known:
                return known[at, seen[1]]
            at, born = seen
        else:
            return None
    return None


def oom_kills(pid: int, scope: str, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int:
    """How many processes of the scope that `pid` is in, or was before it ended, were killed for lack of memory.

    0 where that can't be known: it was in another cgroup, or the cgroup has gone.
    """
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
        if not path.endswith(f"/{scope}"):
            return 0
        with open(f"{cgroups}{path}/memory.events", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def punch_hole(file: int, start: int, end: int) -> None:
    """Give the blocks between back to the disk and keep the size; OSError when the file system can't."""
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    if _libc.fallocate(file, mode, ctypes.c_int64(start), ctypes.c_int64(end - start)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
