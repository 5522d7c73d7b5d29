"""How long a human's message waits: from the call of submit to a sign of life from its agent, on an idle daemon and on
one whose pool is full while 100,000 jobs are queued.

Two real daemons stand beside each other and are measured by turns. The sign of life is a byte in a FIFO, written by a
shell: what is measured holds the start of a process, its first line, and our own waking. Ends with 1 when the target
is missed, 2 when it can't measure here.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import Daemon, chunks, scratch

TARGET = 0.050
"""Seconds, within which 95 of 100 agents of interactive jobs must have begun while everything else is full."""
SLOTS = 4
CONFIG = f"""
max_concurrent = {SLOTS}
interactive_slots = 1
[agents.exec]
slots = {SLOTS}
"""
_PATIENCE = 30.0
_BATCH = 1000
_PIECE = 10
_TIERS = ("low", "normal", "urgent", 2, 5, 8, 9)
_PROMPT = "Look at every module under src, and say which of its functions nobody calls any more; then remove them. "


class Side:
    """One daemon; with `queued` jobs in its queue and its pool full of jobs that end when this program does."""

    def __init__(self, folder: Path, queued: int) -> None:
        self.daemon = Daemon(folder, CONFIG)
        self.daemon.start()
        self.client = self.daemon.client()
        self.latencies: list[float] = []
        self.replies: list[float] = []
        self._begun, self._hold = folder / "begun", folder / "hold"
        for path in (self._begun, self._hold):
            os.mkfifo(path)
        self._sign = os.open(self._begun, os.O_RDWR | os.O_NONBLOCK)
        self._held = os.open(self._hold, os.O_RDWR)
        if queued:
            self._fill(queued)

    def _fill(self, queued: int) -> None:
        sleeper = ["sh", "-c", f"read _ < {self._hold}"]
        ids = [self.client.call("job.submit", command=sleeper, cwd="/")["job"]["id"] for _ in range(SLOTS)]
        self.client.call("job.wait", ids=ids, until="started", timeout=_PATIENCE)
        batches = ({"jobs": list(self._specs(at, size))} for at, size in enumerate(chunks(queued, _BATCH)))
        self.client.many("job.submit_batch", batches, in_flight=4)
        first = self.client.call("queue.peek", limit=1)["jobs"][0]
        self.client.call("queue.pause", group=first["group"])
        seen = self.client.call("queue.status")
        if (seen["pool"]["busy"], seen["counts"]["status"].get("queued")) != (SLOTS, queued):
            raise RuntimeError(f"the pool was to be full and {queued:,} jobs queued, but: {seen['counts']}")

    @staticmethod
    def _specs(batch: int, size: int) -> Iterator[dict[str, Any]]:
        for number in range(batch * _BATCH, batch * _BATCH + size):
            spec = {"command": ["true"], "prompt": (f"{number}: " + _PROMPT * 3)[:300], "cwd": "/"}
            spec |= {"priority": _TIERS[number % len(_TIERS)], "group": f"project-{number % 50}"}
            yield {**spec, "needs": {f"repo:{number}": 1}}

    def measure(self, count: int) -> None:
        """So many messages, each once the agent of the one before is gone."""
        for _ in range(count):
            command = ["sh", "-c", f"echo > {self._begun}"]
            begun = time.perf_counter()
            job = self.client.call("job.submit", command=command, cwd="/", interactive=True)["job"]["id"]
            replied = time.perf_counter()
            ready, _, _ = select.select([self._sign], [], [], _PATIENCE)
            started = time.perf_counter()
            if not ready:
                raise RuntimeError(f"the interactive job {job} had not begun after {_PATIENCE:g} s")
            os.read(self._sign, 64)
            self.latencies.append(started - begun)
            self.replies.append(replied - begun)
            ended = self.client.call("job.wait", ids=[job], timeout=_PATIENCE)["jobs"][0]
            if ended["status"] != "completed":
                raise RuntimeError(f"the interactive job {job} is {ended['status']}: {ended['reason']}")

    def close(self) -> None:
        """The daemon first, so that nothing queued starts; what its agents wait at is closed then, which ends them."""
        self.client.close()
        self.daemon.stop(signal.SIGKILL)
        os.close(self._held)
        os.close(self._sign)


def main() -> int:
    options = _parser().parse_args()
    folder = scratch("humans", options.dir)
    sides: list[Side] = []
    try:
        return _run(folder, sides, options)
    finally:
        for side in sides:
            side.close()
        shutil.rmtree(folder)


def _run(folder: Path, sides: list[Side], options: argparse.Namespace) -> int:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, in {folder}")
    for name, queued in (("idle", 0), ("full", options.queued)):
        sides.append(Side(folder / name, queued))
    idle, full = sides
    for side in sides:
        side.measure(_PIECE)  # what is done for the first time is not what is asked for
        side.latencies.clear()
        side.replies.clear()
    for size in chunks(options.messages, _PIECE):
        for side in sides:
            side.measure(size)
    print(f"\n  {f'milliseconds, {options.messages} messages each':<40}{'p50':>8}{'p95':>8}{'max':>8}")
    _line("submit is answered, idle", idle.replies)
    _line(f"submit is answered, {options.queued:,} queued", full.replies)
    _line("its agent has begun, idle", idle.latencies)
    late = _line(f"its agent has begun, {options.queued:,} queued", full.latencies) > TARGET
    verdict = f"MISSED: p95 at most {TARGET * 1e3:g} ms" if late else "all targets met"
    print(f"\n{verdict}, load {os.getloadavg()[0]:.1f}")
    return int(late)


def _line(name: str, samples: list[float]) -> float:
    """Prints one line of the table; its p95."""
    p95 = statistics.quantiles(samples, n=20, method="inclusive")[-1]
    figures = (statistics.median(samples), p95, max(samples))
    print(f"  {name:<40}{''.join(f'{figure * 1e3:>8.1f}' for figure in figures)}")
    return p95


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--queued", type=int, default=100_000, metavar="JOBS")
    parser.add_argument("--messages", type=int, default=200, metavar="N", help="measured on either side")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on a disk (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
