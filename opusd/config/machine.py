"""How many agents this machine can bear at once (`max_concurrent = "auto"`), and what room it has at a moment.

A container or a systemd unit may have less than the machine: the limits of every cgroup above this process
count, of version 2 and of version 1. What can't be read limits nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from opusd.core.room import Room

GIB = 1 << 30
MOST = 5
EACH = 2 * GIB
"""Memory that one agent and what it builds are reckoned with."""


def automatic_pool(root: Path = Path("/"), processors: int | None = None) -> int:
    """`max(1, min(5, cpus - 1, memory / 2 GiB))`. `root` is where /proc and /sys are looked for."""
    cpus = float(len(os.sched_getaffinity(0)) if processors is None else processors)
    memory = _memory(root, "MemTotal")
    for folder in _cgroups(root):
        cpus = min(cpus, _quota(folder))
        memory = min(memory, _memory_limit(folder))
    shares = memory / EACH
    return max(1, int(min(MOST, cpus - 1, shares)))


class Machine:
    """What is left of this machine, of its cgroups and of the disk that `folder` is on, for another attempt."""

    def __init__(self, folder: Path, root: Path = Path("/")) -> None:
        self._folder = folder
        self._root = root
        self._groups = tuple(_cgroups(root))

    def room(self) -> Room:
        free = _memory(self._root, "MemAvailable")
        for group in self._groups:
            free = min(free, _memory_limit(group) - _memory_used(group))
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return Room(free_memory=_whole(free))
        return Room(
            free_memory=_whole(free), free_disk=disk.f_bavail * disk.f_frsize, disk=disk.f_blocks * disk.f_frsize
        )


def _whole(free: float) -> int | None:
    return None if free == float("inf") else max(0, int(free))


def _memory(root: Path, name: str) -> float:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return float("inf")


def _memory_used(folder: Path) -> float:
    """What a cgroup holds, less what the kernel can take back at once: pages of files that nobody has used lately."""
    used = (_read(folder / name).strip() for name in ("memory.current", "memory.usage_in_bytes"))
    statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    unused = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
    return next((int(number) - int(unused) for number in used if number.isdecimal()), 0)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups of this process and of all above them, as far as they are mounted here."""
    paths: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, exported, mounted, *_ = before.split(" ")
        kind, _, options = after.split(" ", 2)
        names = [""] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for path in [paths[name] for name in names if name in paths][:1]:
            # A container may be told its path as it is outside: then what is mounted is all there is to see.
            inside = Path(path).relative_to(exported) if Path(path).is_relative_to(exported) else Path()
            yield from (root / mounted.lstrip("/") / folder for folder in (inside, *inside.parents))


def _quota(folder: Path) -> float:
    """In processors: `cpu.max` is "QUOTA PERIOD" or "max PERIOD"; version 1 has a file for each, with -1 for none."""
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    quota = quota or _read(folder / "cpu.cfs_quota_us").strip()
    period = period or _read(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else float("inf")


def _memory_limit(folder: Path) -> float:
    limits = (_read(folder / name).strip() for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
    return min((int(limit) for limit in limits if limit.isdecimal()), default=float("inf"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
