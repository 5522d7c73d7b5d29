"""Runs the benchmarks, all or those named, one after the other; arguments after `--` go to each of them.

Ends with 1 when one of them says that a target was missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = {
    "scale": "1,000,000 queued jobs beside 1,000: calls, dispatch, memory, start",
    "humans": "an interactive job while the pool is full and 100,000 jobs are queued",
    "load": "crowds of workers, connections and subscribers, and agents that print without end: what it costs others",
    "peers": "beside beanstalkd, Huey, RQ, arq, SAQ, Dramatiq, Celery and procrastinate, and the limits of the machine",
    "where": "where the time of a submission, a completion and an agent goes, by thread and by room",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        epilog="\n".join(f"{name}: {what}" for name, what in PROGRAMS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}")
    given = sys.argv[1:]
    own, passed = (given, []) if "--" not in given else (given[: given.index("--")], given[given.index("--") + 1 :])
    names = parser.parse_args(own).names or list(PROGRAMS)
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(PROGRAMS)}")
    paths = [str(Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode: opusctl starts with it
    failed = []
    for name in names:
        print(f"--- {name}: {PROGRAMS[name]}", flush=True)
        if subprocess.run([sys.executable, "-m", name, *passed], check=False, env=environment).returncode:
            failed.append(name)
    if failed:
        print(f"missed a target, or could not measure: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
