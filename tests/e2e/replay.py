"""A program that prints what a real one printed once: tests/data/agent-streams, in the name that it is called by.

Its plan is the file NAME.plan beside it: for each run the capture, how it ends, and what a gate holds back. What it was
given it notes in NAME.runs.
"""

import json
import os
import sys
from pathlib import Path

STREAMS = Path(__file__).parents[1] / "data" / "agent-streams"


def main():
    place = Path(sys.argv[1])
    given = sys.argv[2:]
    source = Path(given[given.index("--message-file") + 1]) if "--message-file" in given else Path("/dev/stdin")
    runs = place.with_suffix(".runs")
    noted = json.loads(runs.read_text()) if runs.exists() else []
    noted.append({"argv": given, "prompt": source.read_text(), "cwd": str(Path.cwd()), "pid": os.getpid()})
    runs.write_text(json.dumps(noted))
    plan = json.loads(place.with_suffix(".plan").read_text())[len(noted) - 1]
    lines = (STREAMS / plan["stream"]).read_text().splitlines(keepends=True)
    held = lines[plan["held"] :] if "held" in plan else []
    sys.stdout.write("".join(lines[: len(lines) - len(held)]))
    sys.stdout.flush()
    if "gate" in plan:
        with Path(plan["gate"]).open() as gate:
            gate.readline()
    sys.stdout.write("".join(held))
    sys.stdout.flush()
    sys.exit(plan["code"])


main()
