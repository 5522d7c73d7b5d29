"""Where the daemon's time goes for one submission, one completion, one agent: processor time by thread, and by room.

What a thread costs is read from the kernel (schedstat), first, with nobody looking on; what it does is then sampled by
py-spy, which slows it down. Ends with 2 when it can't measure here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from peers import life, standing
from peers.drivers.opusd import Opusd
from peers.install import python_of
from rig import Daemon, machine, scratch

_RATE = 500
_QUEUED = 15_000
_FRAME = re.compile(r"^(.*) \((?:.*/)?opusd/((?:\w+/)?\w+\.py)")
_THREADS = {"MainThread": "the loop", "Thread-1": "writer of the registry", "Thread-2": "look-ups"}
_OTHER = "other threads"
_LAUNCHER = "launcher and shims"


@dataclass
class Found:
    """Microseconds by thread, and the shares of the loop's: by room, and by function with all that it calls."""

    title: str
    rate: float
    threads: dict[str, float]
    rooms: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    samples: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=6.0, metavar="S", help="each time a line is measured")
    parser.add_argument("--functions", type=int, default=12, metavar="N", help="how many to name of each line")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on a disk (default: %(default)s)")
    options = parser.parse_args()
    folder = scratch("where", options.dir)
    try:
        spy = Path(python_of("py-spy")).with_name("py-spy")
        print(f"{time.strftime('%Y-%m-%d')}: {machine(folder)}, load {os.getloadavg()[0]:.1f}\n")
        for found in _measure(folder, spy, options.seconds):
            _show(found, options.functions)
    except subprocess.CalledProcessError as error:
        print(f"py-spy could not be installed, or may not look: {error}")
        return 2
    finally:
        shutil.rmtree(folder)
    return 0


def _measure(folder: Path, spy: Path, seconds: float) -> list[Found]:
    found: list[Found] = []
    for name, config, measure in (("queue", standing.CONFIG, _queue), ("agents", life.CONFIG, _agents)):
        daemon = Daemon(folder / name, config)
        daemon.start()
        try:
            found += measure(daemon, spy, seconds)
        finally:
            daemon.stop(signal.SIGKILL)
    return found


def _queue(daemon: Daemon, spy: Path, seconds: float) -> list[Found]:
    driver = Opusd(str(daemon.socket))

    def submitted(seconds: float) -> float:
        return driver.submit(seconds) * seconds

    def flown(seconds: float) -> float:
        return driver.flight(seconds) * seconds

    def worked(_: float) -> float:
        driver.work(_QUEUED)
        return _QUEUED

    return [
        _line(daemon, spy, seconds, "submit, one at a time", submitted),
        _line(daemon, spy, seconds, "submit, 64 in flight", flown),
        _line(daemon, spy, seconds, "claim and complete, 32 in hand", worked, lambda: driver.fill(_QUEUED)),
    ]


def _agents(daemon: Daemon, spy: Path, seconds: float) -> list[Found]:
    client = daemon.client()

    def lived(seconds: float) -> float:
        count = int(120 * seconds)
        life.whole_life(client, count)
        return count

    return [_line(daemon, spy, seconds, "`true` as an agent, its whole life, 8 at a time", lived)]


def _line(
    daemon: Daemon,
    spy: Path,
    seconds: float,
    title: str,
    drive: Callable[[float], float],
    prepare: Callable[[], None] = lambda: None,
) -> Found:
    """`drive` does what is measured for about so long, and says how often; `prepare` makes what it needs."""
    prepare()
    drive(0.3)
    prepare()
    before, begun = _processor(daemon.pid), time.perf_counter()
    done = drive(seconds)
    rate = done / (time.perf_counter() - begun)
    after = _processor(daemon.pid)
    prepare()
    raw = daemon.folder / "profile"
    argv = [spy, "record", "--threads", "--rate", _RATE, "--format", "raw", "--output", raw, "--pid", daemon.pid]
    with subprocess.Popen(list(map(str, argv)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as looking:
        drive(seconds)
        looking.send_signal(signal.SIGINT)
    if looking.returncode:
        raise subprocess.CalledProcessError(looking.returncode, "py-spy record")
    names = dict(re.findall(r"^thread \((\d+)\): ([\w-]+)", raw.read_text(), re.MULTILINE))
    threads: Counter[str] = Counter()
    for thread, used in after.items():
        what = _LAUNCHER if thread < 0 else _THREADS.get(names.get(str(thread), ""), _OTHER)
        threads[what] += 1e6 * (used - before.get(thread, 0.0)) / done
    found = Found(title, rate, dict(threads))
    _attribute(raw, found)
    return found


def _processor(pid: int) -> dict[int, float]:
    """Seconds that each thread has had; under -1 what the daemon's children and theirs have had."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(map(int, fields[11:15]))
    found[-1] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def _attribute(raw: Path, found: Found) -> None:
    """Each sample of the loop goes to the innermost function of ours, and to all functions above it."""
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if "MainThread" not in thread:
            continue
        found.samples += int(count)
        ours = [made for frame in frames if (made := _FRAME.match(frame)) is not None]
        ours = [made for made in ours if not made[2].startswith("__main__")]
        found.rooms[ours[-1][2].partition("/")[0] if ours else "the loop itself (uvloop, asyncio)"] += int(count)
        for name in {f"{made[2]} {made[1]}" for made in ours}:
            found.functions[name] += int(count)


def _show(found: Found, functions: int) -> None:
    print(f"### {found.title}: {found.rate:,.0f}/s\n\n| processor time of each | us |\n| --- | ---: |")
    for name, used in sorted(found.threads.items(), key=lambda one: -one[1]):
        if used >= 0.5:
            print(f"| {name} | {used:,.0f} |")
    loop = found.threads["the loop"]
    print("\n| the loop's, by room | us | share |\n| --- | ---: | ---: |")
    for name, count in found.rooms.most_common():
        if count * 100 >= found.samples:
            print(f"| {name} | {loop * count / found.samples:.0f} | {100 * count / found.samples:.0f} % |")
    print("\n| the loop's, by function with all that it calls | us |\n| --- | ---: |")
    for name, count in found.functions.most_common(functions):
        print(f"| {name} | {loop * count / found.samples:.0f} |")
    print()


if __name__ == "__main__":
    sys.exit(main())
