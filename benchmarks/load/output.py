"""Agents that print without end: a gigabyte in lines, and in one line, which an adapter has to look at too."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from load.stage import Scenario, Stage

_PRINT = """
import os, sys, time
total, seconds, piece, first, last = int(sys.argv[1]), float(sys.argv[2]), *(word.encode() for word in sys.argv[3:])
block = piece * ((1 << 20) // len(piece))
os.write(1, first)
begun, written = time.monotonic(), 0
while written < total:
    written += os.write(1, block[:total - written])
    time.sleep(max(0.0, begun + seconds * written / total - time.monotonic()))
os.write(1, last)
"""
_LINE = "all work and no play makes an agent a dull boy, and its log a long one: 80 chars\n"
_RESULT = '"}]}}\n{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"s"}\n'
_CLAUDE = '{"type":"assistant","message":{"content":[{"type":"text","text":"'
_TOTAL, _QUICK_TOTAL = 1 << 30, 50 << 20
_KEPT = 64 << 20
_PATIENCE = 120


def lines(stage: Stage) -> None:
    total = stage.pick(_TOTAL, _QUICK_TOTAL)
    seconds = total / (100 << 20)
    stage.begin()
    job = stage.client.call("job.submit", command=_argv(total, seconds, _LINE), cwd="/", group="load")["job"]["id"]
    most = _follow(stage, job, total)
    stage.end()
    _check(stage, job)
    stage.done(f"{total / 1e6:,.0f} MB in {seconds:.0f} s, at most {most / 1e6:,.0f} MB of it on the disk at once")


def one_line(stage: Stage) -> None:
    total = stage.pick(_TOTAL, _QUICK_TOTAL)
    stage.begin()
    text = stage.client.call("job.submit", command=_argv(total, 0, "x" * 64), cwd="/", group="load")["job"]["id"]
    most = _follow(stage, text, total)
    claude = stage.client.call("job.submit", agent="claude", prompt="print", cwd="/", group="load")["job"]["id"]
    most = max(most, _follow(stage, claude, None))
    stage.end()
    for job in (text, claude):
        _check(stage, job)
    summary = stage.client.call("job.get", id=claude)["result"]["summary"]
    stage.check(summary == "done", f"the result behind the line was not found, but: {summary[:100]!r}")
    stage.done(
        f"a line of {total / 1e6:,.0f} MB as fast as it can, of text and of an event; the result behind it is found; at"
        f" most {most / 1e6:,.0f} MB on the disk at once"
    )


def _argv(total: int, seconds: float, piece: str, first: str = "", last: str = "") -> list[str]:
    return [sys.executable, "-c", _PRINT, str(total), str(seconds), piece, first, last]


def _follow(stage: Stage, job: int, total: int | None) -> int:
    """Read along to the end; the most that the log took on the disk. What is not read was dropped, and said."""
    stage.client.call("job.wait", ids=[job], until="started", timeout=_PATIENCE)
    log = _log(stage, job)
    offset = dropped = most = 0
    begun = time.monotonic()
    while time.monotonic() < begun + _PATIENCE:
        chunk = stage.client.call("job.logs", id=job, offset=offset, limit=256 << 10, wait=10)
        offset, dropped = chunk["next_offset"], dropped + chunk["dropped"]
        most = max(most, log.stat().st_blocks * 512)
        if chunk["eof"]:
            break
    stage.client.call("job.wait", ids=[job], timeout=_PATIENCE)
    if total is not None:
        stage.check(offset == total, f"{total} bytes were printed, and the log ends at {offset}")
    stage.dropped(f"of {offset / 1e6:,.0f} MB printed who follows was told that {dropped / 1e6:,.0f} MB are gone")
    return most


def _log(stage: Stage, job: int) -> Path:
    return stage.folder / "state" / "runs" / str(job) / "1" / "output.log"


def _check(stage: Stage, job: int) -> None:
    status = stage.client.call("job.get", id=job)["status"]
    stage.check(status == "completed", f"job {job} is {status}")
    kept = _log(stage, job).stat().st_blocks * 512
    stage.check(kept <= _KEPT + (1 << 20), f"the log of job {job} keeps {kept / 1e6:.0f} MB on the disk")


def _config(total: int) -> str:
    argv = json.dumps(_argv(total, 0, "x" * 64, _CLAUDE, _RESULT))
    return f'[agents.claude]\noutput = "claude"\nstdin = "none"\nargv = {argv}\n'


LINES = Scenario(name="output", title="an agent prints 1 GB in 10 s", config="", run=lines, growth=48e6)
ONE_LINE = Scenario(
    name="line",
    title="an agent prints one line of 1 GB",
    config=_config(_TOTAL),
    quick_config=_config(_QUICK_TOTAL),
    run=one_line,
    growth=48e6,
)
