"""A million queued jobs beside a thousand, as scale.py measures them; and how long the cyclic collector stops all."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import scale
from rig import on_one_processor

from peers.figures import Row, Target

SHORT = 1_000
BOUND = "10 ms"
_PART = "A million queued jobs"
_LINES = {"submit": scale.SUBMIT, "claim": scale.CLAIM, "position": scale.POSITION, "cancel": scale.CANCEL}
_GENERATIONS = ("the youngest objects", "the younger ones", "all objects (asked for)")


def measure(folder: Path, queued: int, rounds: int) -> list[Row]:
    folder.mkdir()
    sides: list[scale.Side] = []
    try:
        sides += [scale.Side(folder / name, size, watched=True) for name, size in (("short", SHORT), ("long", queued))]
        short, long = sides
        for side in sides:
            side.fill()
        with on_one_processor(short.daemon, long.daemon):
            figures = scale.measured(short, long, rounds, list(_LINES.values()))
        rows = [_rates(key, figures[line], queued) for key, line in _LINES.items()]
        return [*rows, _pauses(long)]
    finally:
        for side in sides:
            side.daemon.stop(signal.SIGKILL)


def _rates(key: str, pairs: list[tuple[float, float]], queued: int) -> Row:
    row = Row(
        key,
        f"{_LINES[key].name}, {queued:,} queued",
        "calls/s",
        (Target(0.9, ("short",)),),
        part=_PART,
    )
    for short, long in pairs:
        row.add("short", 1 / short)
        row.add("opusd", 1 / long)
    return row


def _pauses(side: scale.Side) -> Row:
    """Of the daemon that was filled, and of the one that has read all that again and is submitted to and worked on."""
    row = Row(
        "pauses",
        f"the cyclic collector's longest pause of the loop, {side.size:,} queued",
        "ms",
        (Target(1, (BOUND,)),),
        more_is_better=False,
        part=_PART,
    )
    found = [_stopped(side)]
    side.daemon.start()
    side.reopen()
    _work(side)
    found.append(_stopped(side))
    for longest in found:
        for name, seconds in zip(_GENERATIONS, longest, strict=True):
            row.add(name, 1e3 * seconds)
    row.add("opusd", 1e3 * max(map(max, found)))
    row.add(BOUND, 10.0)
    return row


def _work(side: scale.Side) -> None:
    """Enough of each call for collections of the first two generations."""
    for _ in range(10):
        scale.submit_many(side, 3_000)
        scale.claim(side, 500)
        scale.cancel(side, 500)
        side.client.one_by_one("job.list", [{"limit": 1000}] * 5)


def _stopped(side: scale.Side) -> list[float]:
    """Seconds of the longest collection of each generation; a last one looks at everything."""
    os.kill(side.daemon.pid, signal.SIGUSR2)
    side.client.call("queue.status")  # the signal is heard when its loop turns
    side.client.close()
    side.daemon.stop()
    found: dict[str, list[float]] = json.loads(side.daemon.pauses.read_text())
    if not found["counts"][-1]:
        raise RuntimeError("the daemon did not look at everything before it ended")
    print(f"collections by generation: {found['counts']}", flush=True)
    return found["longest"]
