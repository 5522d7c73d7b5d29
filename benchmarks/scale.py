"""What a queue of 1,000,000 jobs costs, beside one of 1,000: every call, the memory, the start.

Two real daemons stand beside each other, one with the short and one with the long queue, and every round
measures both by turns, in pieces so small that what else the machine does falls on both alike. What is judged is the
median of what the pairs of pieces say. Ends with 1 when a target is missed, 2 when it can't measure here.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rig import Daemon, chunks, on_one_processor, scratch

MEMORY = 500e6
"""Bytes, the most that the daemon ever had: while it was filled, and after it has read its registry again."""
START = 5.0
"""Seconds from exec to the first answer."""
PROMISED = 1 / 0.9
"""What submit, claim, position and cancel may cost with the long queue, beside the short one: 0.9 of their rate."""
RATIO = 1.5
"""The same of everything else. A few things honestly grow with log n or fall out of the processor's cache (the index
of a table of a million rows is one level deeper, a record lies on a page that was not touched lately), and medians on
a busy machine move by a fifth. Whatever grows with n shows as a factor of 10 to 1000."""
CONFIG = """
max_concurrent = 8
interactive_slots = 0
[agents.exec]
slots = 8
[agents.work]
slots = 0
"""
_BATCH = 1000
_PROMPT = "Look at every module under src, and say which of its functions nobody calls any more; then remove them. "
_TIERS = ("low", "normal", "urgent", 2, 5, 8, 9)


class Side:
    """One daemon with its queue of `size` jobs: by turns `true` for `exec`, which is paused, and one for workers."""

    def __init__(self, folder: Path, size: int, *, watched: bool = False) -> None:
        self.size = size
        self.daemon = Daemon(folder, CONFIG, watched=watched)
        self.daemon.start()
        self.client = self.daemon.client()
        self.client.call("queue.pause", agent="exec")
        self.ids: list[int] = []
        self.random = random.Random(size)
        self._made = 0

    def specs(self, count: int) -> Iterator[dict[str, Any]]:
        for _ in range(count):
            self._made += 1
            prompt = (f"{self._made}: " + _PROMPT * 3)[:300]
            yield {
                **({"agent": "work"} if self._made % 2 else {"command": ["true"]}),
                "prompt": prompt,
                "source": "user",
                "priority": _TIERS[self._made % len(_TIERS)],
                "cwd": "/",
            }

    def fill(self) -> float:
        """To `size` jobs; the seconds that took."""
        begun = time.perf_counter()
        batches = ({"jobs": list(self.specs(size))} for size in chunks(self.size - len(self.ids), _BATCH))
        for result in self.client.many("job.submit_batch", batches, in_flight=4):
            self.ids += [one["job"]["id"] for one in result["jobs"]]
        return time.perf_counter() - begun

    def some(self, count: int) -> list[dict[str, Any]]:
        """Queued jobs from anywhere in the queue."""
        return [{"id": number} for number in self.random.sample(self.ids, count)]

    def take(self, count: int) -> list[dict[str, Any]]:
        """The same, and they are about to leave the queue."""
        taken = []
        for _ in range(count):
            at = self.random.randrange(len(self.ids))
            self.ids[at], self.ids[-1] = self.ids[-1], self.ids[at]
            taken.append({"id": self.ids.pop()})
        return taken

    def leave(self, ended: set[int]) -> None:
        """These are no longer queued."""
        self.ids = [number for number in self.ids if number not in ended]

    def trim(self) -> None:
        """Back to `size` jobs."""
        self.client.many("job.cancel", self.take(len(self.ids) - self.size), in_flight=64)

    def reopen(self) -> None:
        self.client.close()
        self.client = self.daemon.client()


# --- what is measured: each gives samples in seconds a call, and leaves the queue as long as it was -------------------

Measure = Callable[[Side, int], list[float]]


def submit_one(side: Side, count: int) -> list[float]:
    side.ids += [one["job"]["id"] for one in side.client.one_by_one("job.submit", side.specs(count))]
    samples = side.client.latencies
    side.trim()
    return samples


def submit_many(side: Side, count: int) -> list[float]:
    begun = time.perf_counter()
    results = side.client.many("job.submit", side.specs(count), in_flight=64)
    took = time.perf_counter() - begun
    side.ids += [one["job"]["id"] for one in results]
    side.trim()
    return [took / count]


def cancel(side: Side, count: int) -> list[float]:
    side.client.one_by_one("job.cancel", side.take(count))
    samples = side.client.latencies
    side.fill()
    return samples


def claim(side: Side, count: int) -> list[float]:
    """The first in order of the jobs for workers, one by one."""
    client = side.client
    asked = [{"worker": "w", "agents": ["work"], "lease": 600}] * count
    held = [one for reply in client.one_by_one("worker.claim", asked) for one in reply["claims"]]
    samples = client.latencies
    client.many("worker.complete", ({"id": one["job"]["id"], "token": one["token"]} for one in held), in_flight=64)
    side.leave({one["job"]["id"] for one in held})
    side.fill()
    return samples


def dispatch(side: Side, count: int) -> list[float]:
    """The whole life of the first `count` jobs, in 8 slots: started, run, ended, the next one chosen."""
    client = side.client
    first = [job["id"] for job in client.call("queue.peek", limit=count, agent="exec")["jobs"]]
    begun = time.perf_counter()
    client.call("queue.resume", agent="exec")
    client.call("job.wait", ids=first, timeout=300)
    took = time.perf_counter() - begun
    client.call("queue.pause", agent="exec")
    client.call("queue.drain", timeout=60)  # a few more had begun
    client.call("queue.resume")  # what the drain paused: everything
    ended = {
        job["id"] for job in client.call("job.list", status="completed", order="-completed_at", limit=1000)["jobs"]
    }
    side.leave(ended)
    side.fill()
    return [took / count]


def longest_pause(side: Side, count: int) -> list[float]:
    """The slowest of many pings: how long the daemon's one loop stands still for anything."""
    side.client.one_by_one("system.ping", [{}] * count)
    return [max(side.client.latencies)]


