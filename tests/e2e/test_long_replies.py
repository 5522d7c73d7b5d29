"""Replies that one line of 4 MiB would not hold: nothing that was done goes without an answer that says so."""

import json
import socket

from msgspec.json import encode

from opusd.api.framing import LINE_LIMIT
from tests.e2e.conftest import soon

LABELS = [f"{number:02}" + "l" * 188 for number in range(19)]


def test_a_batch_is_answered_with_every_id_in_order_however_long_its_jobs_are(house):
    specs = [{"agent": "pull", "prompt": "p", "key": f"key-{number}", "labels": LABELS} for number in range(1000)]
    first = house("job.submit_batch", jobs=specs)
    assert first["shortened"]
    assert [one["job"]["key"] for one in first["jobs"]] == [spec["key"] for spec in specs]
    assert all(one["created"] and "labels" not in one["job"] for one in first["jobs"])
    again = house("job.submit_batch", jobs=specs)
    assert [one["job"]["id"] for one in again["jobs"]] == [one["job"]["id"] for one in first["jobs"]]
    assert not any(one["created"] for one in again["jobs"])
    few = house("job.submit_batch", jobs=specs[:2])
    assert ("shortened" in few, few["jobs"][1]["job"]["labels"]) == (False, LABELS)
    peek = house("queue.peek", limit=1000)
    assert [job["id"] for job in peek["jobs"]] == [one["job"]["id"] for one in first["jobs"]][: len(peek["jobs"])]
    assert len(peek["jobs"]) + peek["omitted"] == 1000
    assert LINE_LIMIT // 2 < len(encode(peek)) < LINE_LIMIT


def test_a_batch_is_answered_whatever_its_jobs_wait_for_and_are_called(house):
    upstream = [
        one["job"]["id"] for one in house("job.submit_batch", jobs=[{"prompt": "u", "agent": "pull"}] * 601)["jobs"]
    ]
    waiting = [{"prompt": "p", "agent": "pull", "key": f"w{number}", "depends_on": upstream} for number in range(200)]
    reply = house("job.submit_batch", jobs=waiting)
    assert [one["job"]["id"] for one in reply["jobs"]] == list(range(602, 802))
    assert {one["job"]["status"] for one in reply["jobs"]} == {"blocked"}
    named = {"title": "\x01" * 200, "type": "\x01" * 200, "group": "\x01" * 30, "cwd": "/" + "\x01" * 90}
    specs = [{"agent": "pull", "key": f"{number:03}" + "\U0001f600" * 197, **named} for number in range(900)]
    assert len(house("job.submit_batch", jobs=specs)["jobs"]) == 900
    one = house("job.submit", agent="pull", prompt="\x01" * 690_000, cwd="/" + "d" * 53_700, key="huge")
    assert (one["job"]["id"], one["created"], one["shortened"]) == (1702, True, True)


def test_the_status_shows_as_many_as_a_line_holds_of_those_that_run(house):
    specs = [{"agent": "pull", "prompt": "p", "labels": LABELS} for _ in range(1000)]
    house("job.submit_batch", jobs=specs)
    while house("queue.status")["counts"]["status"].get("queued"):
        assert len(house("worker.claim", worker="w", agents=["pull"], count=500, lease=3600)["claims"]) == 500
    for method in ("queue.pause", "queue.status"):
        status = house(method)
        assert status["paused"]
        assert [job["id"] for job in status["running"]] == list(range(1, len(status["running"]) + 1))
        assert len(status["running"]) + status["omitted"] == status["counts"]["status"]["running"] == 1000
        assert LINE_LIMIT // 2 < len(encode(status)) < LINE_LIMIT


def test_a_job_that_no_line_holds_can_be_looked_at_and_steered_all_the_same(house):
    prompt = "line\n" + "\x01" * 690_000
    given = {"agent": "pull", "prompt": prompt, "cwd": "/" + "d" * 53_700, "payload": {"a": 1}, "labels": ["x"]}
    number = house("job.submit", **given, held=True, group="long")["job"]["id"]
    for job in (
        house("job.get", id=number),
        house("job.list", full=True)["jobs"][0],
        house("job.update", id=number, labels=["y"]),
        house("job.release", id=number),
        house("job.hold", group="long")["jobs"][0],
        house("job.wait", ids=[number], timeout=0)["jobs"][0],
        house("job.cancel", id=number),
    ):
        assert (job["id"], job["shortened"], job["payload"], job["version"] > 0) == (number, True, {"a": 1}, True)
        assert prompt.startswith(job["prompt"].removesuffix("…"))
        assert job["prompt"].endswith("\x01…")
        assert job["cwd"].endswith("d…")
        assert len(encode(job)) < 100_000
    assert house("job.get", id=number)["labels"] == ["y"]
    assert house("job.retry", ids=[number])["jobs"][0]["status"] == "queued"
    assert "shortened" not in house("job.submit", command=["true"], held=True)["job"]


