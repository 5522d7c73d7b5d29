"""How many agents this machine can bear at once: `max_concurrent = "auto"`, from its processors and memory.

A container or a systemd unit may have less than the machine: the limits of every cgroup above this process
count, of version 2 and of version 1. What can't be read limits nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GIB = 1 << 30
MOST = 5
EACH = 2 * GIB
"""Memory that one agent and what it builds are reckoned with."""


def automatic_pool(root: Path = Path("/"), processors: int | None = None) -> int:
    """`max(1, min(5, cpus - 1, memory / 2 GiB))`. `root` is where /proc and /sys are looked for."""
    cpus = float(len(os.sched_getaffinity(0)) if processors is None else processors)
    memory = _machine_memory(root)
    for folder in _cgroups(root):
        cpus = min(cpus, _quota(folder))
        memory = min(memory, _memory_limit(folder))
    shares = memory / EACH
    return max(1, int(min(MOST, cpus - 1, shares)))


def _machine_memory(root: Path) -> float:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return float("inf")


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
