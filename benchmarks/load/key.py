"""Many clients submit the same key at the same moment."""

from __future__ import annotations

from load.crowd import Crowd, encode
from load.stage import Scenario, Stage

_PATIENCE = 10.0


def one_key(stage: Stage) -> None:
    count, rounds = 100, stage.pick(200, 20)
    crowd = Crowd(stage.daemon.socket)
    crowd.connect(count)
    crowd.listen()
    stage.begin()
    made: set[int] = set()
    for at in range(rounds):
        spec = {"command": ["true"], "cwd": "/", "key": f"key-{at}", "group": "load", "agent": "exec"}
        line = encode(at, "job.submit", **spec)
        for number in range(count):
            crowd.send(number, line)
        jobs: list[int] = []
        created = 0
        for _, message in crowd.messages(_PATIENCE):
            if "error" in message:
                stage.check(False, f"a submission of a key that is there was refused: {message['error']}")
                break
            jobs.append(message["result"]["job"]["id"])
            created += message["result"]["created"]
            if len(jobs) == count:
                break
        stage.check(len(jobs) == count, f"{count} clients, {len(jobs)} answers")
        stage.check(len(set(jobs)) == 1, f"key-{at} has {len(set(jobs))} jobs")
        stage.check(created == 1, f"{created} of {count} were told that theirs made key-{at}")
        made.update(jobs)
    stage.client.call("job.wait", group="load", timeout=60)
    stage.end()
    crowd.close()
    stage.check(len(made) == rounds, f"{rounds} keys, {len(made)} jobs")
    counts = stage.counts()
    stage.check(counts == {"completed": rounds}, f"{rounds} keys made the jobs {counts}")
    stage.done(f"{count} clients at once with one key, {rounds} times: one job each time, the same for all")


KEY = Scenario(
    name="key",
    title="100 clients submit one key at once",
    config="max_concurrent = 4\n",
    run=one_key,
    growth=32e6,
)
