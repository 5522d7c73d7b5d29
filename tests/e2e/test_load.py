"""Promises under load: a pool that is resized, who does not read, connections that run out."""

import json
import socket

from opus_client import Client


def call(number, method, **params):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


def test_a_pool_that_is_resized_under_load_is_never_passed_and_loses_nothing(build):
    house = build("max_concurrent = 1\ninteractive_slots = 0\n")
    house("queue.pause", agent="exec")
    spec = {"command": ["sleep", "0.05"], "cwd": "/"}
    jobs = [one["job"] for one in house("job.submit_batch", jobs=[spec] * 60)["jobs"]]
    house("queue.resume", agent="exec")
    house.ended(jobs[0])
    house("pool.resize", max_concurrent=16)
    house.ended(jobs[40])
    house("pool.resize", max_concurrent=1)
    assert [job["status"] for job in house.ended(*jobs)] == ["completed"] * 60
    size, running, most = 1, set(), 0
    for event in kept_events(house, since=0):
        if event["kind"] == "pool.resized":
            size = event["detail"]["max_concurrent"]
        elif event["kind"] == "job.started":
            running.add(event["job"])
            assert len(running) <= size, event
            most = max(most, len(running))
        elif event["kind"] == "job.completed":
            running.remove(event["job"])
    assert most == 16


def kept_events(house, since=0, **chosen):
    """Those of the audit trail up to its last; nothing may happen meanwhile."""
    with Client(house.socket, timeout=10) as ear:
        last, found = ear.call("events.subscribe", group="nobody")["cursor"], []
        events = ear.events(since=since, **chosen)
        while since < last:
            found.append(next(events))
            since = found[-1]["cursor"]
        return found


def test_who_subscribes_and_does_not_read_is_told_where_to_go_on_and_misses_nothing(house):
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.settimeout(10)
        deaf.connect(str(house.socket))
        deaf.sendall(call(1, "events.subscribe", group="g"))
        file = deaf.makefile("rb")
        assert "result" in json.loads(file.readline())
        spec = {"command": ["true"], "cwd": "/", "held": True, "group": "g"}
        for _ in range(100):
            house("job.submit_batch", jobs=[spec] * 50)
        seen = []
        while (message := json.loads(file.readline()))["method"] == "event":
            seen.append(message["params"]["event"])
        assert message["method"] == "event.lagged"
        cursor = message["params"]["cursor"]
        assert cursor == seen[-1]["cursor"]
        kept = kept_events(house, group="g")
        assert len(seen) < len(kept)
        assert seen + kept_events(house, since=cursor, group="g") == kept
        deaf.sendall(call(2, "system.ping"))
        assert json.loads(file.readline())["id"] == 2


AGENT = """
import os, socket
kept, answers = [], []
for _ in range(%d):
    kept.append(one := socket.socket(socket.AF_UNIX))
    one.connect(os.environ["OPUSD_SOCKET"])
    one.sendall(b'{"jsonrpc":"2.0","id":1,"method":"system.ping"}\\n')
    answers.append(b'"quota":"connections"' not in one.recv(4096))
print(answers.count(True), "answered,", answers.count(False), "refused", flush=True)
os.read(os.open("%s", os.O_RDONLY), 1)
"""


def test_an_agent_that_never_closes_its_connections_leaves_room_for_people(build):
    house = build("[socket]\nmax_connections = 20\n")
    gate = house.gate()
    house("system.ping")  # a person's, the first of all
    first = house.python(AGENT % (40, gate))
    house.output(first, "17 answered, 23 refused")
    assert [house.client().call("job.get", id=first["id"])["status"] for _ in range(2)] == ["running"] * 2
    assert house("system.info")["config"]["max_connections"] == 20
    house.configure("[socket]\nmax_connections = 40\n")
    house("system.reload")
    assert house("system.info")["config"]["max_connections"] == 40
    second = house.python(AGENT % (16, gate))
    house.output(second, "16 answered, 0 refused")
    gate.open(2)
    house.ended(first, second)
    gate.close()
