"""Steering of many jobs at once, and of what changes another job on the way."""

import json
import socket
import time
from itertools import pairwise


def test_a_group_is_cancelled_whose_members_cancel_each_other(commons):
    first = commons.submit("true", held=True, group="tangle")
    commons.submit("true", group="tangle", depends_on=[{"job": first["id"], "if_unmet": "cancel"}])
    commons.submit("true", group="tangle", depends_on=[first["id"]])
    jobs = commons("job.cancel", group="tangle")["jobs"]
    assert [job["status"] for job in jobs] == ["cancelled"] * 3
    assert "blocked" not in commons("queue.status")["counts"]["status"]


def test_steering_a_group_again_whose_jobs_have_all_ended_is_harmless(commons):
    commons.submit("true", held=True, group="over")
    assert [job["status"] for job in commons("job.cancel", group="over")["jobs"]] == ["cancelled"]
    for verb in ("cancel", "hold", "release"):
        assert commons(f"job.{verb}", group="over") == {"jobs": [], "omitted": 0}
        error = commons.refused(f"job.{verb}", group="never")
        assert (error.code, error.data["path"]) == (-32001, "$.group")


def test_a_group_is_steered_with_what_its_connection_submitted_just_before(commons):
    calls = [  # the key is sought in the registry first
        {"method": "job.submit", "params": {"command": ["true"], "held": True, "key": "just-now", "group": "just"}},
        {"method": "job.cancel", "params": {"group": "just"}},
        {"method": "job.cancel", "params": {"group": "just"}},  # over in memory, and not yet on disk
    ]
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(15)
        line.connect(str(commons.socket))
        for number, call in enumerate(calls):
            line.sendall(json.dumps({"jsonrpc": "2.0", "id": number, **call}).encode() + b"\n")
        with line.makefile("rb") as replies:
            answered = {reply["id"]: reply["result"] for reply in (json.loads(next(replies)) for _ in calls)}
    assert [job["id"] for job in answered[1]["jobs"]] == [answered[0]["job"]["id"]]
    assert answered[2]["jobs"] == []


def test_a_time_that_no_reply_could_show_is_refused(commons):
    error = commons.refused("job.submit", command=["true"], run_at="9999-12-31T23:59:59-12:00")
    assert (error.code, error.data["path"]) == (-32602, "$.run_at")


def test_long_jobs_of_a_group_are_released_and_shown_short(build):
    house = build('[agents.say]\nargv = ["true"]')
    for _ in range(5):
        house("job.submit", agent="say", prompt="x" * 1_000_000, group="long", held=True)
    jobs = house("job.release", group="long")["jobs"]
    assert [job["status"] for job in jobs] == ["queued"] * 5
    assert len(house("job.wait", group="long", timeout=10)["jobs"]) == 5


def test_a_wait_for_a_group_waits_for_the_oldest_of_more_than_a_thousand_too(house):
    held = house.submit("true", held=True, group="many")
    for _ in range(2):
        house("job.submit_batch", jobs=[{"command": ["true"], "held": True, "group": "rest"}] * 600)
    house("queue.pause")
    for _ in range(2):
        house("job.submit_batch", jobs=[{"command": ["true"], "group": "many"}] * 550)
    assert house("job.wait", group="many", timeout=0.1)["done"] is False
    assert house.get(held)["status"] == "held"


def test_retention_keeps_the_key_that_a_job_had_and_frees_it(build):
    house = build('[retention]\nfinished = "1ms"\nevery = "100ms"')
    job = house.submit("true", key="keepme")
    house.ended(job)
    deadline = time.monotonic() + 10
    while not any(event["kind"] == "job.pruned" for event in house("job.history", id=job["id"])["events"]):
        assert time.monotonic() < deadline
    assert house.get(job)["key"] == "keepme"
    assert house("job.update", id=job["id"], title="named")["title"] == "named"
    assert house.refused("job.update", id=job["id"], title=None).code == -32002
    assert house.get(job)["title"] == "named"
    assert house.submit("true", key="keepme")["id"] != job["id"]


def test_another_agent_brings_its_own_needs_and_limits(build):
    house = build(
        '[agents.one]\nargv = ["true"]\ntimeout = "1h"\nneeds = {lock = 1}\n'
        '[agents.two]\nargv = ["true"]\ntimeout = "2h"\nneeds = {gate = 1}\nretry = "slow"\n'
    )
    job = house("job.submit", agent="one", prompt="do it", held=True, needs={"disk": 1})["job"]
    assert (job["needs"], job["timeout"]) == ({"disk": 1, "lock": 1}, 3600)
    moved = house("job.update", id=job["id"], agent="two")
    assert (moved["needs"], moved["timeout"]) == ({"disk": 1, "gate": 1}, 7200)
    assert moved["retry"]["strategy"] == "fibonacci"


def test_a_reload_takes_over_the_grace(build):
    house = build('[defaults]\ngrace = "1h"')
    house.configure('[defaults]\ngrace = "100ms"')
    house("system.reload")
    gate = house.gate()
    job = house.sh(f"trap '' TERM; echo ready; {gate.wait}; sleep 60")
    house.output(job, "ready")
    house("job.cancel", id=job["id"])
    assert house.ended(job)["status"] == "cancelled"


def test_a_result_that_is_nested_too_deep_does_not_keep_its_job_running(commons):
    job = commons.sh("""python3 -c 'print("[" * 984 + "]" * 984)' > $OPUS_RESULT""")
    ended = commons.ended(job)
    assert ended["status"] == "completed"
    assert ended["result"]["data"] is None


def test_starts_per_minute_spreads_launches_and_says_so(build):
    house = build('[agents.say]\nargv = ["cat"]\nstarts_per_minute = 300')
    jobs = [house("job.submit", agent="say", prompt=f"hello {number}")["job"] for number in range(4)]
    assert "starts so many jobs a minute" in house.get(jobs[3])["reason"]
    house.ended(*jobs)
    began = sorted(house.get(job)["started_at"] for job in jobs)
    moments = [float(text[17:26]) + 60 * float(text[14:16]) for text in began]
    apart = [(later - earlier) % 3600 for earlier, later in pairwise(moments)]
    assert all(0.199 <= each < 10 for each in apart), apart
