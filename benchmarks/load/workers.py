"""Workers that all wait for a job at once, each on a connection of its own, until there is none left."""

from __future__ import annotations

from rig import chunks

from load.crowd import Crowd
from load.stage import Scenario, Stage

_TYPES = ("review", "bug", "research", "task")
_PATIENCE = 30.0
_LEASE = 120


def workers(stage: Stage) -> None:
    count = stage.pick(1000, 50)
    total = count * 10
    crowd = Crowd(stage.daemon.socket)
    stage.begin()
    try:
        crowd.connect(count)
        crowd.listen()
        asks = [
            {"worker": f"w{number}", "types": [_TYPES[number % len(_TYPES)]], "lease": _LEASE, "wait": 300}
            for number in range(count)
        ]
        for number, ask in enumerate(asks):
            crowd.call(number, "claim", "worker.claim", **ask)
        _until_all_wait(stage, count)
        batches = (
            {"jobs": [{"agent": "pull", "type": _TYPES[at % len(_TYPES)]} for at in range(size)]}
            for size in chunks(total, 100)
        )
        stage.client.many("job.submit_batch", batches, in_flight=4)
        _serve(stage, crowd, asks, total)
    finally:
        crowd.close()
    stage.end()


def _until_all_wait(stage: Stage, count: int) -> None:
    """A submission behind all the claims is answered when those have been looked at."""
    seen = 0
    while seen < count:
        seen = len(stage.client.call("worker.list")["workers"])


def _serve(stage: Stage, crowd: Crowd, asks: list[dict[str, object]], total: int) -> None:
    """Each job that is handed out is completed, and its worker waits for another."""
    handed: list[int] = []
    completed = refused = 0
    for number, message in crowd.messages(_PATIENCE):
        if "error" in message:
            refused += 1
            stage.check(False, f"worker {number} was refused: {message['error']}")
            break
        if message["id"] == "claim":
            for claim in message["result"]["claims"]:
                handed.append(claim["job"]["id"])
                crowd.call(
                    number, "end", "worker.complete", id=handed[-1], token=claim["token"], result={"summary": "x"}
                )
        else:
            completed += 1
            if completed == total:
                break
            crowd.call(number, "claim", "worker.claim", **asks[number])
    counts = stage.counts()
    stage.check(not crowd.closed, f"{len(crowd.closed)} connections of workers were closed")
    stage.check(len(set(handed)) == len(handed), f"{len(handed) - len(set(handed))} jobs were handed out twice")
    stage.check(len(handed) == completed == total, f"{total} jobs, {len(handed)} handed out, {completed} completed")
    stage.check(counts == {"completed": total}, f"of {total} jobs not all were completed: {counts}")
    stage.done(f"{len(asks):,} workers, {total:,} jobs, each handed out once and completed")


WORKERS = Scenario(
    name="workers",
    title="1,000 workers wait for jobs at once",
    config="",
    run=workers,
    growth=128e6,
    disk=0.4,  # a thousand that call again at once have a thousand times as much in flight: this is a fair share
)
