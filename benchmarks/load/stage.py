"""Where a scenario takes place: a daemon of its own, a neighbour whose calls are timed, and what is found out.

First the neighbour is alone with the daemon (`quiet`), then comes the load. Memory is that of the daemon's own process.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rig import Client, Daemon

from load.neighbour import PAUSES

PING = 0.050
"""Seconds within which 99 of 100 pings are answered, whatever others do: the daemon never stands still for longer."""
DISK = 0.100
"""The same of `job.get` and `job.submit`, which wait until what they were told of is on the disk."""
CALM = 0.2
"""Of what it may take under load: when a call takes longer without, the machine is busy, and no such call is judged."""
_SETTLE = 1.0


@dataclass(frozen=True)
class Scenario:
    """`growth` is what the daemon may need beside what it had, in bytes, at the most during the load."""

    name: str
    title: str
    config: str
    run: Callable[[Stage], None]
    growth: float
    quick_config: str | None = None  # of the short form, when it is another
    disk: float = DISK

    def allows(self, method: str) -> float:
        """Seconds that 99 of 100 such calls of a neighbour may take."""
        return PING if method == "system.ping" else self.disk


@dataclass
class Finding:
    """What came out of one scenario. `done` and `dropped` are told; anything in `broken` is a promise that was."""

    scenario: Scenario
    done: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    memory: tuple[int, int, int] = (0, 0, 0)  # before, peak, after
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # of calls, by period and method
    unjudged: list[str] = field(default_factory=list)  # methods, for the machine was busy
    took: float = 0.0
    load: float = 0.0

    def figures(self, period: str, method: str) -> tuple[float, float, float]:
        """p50, p99 and the longest, in seconds."""
        samples = sorted(self.seconds.get(period, {}).get(method, []))
        if len(samples) < 2:
            return (float("nan"),) * 3
        return statistics.median(samples), statistics.quantiles(samples, n=100, method="inclusive")[-1], samples[-1]


class Stage:
    """`begin` when everything is prepared, then the load, then `end`; `check` says what must hold at any time.

    Times are judged on a machine that is `calm`, against bounds times `scale`.
    """

    def __init__(self, scenario: Scenario, folder: Path, *, quick: bool, scale: float, calm: bool) -> None:
        self.quick = quick
        self.finding = Finding(scenario)
        self.folder = folder
        short = scenario.quick_config if quick else None
        self.daemon = Daemon(folder, scenario.config if short is None else short)
        self._scale = scale
        self._calm = calm
        self._quiet = 1.0 if quick else 5.0
        self._begun = 0.0
        self._neighbour: subprocess.Popen[str] | None = None
        self.client: Client

    def __enter__(self) -> Self:
        self.daemon.start()
        self.client = self.daemon.client()
        return self

    def __exit__(self, *_: object) -> None:
        if self._neighbour is not None:
            self._neighbour.kill()
            self._neighbour.communicate()
        self.client.close()
        self.daemon.stop(signal.SIGTERM)

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def begin(self) -> None:
        """The neighbour comes and is alone for a while; then the load may begin."""
        argv = [sys.executable, "-m", "load.neighbour", str(self.daemon.socket)]
        self._neighbour = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._neighbour.stdout is not None
        if self._neighbour.stdout.readline() != "ready\n":
            raise RuntimeError("the neighbour did not come")
        time.sleep(0.3)  # what is done for the first time is not what is asked for
        self._mark("quiet")
        time.sleep(self._quiet)
        Path(f"/proc/{self.daemon.pid}/clear_refs").write_text("5")  # the peak counts from here
        self.finding.memory = (self.daemon.memory()[0], 0, 0)
        self._mark("load")
        self._begun = time.monotonic()

    def rest(self) -> None:
        """The load is over: what others' calls take is no longer judged."""
        if not self.finding.took:
            self.finding.took = time.monotonic() - self._begun
            self.finding.load = os.getloadavg()[0]
            self._mark("after")

    def end(self) -> None:
        """All is over; what it leaves is looked at when it has had time to go."""
        self.rest()
        time.sleep(_SETTLE)
        before, (now, peak) = self.finding.memory[0], self.daemon.memory()
        self.finding.memory = (before, peak, now)
        neighbour, self._neighbour = self._neighbour, None
        assert neighbour is not None
        said, _ = neighbour.communicate(timeout=60)
        self.check(neighbour.returncode == 0, "the neighbour could not go on: see above")
        if neighbour.returncode == 0:
            self.finding.seconds = json.loads(said)
        self._judge()

    def check(self, holds: object, otherwise: str) -> None:
        """A promise: what is said when it does not hold ends the program with 1."""
        if not holds:
            self.finding.broken.append(otherwise)

    def done(self, what: str) -> None:
        self.finding.done.append(what)

    def dropped(self, what: str) -> None:
        self.finding.dropped.append(what)

    def counts(self) -> dict[str, int]:
        """Jobs by status, those of the neighbour left out: they are held."""
        found: dict[str, Any] = self.client.call("queue.status")["counts"]["status"]
        return {status: count for status, count in found.items() if status != "held"}

    def cursor(self) -> int:
        """That of the last event."""
        found = self.client.call("events.subscribe", group="nobody")
        self.client.call("events.unsubscribe", subscription=found["subscription"])
        return int(found["cursor"])

    def _mark(self, period: str) -> None:
        assert self._neighbour is not None
        assert self._neighbour.stdin is not None
        self._neighbour.stdin.write(f"mark {period}\n")
        self._neighbour.stdin.flush()

    def _judge(self) -> None:
        before, peak, _ = self.finding.memory
        most = self.finding.scenario.growth
        self.check(
            peak - before <= most,
            f"memory grew by {(peak - before) / 1e6:.0f} MB, from {before / 1e6:.0f}; {most / 1e6:.0f} are allowed",
        )
        for method in PAUSES:
            bound = self.finding.scenario.allows(method) * self._scale
            alone, p99 = (self.finding.figures(period, method)[1] for period in ("quiet", "load"))
            if not self._calm or alone > CALM * bound:
                self.finding.unjudged.append(method)
                continue
            self.check(
                p99 <= bound,
                f"a neighbour's {method} took {p99 * 1e3:.1f} ms (p99) under load, {alone * 1e3:.1f} ms without;"
                f" {bound * 1e3:.0f} ms are allowed",
            )
