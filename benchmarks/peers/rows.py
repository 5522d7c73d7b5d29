"""The lines of the table: what is asked of whom, and what was promised. `measure` goes once through them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from peers.figures import Row, Target
from peers.install import LIBRARIES
from peers.subject import Subject

REDIS = ("rq", "arq", "saq", "dramatiq", "celery")
EVERY_REDIS = "the best on Redis"
QUEUED = 10_000


class Line(NamedTuple):
    """`ask` gives the sample of one subject, of those that can do it."""

    row: Row
    subjects: tuple[str, ...]
    ask: Callable[[Subject, float], float]


def _rate(operation: str) -> Callable[[Subject, float], float]:
    def ask(subject: Subject, seconds: float) -> float:
        sample: float = subject.ask(operation, seconds)
        if subject.name in LIBRARIES:
            subject.ask("clear")
        return sample

    return ask


def _flight(subject: Subject, seconds: float) -> float:
    return float(subject.ask("flight", seconds))


def _work(subject: Subject, seconds: float) -> float:
    """All that are queued, where that takes about a second; else of as many queued those that are done in the time."""
    subject.ask("fill", QUEUED)
    if subject.name in ("opusd", "beanstalkd", "bare"):
        return float(subject.ask("work", QUEUED)[0])
    sample = float(subject.ask("work", 2 * seconds))
    subject.ask("clear")
    return sample


def _loaded(subject: Subject, _: float) -> float:
    subject.ask("fill", QUEUED)
    return float(subject.ask("work", QUEUED, True)[0])


def _line(
    key: str,
    title: str,
    subjects: tuple[str, ...],
    ask: Callable[[Subject, float], float],
    targets: tuple[Target, ...],
) -> Line:
    return Line(Row(key, title, "jobs/s", targets), subjects, ask)


def lines() -> list[Line]:
    every = ("opusd", "beanstalkd", "huey", *REDIS, "procrastinate", "limits", "bare")
    return [
        _line(
            "one",
            "one client, submit and wait for the reply",
            every,
            _rate("submit"),
            (Target(0.6, ("beanstalkd",)), Target(1.5, ("saq",)), Target(2.5, ("procrastinate",))),
        ),
        _line(
            "eight",
            "8 such clients",
            every,
            _rate("submit_eight"),
            (Target(2, ("beanstalkd",)), Target(1.5, REDIS, EVERY_REDIS)),
        ),
        _line(
            "flight",
            "one client, 64 in flight",
            ("opusd", "beanstalkd", "sqlite", "limits", "bare"),
            _flight,
            (Target(7, ("beanstalkd",)), Target(1, ("sqlite",))),
        ),
        _line(
            "batch",
            "batches of 100 (submit_batch, enqueue_many, batch_defer)",
            ("opusd", "rq", "procrastinate", "bare"),
            _rate("batch"),
            (Target(4, ("rq",)), Target(4, ("procrastinate",))),
        ),
        _line(
            "work",
            "10,000 queued: claim and complete, one worker, 32 slots",
            ("opusd", "beanstalkd", "huey", "saq", "procrastinate", "bare"),
            _work,
            (Target(4, ("beanstalkd",)), Target(4, ("huey",)), Target(7, ("saq",)), Target(25, ("procrastinate",))),
        ),
        _line(
            "loaded",
            "the same while 64 submits are in flight",
            ("opusd", "beanstalkd", "bare"),
            _loaded,
            (Target(3, ("beanstalkd",), "beanstalkd without them", "work"),),
        ),
    ]


P50 = Row(
    "p50",
    "idle worker: from the call of submit to the job in its hand, p50",
    "ms",
    (Target(1.2, ("beanstalkd",)),),
    more_is_better=False,
)
P99 = Row("p99", "the same, p99", "ms", (Target(2, ("beanstalkd",)),), more_is_better=False)
FSYNC = Row("fdatasync", "4 KiB written and synchronised (fdatasync)", "times/s")


def measure(subjects: dict[str, Subject], each: list[Line], seconds: float, keep: bool) -> None:
    """One round: each line, and in it each subject, so that what else the machine does falls on all alike."""
    for line in each:
        for name in line.subjects:
            subject = subjects.get("limits" if name == "sqlite" else name)
            if subject is None:
                continue
            sample = float(subject.ask("sqlite", seconds)) if name == "sqlite" else line.ask(subject, seconds)
            if keep:
                line.row.add(name, sample)
    if keep and "limits" in subjects:
        FSYNC.add("disk", subjects["limits"].ask("fdatasync", seconds))


def measure_idle(subjects: dict[str, Subject], count: int, keep: bool) -> None:
    for name in ("opusd", "beanstalkd", "bare"):
        if name in subjects:
            found: list[Any] = subjects[name].ask("idle", count)
            if keep:
                P50.add(name, 1e3 * statistics.median(found))
                P99.add(name, 1e3 * statistics.quantiles(found, n=100, method="inclusive")[98])
