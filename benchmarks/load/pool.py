"""The pool is resized while jobs queue: 1, 64, and 1 again. The audit trail says whether it was ever passed."""

from __future__ import annotations

from typing import Any

from load.stage import Scenario, Stage

LARGE = 64
_PATIENCE = 300
_PAGE = 1000


def resize(stage: Stage) -> None:
    total, small = stage.pick(1200, 120), stage.pick(40, 10)
    spec = {"command": ["sleep", "0.1"], "cwd": "/", "group": "load"}
    stage.client.call("queue.pause", agent="exec")
    for _ in range(total // 20):
        stage.client.call("job.submit_batch", jobs=[spec] * 20)
    stage.begin()
    stage.client.call("queue.resume", agent="exec")
    _until_left(stage, total - small)
    stage.client.call("pool.resize", max_concurrent=LARGE)
    _until_left(stage, small)
    stage.client.call("pool.resize", max_concurrent=1)
    stage.client.call("job.wait", group="load", timeout=_PATIENCE)
    stage.end()
    counts = stage.counts()
    stage.check(counts == {"completed": total}, f"of {total} jobs not all were completed: {counts}")
    most, passed, attempts = _replay(_events(stage))
    stage.check(not passed, f"{len(passed)} starts went past the size of the pool: {passed[:3]}")
    stage.check(attempts == total, f"{total} jobs had {attempts} attempts")
    stage.check(most > LARGE // 4, f"at most {most} ran at once: that is no load")
    stage.done(f"{total:,} jobs of 0.1 s through a pool of 1, {LARGE} and 1; at most {most} ran at once")


def _until_left(stage: Stage, queued: int) -> None:
    """Until no more than so many are queued; asked by each event that a start makes."""
    while stage.counts().get("queued", 0) > queued:
        running = [job["id"] for job in stage.client.call("queue.status")["running"]]
        if running:
            stage.client.call("job.wait", ids=running, any=True, timeout=_PATIENCE)


def _events(stage: Stage) -> list[dict[str, Any]]:
    """The whole audit trail, from a subscription of its own."""
    client = stage.daemon.client()
    last = stage.cursor()
    client.call("events.subscribe", since=0)
    found: list[dict[str, Any]] = []
    while not found or found[-1]["cursor"] < last:
        found.append(client.event())
    client.close()
    return found


def _replay(events: list[dict[str, Any]]) -> tuple[int, list[str], int]:
    """(the most that ran at once, starts beyond the size of the pool, all starts), in the order of decision."""
    running, size, most, starts = 0, 1, 0, 0
    passed = []
    for event in events:
        if event["kind"] == "pool.resized":
            size = event["detail"]["max_concurrent"]
        if event.get("to") == "running" and event.get("from") != "running":
            running += 1
            starts += 1
            if running > size:
                passed.append(f"event {event['cursor']} starts job {event['job']} as number {running} of {size}")
        elif event.get("from") == "running" and event.get("to") != "running":
            running -= 1
        most = max(most, running)
    return most, passed, starts


RESIZE = Scenario(
    name="resize",
    title="the pool goes from 1 to 64 and back while jobs queue",
    config="max_concurrent = 1\ninteractive_slots = 0\n",
    run=resize,
    growth=64e6,
)
