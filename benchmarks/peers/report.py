"""The table on the terminal, and docs/benchmarks.md with its charts, from one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from rig import machine

from peers.chart import bars, figure
from peers.figures import Row, Verdict, unmeasured, verdicts

LABELS = {
    "limits": "echo of the JSON, uvloop",
    "bare": "a bare queue in Python",
    "disk": "one process, one file",
    "sqlite": "raw sqlite3, 100 a commit",
    "beanstalkd": "beanstalkd -f0",
    "huey": "Huey, SQLite with fsync",
    "rq": "RQ, Redis",
    "arq": "arq, Redis",
    "saq": "SAQ, Redis",
    "dramatiq": "Dramatiq, Redis",
    "celery": "Celery, Redis",
    "procrastinate": "procrastinate, PostgreSQL",
    "short": "with 1,000 queued",
}
_LIMITS = ("limits", "sqlite", "bare")
_CHARTS = ("one", "eight", "flight", "batch", "work", "memory", "submit", "claim", "position", "cancel")


@dataclass
class Run:
    """`notes` are about this run alone."""

    folder: Path
    rounds: int
    seconds: float
    versions: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    when: str = ""

    def machine(self) -> str:
        return machine(self.folder)


def show(rows: Sequence[Row]) -> int:
    """Prints all; how many targets were missed."""
    judged = verdicts(rows)
    for row in rows:
        print(f"\n{row.title}, {row.unit}")
        for name in sorted(row.samples, key=row.median, reverse=row.more_is_better):
            low, high = min(row.samples[name]), max(row.samples[name])
            spread = f"{figure(low)} to {figure(high)}" if len(row.samples[name]) > 1 else ""
            print(f"  {LABELS.get(name, name):<44}{figure(row.median(name)):>10}  {spread}")
        for verdict in judged:
            if verdict.row is row:
                print(f"  {'met   ' if verdict.met else 'MISSED'} {_words(verdict)}")
    for what in unmeasured(rows):
        print(f"not measured: {what}")
    missed = sum(not verdict.met for verdict in judged)
    print(f"\n{len(judged) - missed} of {len(judged)} targets met")
    return missed


def write(rows: Sequence[Row], run: Run, page: Path) -> None:
    """The page, and beside it a folder of the same name with the charts."""
    charts = page.with_suffix("")
    charts.mkdir(exist_ok=True)
    judged = verdicts(rows)
    missed = [verdict for verdict in judged if not verdict.met]
    lines = [
        "# opusd beside other queues",
        "",
        'Written by `make bench ARGS="peers -- --report docs/benchmarks.md"`; benchmarks/README.md says what each line',
        "measures, and how. All are durable: each call is answered once its change is synchronised to disk. Payloads",
        "have 300 bytes. Figures are medians of the rounds, with the least and the most.",
        "",
        f"{run.when}: {run.machine()}; {run.rounds} rounds, {run.seconds:g} s a line and queue in each.",
        f"Load of the machine {run.load[0]:.1f} when it began, {run.load[-1]:.1f} when it ended.",
        "",
        f"Versions: {'; '.join(run.versions)}.",
        "",
        *[f"{note}\n" for note in run.notes],
        "## Targets",
        "",
        f"{len(judged) - len(missed)} of {len(judged)} hold.",
        "",
        "| | beside | measured | a bare queue | target | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for verdict in judged:
        sign = "at least" if verdict.row.more_is_better else "at most"
        lines.append(
            f"| {verdict.row.title} | {_against(verdict)} | {verdict.ratio:.2f}x | {_bare(verdict)}"
            f" | {sign} {verdict.target.ratio:g}x | {'met' if verdict.met else '**missed**'} |"
        )
    lines += ["", *[f"Not measured: {what}.\n" for what in [*unmeasured(rows), *run.missing]]]
    for part, measured in groupby(rows, lambda row: row.part):
        lines += [f"## {part or 'Figures'}", ""]
        for row in measured:
            lines += _figures(row, charts)
    page.write_text("\n".join(lines).rstrip() + "\n")


def _figures(row: Row, charts: Path) -> list[str]:
    """One line of the table, with its chart where it has one."""
    lines = [f"### {row.title[0].upper()}{row.title[1:]}", ""]
    if row.key in _CHARTS:
        (charts / f"{row.key}.svg").write_text(bars(row, LABELS, _LIMITS))
        lines += [f"![{row.title}]({charts.name}/{row.key}.svg)", ""]
    lines += [f"| {row.unit} | median | least | most |", "| --- | ---: | ---: | ---: |"]
    for name in sorted(row.samples, key=row.median, reverse=row.more_is_better):
        samples = row.samples[name]
        figures = " | ".join(figure(value) for value in (row.median(name), min(samples), max(samples)))
        lines.append(f"| {LABELS.get(name, name)} | {figures} |")
    return [*lines, ""]


def _words(verdict: Verdict) -> str:
    sign = ">=" if verdict.row.more_is_better else "<="
    return f"{verdict.ratio:.2f}x {_against(verdict)} (target {sign} {verdict.target.ratio:g}x)"


def _bare(verdict: Verdict) -> str:
    return "" if verdict.bare is None else f"{verdict.bare:.2f}x"


def _against(verdict: Verdict) -> str:
    best = LABELS.get(verdict.best, verdict.best)
    return f"{verdict.target.name} ({best})" if verdict.target.name else best
