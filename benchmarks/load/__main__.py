"""What a crowd, or an agent that prints without end, costs everybody else who uses the daemon.

Each scenario has a daemon of its own, and a neighbour whose calls are timed before it and during it. Ends with 1 when a
promise is broken, 2 when it can't measure here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from rig import machine, scratch

from load import connections, key, output, pool, report, subscribers, workers
from load.stage import Finding, Scenario, Stage

CALM = 0.75
"""Of a processor that may be busy already, of each, when times are to be judged."""
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        pool.RESIZE,
        workers.WORKERS,
        connections.CONNECTIONS,
        subscribers.SUBSCRIBERS,
        output.LINES,
        output.ONE_LINE,
        key.KEY,
    )
}


def main() -> int:
    options = _parser().parse_args()
    folder = scratch("load", options.dir)
    load = os.getloadavg()[0]
    calm = load < CALM * (os.cpu_count() or 1)
    print(f"{machine(folder)}, load {load:.1f}, in {folder}")
    if not calm:
        print("the machine is busy with something else: what calls take is told, and not judged")
    findings: list[Finding] = []
    try:
        for name in options.names or SCENARIOS:
            findings.append(_run(SCENARIOS[name], folder / name, options, calm=calm))
            report.show(findings[-1])
        written = report.markdown(findings, quick=options.quick, folder=folder, load=load, note=options.note)
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    if options.report:
        options.report.write_text(written)
        print(f"written: {options.report}")
    broken = [finding.scenario.name for finding in findings if finding.broken]
    print(f"broken: {', '.join(broken)}" if broken else "all promises held")
    return 1 if broken else 0


def _run(scenario: Scenario, folder: Path, options: argparse.Namespace, *, calm: bool) -> Finding:
    print(f"{scenario.name}: {scenario.title}", flush=True)
    with Stage(scenario, folder, quick=options.quick, scale=options.patience, calm=calm) as stage:
        scenario.run(stage)
    return stage.finding


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", 1)[0],
        epilog="\n".join(f"{name}: {scenario.title}" for name, scenario in SCENARIOS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS, []], metavar="NAME", help="these alone")
    parser.add_argument("--quick", action="store_true", help="a short form of each, in half a minute")
    parser.add_argument("--patience", type=float, default=1.0, metavar="X", help="a neighbour may wait X times as long")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--note", default="", metavar="TEXT", help="about this run, for the report")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on a disk (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the state folders there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
