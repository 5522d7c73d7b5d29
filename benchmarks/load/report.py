"""What was found out, on the terminal and as Markdown."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from rig import machine

from load.neighbour import PAUSES
from load.stage import Finding


def show(finding: Finding) -> None:
    before, peak, after = (f"{size / 1e6:.0f}" for size in finding.memory)
    print(f"  {'; '.join(finding.done)}", flush=True)
    for what in finding.dropped:
        print(f"  dropped: {what}")
    print(f"  {finding.took:.1f} s, memory {before} MB before, {peak} at most, {after} after; load {finding.load:.1f}")
    print(f"  {'milliseconds':<24}{'calls':>8}{'p50':>9}{'p99':>9}{'max':>9}")
    for method in PAUSES:
        for period in ("quiet", "load"):
            count = len(finding.seconds.get(period, {}).get(method, []))
            figures = "".join(f"{figure * 1e3:>9.1f}" for figure in finding.figures(period, method))
            print(f"  {f'{method}, {period}':<24}{count:>8,}{figures}")
    if finding.unjudged:
        print(f"  not judged, for the machine was busy: times of {', '.join(finding.unjudged)}")
    for what in finding.broken:
        print(f"  BROKEN: {what}")
    print(flush=True)


def markdown(findings: Sequence[Finding], *, quick: bool, folder: Path, load: float, note: str) -> str:
    """Two tables: what it cost, and what became of it."""
    form = "in the short form" if quick else "in full"
    broken = [f"{finding.scenario.name}: {what}" for finding in findings for what in finding.broken]
    head = (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {form}: {machine(folder)}. Load of the machine {load:.1f} when it"
        " began. What calls of neighbours took, p50 / p99 / max in ms, alone and under load; MB before the load,"
        " at most, and after it."
    )
    methods = [f"`{method}` {when}" for method in PAUSES for when in ("alone", "under load")]
    lines = [
        f"{head} {note}".rstrip(),
        "",
        f"| | memory | {' | '.join(methods)} |",
        f"| --- | {'---: | ' * len(methods)}---: |",
    ]
    for finding in findings:
        memory = ", ".join(f"{size / 1e6:.0f}" for size in finding.memory)
        cells = [
            " / ".join(_figure(figure) for figure in finding.figures(period, method))
            for method in PAUSES
            for period in ("quiet", "load")
        ]
        lines.append(f"| {finding.scenario.name} | {memory} | {' | '.join(cells)} |")
    lines += ["", "| | what happened | dropped or refused | |", "| --- | --- | --- | --- |"]
    for finding in findings:
        verdict = "**broken**" if finding.broken else "held"
        if finding.unjudged:
            verdict += f"; not judged, for the machine was busy: times of {', '.join(finding.unjudged)}"
        lines.append(
            f"| {finding.scenario.name} | {_cell(finding.done)} | {_cell(finding.dropped) or 'nothing'} | {verdict} |"
        )
    lines += ["", *[f"- **broken**: {what}" for what in broken]]
    return "\n".join(lines).rstrip() + "\n"


def _cell(what: list[str]) -> str:
    return "; ".join(what).replace("|", "\\|")


def _figure(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 1}f}"
