"""The work that the demo's jobs do, on this repository's own sources. Each runs as an agent of opusd, not as a mock.

Whoever works here writes itself into a witness file, so that the demo need not believe what the daemon says: who ran
when, as which process. What a job found goes to $OPUS_RESULT, and jobs that depend on it read it from the daemon.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opus_client import Client

SCRATCH = Path(os.environ.get("DEMO_SCRATCH", "/nonexistent"))
PATIENCE = 45.0  # seconds; the demo itself is over before


def sources(folder: str) -> list[Path]:
    """The modules below a folder of the current one, which is a copy of this repository's sources."""
    return sorted(Path(folder).rglob("*.py"))


def lines_of(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def process_start(pid: int) -> int | None:
    """When a process began, in ticks since boot: with its pid it is one process for ever. None: it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def witness(what: str) -> None:
    line = {
        "what": what,
        "job": int(os.environ["OPUS_JOB_ID"]),
        "attempt": int(os.environ["OPUS_ATTEMPT"]),
        "pid": os.getpid(),
        "born": process_start(os.getpid()),
        "time": time.time(),
    }
    with (SCRATCH / "witness").open("a") as file:  # one write of a short line to O_APPEND: lines never mix
        file.write(json.dumps(line) + "\n")


def result(data: object) -> None:
    Path(os.environ["OPUS_RESULT"]).write_text(json.dumps(data))


# ------------------------------------------------------------------------------------------------------- the jobs


def count(folder: str) -> int:
    """Count files and lines of a folder."""
    found = {"files": 0, "lines": 0}
    for path in sources(folder):
        found["files"] += 1
        found["lines"] += lines_of(path)
    print(f"{folder}: {found['lines']} lines in {found['files']} files")
    result(found)
    return 0


def index(folder: str, gate: str) -> int:
    """Print a numbered line for each file, over and over, until a file named `gate` is there and one pass is done.

    So it surely runs while the daemon is killed. What it printed is hashed, to be compared with what was kept.
    """
    paths = sources(folder)
    digest, number, until = hashlib.sha256(), 0, time.monotonic() + PATIENCE
    while number < len(paths) or (not (SCRATCH / gate).exists() and time.monotonic() < until):
        path = paths[number % len(paths)]
        number += 1
        line = f"{number:06d} {time.time():.3f} {lines_of(path):5d} {path}\n"
        digest.update(line.encode())
        sys.stdout.write(line)
        sys.stdout.flush()
        time.sleep(0.004)  # so that its output is megabytes on no machine
    result({"printed": number, "sha256": digest.hexdigest()})
    return 0


def audit(folder: str, gate: str) -> int:
    """Fail with 42 when a module is longer than the limit that stands in a file; not before `gate` is there."""
    until = time.monotonic() + PATIENCE
    while not (SCRATCH / gate).exists() and time.monotonic() < until:
        time.sleep(0.01)
    limit = int((SCRATCH / "limit").read_text())
    long = [path for path in sources(folder) if lines_of(path) > limit]
    print(f"{len(long)} modules of {folder} are longer than {limit} lines")
    result({"longer": len(long), "limit": limit})
    return 42 if long else 0


def compile_(folder: str) -> int:
    """Byte-compile a folder, into the scratch folder."""
    place = {**os.environ, "PYTHONPYCACHEPREFIX": str(SCRATCH / "compiled")}
    done = subprocess.run([sys.executable, "-m", "compileall", "-f", "-q", folder], env=place, check=False)
    made = len(list((SCRATCH / "compiled").rglob("*.pyc")))
    print(f"{folder}: {made} files compiled")
    result({"compiled": made})
    return done.returncode


def test(*paths: str) -> int:
    """Run some of the unit tests."""
    env = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(SCRATCH / "hypothesis")}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    passed = re.search(r"(\d+) passed", done.stdout)
    result({"passed": int(passed[1]) if passed else 0})
    return done.returncode


def report() -> int:
    """Add up the results of the jobs that this one depends on, as the daemon has them."""
    total: dict[str, int] = {}
    with Client(timeout=20) as opus:
        me = opus.call("job.get", id=int(os.environ["OPUS_JOB_ID"]))
        for edge in me["depends_on"]:
            job = opus.call("job.get", id=edge["job"])
            print(f"{job['title']:28} {json.dumps(job['result']['data'])}")
            for name, value in job["result"]["data"].items():
                total[name] = total.get(name, 0) + value
    print(f"{'all':28} {json.dumps(total)}")
    result(total)
    return 0


def answer() -> int:
    """The agent `scribe`: a prompt comes on stdin. It knows where things are defined, and why jobs failed."""
    prompt = sys.stdin.read()
    failed = re.search(r"job (\d+)", prompt)
    if failed:
        told = subprocess.run(
            [sys.executable, "-m", "opusctl", "logs", failed[1]], capture_output=True, text=True, check=True
        )
        print(f"Job {failed[1]} failed because {told.stdout.strip()}.")
        return 0
    words = {word for word in re.findall(r"\w+", prompt) if "_" in word or word.isupper()}
    for path in sources("opusd"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            for word in words:
                if re.match(rf"\s*(async )?(def {word}\b|class {word}\b|{word}\s*[:=])", line):
                    print(f"{word} is at {path}:{number}.")
                    return 0
    print(f"I found none of {sorted(words)}.")
    return 0


JOBS: dict[str, Callable[..., int]] = {
    "count": count,
    "index": index,
    "audit": audit,
    "compile": compile_,
    "test": test,
    "report": report,
    "answer": answer,
}


@contextlib.contextmanager
def witnessed() -> Iterator[None]:
    witness("start")
    try:
        yield
    finally:
        sys.stdout.flush()
        witness("end")


if __name__ == "__main__":
    with witnessed():
        code = JOBS[sys.argv[1]](*sys.argv[2:])
    sys.exit(code)