def _call(method: str, **params: Any) -> Measure:
    def measure(side: Side, count: int) -> list[float]:
        side.client.one_by_one(method, [params] * count)
        return side.client.latencies

    return measure


def _look(method: str) -> Measure:
    def measure(side: Side, count: int) -> list[float]:
        side.client.one_by_one(method, side.some(count))
        return side.client.latencies

    return measure


class Line(NamedTuple):
    """One line of the table: `pieces` times a round, `calls` each, by turns on either side."""

    name: str
    measure: Measure
    calls: int
    pieces: int
    most: float | None = RATIO


SUBMIT = Line("submit, one at a time", submit_one, 20, 15, PROMISED)
CLAIM = Line("claim (worker.claim)", claim, 20, 15, PROMISED)
POSITION = Line("position (job.get)", _look("job.get"), 40, 15, PROMISED)
CANCEL = Line("cancel", cancel, 20, 15, PROMISED)
LINES = (
    SUBMIT,
    Line("submit, 64 in flight", submit_many, 300, 8, PROMISED),
    CLAIM,
    CANCEL,
    POSITION,
    Line("job.why", _look("job.why"), 40, 15),
    Line("queue.peek, first 10", _call("queue.peek", limit=10), 20, 15),
    Line("job.list by score, first 10", _call("job.list", limit=10, order="score"), 10, 10),
    Line("job.list, last 10", _call("job.list", limit=10), 10, 10),
    Line("queue.status", _call("queue.status"), 20, 15),
    Line("dispatch: a life, 8 slots", dispatch, 50, 3),
    Line("slowest of 1,000 pings", longest_pause, 1000, 1, most=None),
)


# --- the run ----------------------------------------------------------------------------------------------------------


def main() -> int:
    options = _parser().parse_args()
    folder = scratch("scale", options.dir)
    sides: list[Side] = []
    try:
        return _run(folder, sides, options)
    finally:
        for side in sides:
            side.daemon.stop(signal.SIGKILL)
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)