def test_what_a_worker_made_of_a_long_job_is_kept_and_shown(house):
    house("job.submit", agent="pull", prompt="\x01" * 600_000)
    [claim] = house("worker.claim", worker="w", agents=["pull"])["claims"]
    assert len(claim["job"]["prompt"]) == 600_000
    result = {"summary": "done", "data": {"few": 1, "many": "\x02" * 150_000}}
    done = house("worker.complete", id=1, token=claim["token"], result=result)["job"]
    assert (done["status"], done["shortened"], done["result"]["summary"]) == ("completed", True, "done")
    assert done["result"]["data"]["few"] == 1
    assert house("job.get", id=1) == done


def _longest(**given):
    """A submission that fills a line; as a Job, with what every Job has, it is longer than one."""
    given |= {"verify": ["true", *["\x01" * 131_000] * 5]}
    room = LINE_LIMIT - len(encode(given)) - 200
    return {**given, "cwd": "/" + "d" * room}


def test_the_queue_is_shown_whatever_is_in_it(house):
    house("queue.pause")
    house("job.submit", **_longest(command=["true"]))
    [job] = house("queue.peek")["jobs"]
    assert (job["id"], job["shortened"], job["verify"][0]) == (1, True, "true")


def test_what_runs_is_shown_however_long_it_is(house):
    given = _longest(command=["sleep", "60"])
    given["verify"] += ["v" * (len(given.pop("cwd")) // 3)] * 3
    house("job.submit", **given, cwd="/")
    soon(lambda: house("queue.status")["running"])
    for method in ("queue.status", "queue.pause", "queue.resume"):
        [job] = house(method)["running"]
        assert (job["id"], job["shortened"], job["verify"][0]) == (1, True, "true")


def test_a_claim_that_no_line_holds_fails_its_job_and_the_others_are_claimed(house):
    house("job.submit", **_longest(agent="pull", prompt="p"), key="long")
    house("job.submit", agent="pull", prompt="p")
    assert house("worker.claim", worker="w", agents=["pull"]) == {"claims": []}
    job = house("job.wait", ids=["long"], timeout=5)["jobs"][0]
    assert (job["status"], job["error"]["class"]) == ("failed", "config")
    assert "no worker can be told of it" in job["error"]["message"]
    [claim] = house("worker.claim", worker="w", agents=["pull"])["claims"]
    assert claim["job"]["id"] == 2


def test_claims_that_the_answer_to_a_batch_has_no_room_for_go_back_at_once(house):
    for _ in range(4):
        house("job.submit", agent="pull", prompt="p" * 1_000_000, payload={"a": "b" * 200_000})
    asked = {"method": "worker.claim", "params": {"worker": "w", "agents": ["pull"]}}
    calls = [{"jsonrpc": "2.0", "id": number, **asked} for number in range(4)]
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(15)
        line.connect(str(house.socket))
        line.sendall(encode(calls) + b"\n")
        with line.makefile("rb") as replies:
            answered = json.loads(next(replies))
    claims = [claim["job"]["id"] for reply in answered for claim in reply["result"]["claims"]]
    assert len(claims) == 3
    [back] = {1, 2, 3, 4} - set(claims)
    soon(lambda: house("job.get", id=back)["status"] == "queued")
    [claim] = house("worker.claim", worker="w", agents=["pull"])["claims"]
    assert claim["job"]["id"] == back


def test_who_completes_a_job_and_asks_for_one_that_no_line_holds_gets_none(house):
    house("job.submit", agent="pull", prompt="p")
    [held] = house("worker.claim", worker="w", agents=["pull"])["claims"]
    house("job.submit", **_longest(agent="pull", prompt="p"), key="long")
    done = house("worker.complete", id=1, token=held["token"], claim={"worker": "w", "agents": ["pull"]})
    assert (done["job"]["status"], done["claims"]) == ("completed", [])
    assert house("job.wait", ids=["long"], timeout=5)["jobs"][0]["error"]["class"] == "config"