def _run(folder: Path, sides: list[Side], options: argparse.Namespace) -> int:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, in {folder}")
    sides += [Side(folder / name, size) for name, size in (("short", options.short), ("long", options.long))]
    short, long = sides
    for side in sides:
        took = side.fill()
        print(f"filled with {side.size:,} jobs in {took:.1f} s: {side.size / took:,.0f} a second", flush=True)
    filled = long.daemon.memory()
    with on_one_processor(short.daemon, long.daemon):
        figures = measured(short, long, options.rounds, LINES)
    missed = _table(figures, short.size, long.size)
    missed += _judge("most memory, filled and used", long.daemon.memory()[1] / 1e6, MEMORY / 1e6, "MB")
    print(f"  {'memory when it was full':<32}{filled[0] / 1e6:>10.0f} MB")
    missed += _restarts(long, options.rounds)
    print(f"\n{'all targets met' if not missed else f'{missed} missed'}, load {os.getloadavg()[0]:.1f}")
    return 1 if missed else 0


def measured(short: Side, long: Side, rounds: int, lines: Sequence[Line]) -> dict[Line, list[tuple[float, float]]]:
    """The median of each piece in seconds, (short, long). The first round warms both up and is not kept."""
    figures: dict[Line, list[tuple[float, float]]] = {line: [] for line in lines}
    for number in range(rounds + 1):
        for line in lines:
            for _ in range(line.pieces):
                pair = [statistics.median(line.measure(side, line.calls)) for side in (short, long)]
                if number:
                    figures[line].append((pair[0], pair[1]))
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return figures


def _table(figures: dict[Line, list[tuple[float, float]]], short: int, long: int) -> int:
    print(f"\n  {'microseconds a call':<32}{short:>12,}{long:>12,}{'ratio':>8}")
    missed = 0
    for line, pairs in figures.items():
        small, large = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(large / small for small, large in pairs)
        bad = line.most is not None and ratio > line.most
        missed += bad
        verdict = f"  MISSED: at most {line.most:.2f}" if bad else "" if line.most else "  (not judged)"
        print(f"  {line.name:<32}{small * 1e6:>12,.0f}{large * 1e6:>12,.0f}{ratio:>8.2f}{verdict}")
    print()
    return missed


def _restarts(side: Side, rounds: int) -> int:
    """The registry read again: after an orderly end, and after SIGKILL with a log full of work."""
    orderly, killed, stops, processor = [], [], [], []
    for _ in range(min(rounds, 3)):
        stops.append(side.daemon.stop())
        orderly.append(side.daemon.start())
        processor.append(side.daemon.processor())
        side.reopen()
        submit_many(side, 2000)
        side.daemon.stop(signal.SIGKILL)
        killed.append(side.daemon.start())
        side.reopen()
    counted = side.client.call("queue.status")["counts"]["status"]["queued"]
    now, most = side.daemon.memory()
    database, log = side.daemon.on_disk()
    missed = _judge("start after an orderly end", statistics.median(orderly), START, "s")
    missed += _judge("start after SIGKILL", statistics.median(killed), START, "s")
    print(f"  {'processor time of a start':<32}{statistics.median(processor):>10.2f} s")
    missed += _judge("most memory, started again", most / 1e6, MEMORY / 1e6, "MB")
    print(f"  {'memory, started again':<32}{now / 1e6:>10.0f} MB")
    print(f"  {'an orderly end':<32}{statistics.median(stops):>10.2f} s")
    print(f"  {'database':<32}{database / 1e6:>10.0f} MB")
    print(f"  {'write-ahead log':<32}{log / 1e6:>10.0f} MB")
    if counted != len(side.ids):
        print(f"  {counted:,} jobs are queued, and {len(side.ids):,} were acknowledged: jobs were LOST")
        missed += 1
    return missed


def _judge(name: str, value: float, limit: float, unit: str) -> int:
    bad = value >= limit
    print(f"  {name:<32}{value:>10.{0 if unit == 'MB' else 2}f} {unit}, under {limit:g}{'  MISSED' if bad else ''}")
    return int(bad)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--short", type=int, default=1_000, metavar="JOBS")
    parser.add_argument("--long", type=int, default=1_000_000, metavar="JOBS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default="/var/tmp", help="a folder on a disk (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the two state folders there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
