"""Chains: what one agent can't do another carries on, and to all who wait that is one job."""

import json
import sys
import threading
from pathlib import Path

import pytest

AGENT = Path(__file__).with_name("agent.py")


def argv(runs):
    return json.dumps([sys.executable, str(AGENT), str(runs)])


class Chain:
    """The agents first, second and third, each with its runs and its script."""

    def __init__(self, build, folder, more=""):
        self.files = {name: folder / f"{name}.json" for name in ("first", "second", "third")}
        tables = "".join(
            f'[agents.{name}]\nargv = {argv(path)}\noutput = "claude"\nmax_retries = 0\n'
            + (f'escalate_to = "{after}"\n' if after else "")
            + (more if name == "first" else "")
            for (name, path), after in zip(self.files.items(), ("second", "third", None), strict=True)
        )
        self.house = build('default_agent = "first"\n' + tables)

    def will(self, **scripts):
        for name, script in scripts.items():
            self.files[name].with_suffix(".script").write_text(json.dumps(script))

    def runs(self, name):
        return json.loads(self.files[name].read_text()) if self.files[name].exists() else []

    def submit(self, **fields):
        return self.house("job.submit", prompt="write the parser", cwd=str(self.house.work), **fields)["job"]


@pytest.fixture
def chain(build, tmp_path):
    return lambda more="": Chain(build, tmp_path, more)


def test_another_agent_carries_on_and_is_told_what_happened(chain):
    agents = chain()
    agents.will(first=[["fail", "no idea"]], second=[["fail", "nor I"]], third=[["ok", "all done"]])
    house = agents.house
    job = agents.submit(priority="urgent", boost=7, labels=["a"], payload={"x": 1}, group="g", type="feature")
    waited = house.ended(job)  # which waits for the chain
    assert (waited["status"], waited["escalated_to"]) == ("failed", 2)
    assert waited["reason"] == "escalated to job 2, which carries on"
    last = house.get(3)
    assert (last["status"], last["agent"], last["escalated_from"]) == ("completed", "third", 2)
    for field in (
        "prompt",
        "title",
        "type",
        "tier",
        "boost",
        "source",
        "group",
        "labels",
        "payload",
        "cwd",
        "queued_at",
    ):
        assert last[field] == job[field], field
    told = agents.runs("third")[0]["prompt"]
    assert told.startswith("Earlier attempts at this task failed.")
    assert "- first: agent_error: no idea" in told
    assert "- second: agent_error: nor I" in told
    assert told.endswith("write the parser")
    assert [house("job.history", id=link)["chain"] for link in (1, 2, 3)] == [[1, 2, 3]] * 3
    assert house("job.list", dead=True)["jobs"] == []


def test_those_who_depend_on_a_link_wait_for_the_last(chain):
    agents = chain()
    agents.will(first=[["fail"]], second=[["work", str(gate := agents.house.gate())]])
    house = agents.house
    job = agents.submit(key="feature")
    before = house.sh("true", depends_on=["feature"])
    house.until(lambda: house.get(job)["status"] == "failed")
    after = house.sh("true", depends_on=["feature"])  # the link that it names has ended already
    by_failure = house.sh("true", depends_on=[{"job": job["id"], "on": "failure"}])
    second = house.get(job)["escalated_to"]
    for waiting in (before, after, by_failure):
        found = house.get(waiting)
        assert found["status"] == "blocked"
        assert [edge["job"] for edge in found["depends_on"]] == [second]
    gate.open()
    assert [one["status"] for one in house.ended(before, after)] == ["completed", "completed"]
    assert house.ended(by_failure)["status"] == "cancelled"


def test_a_wait_that_began_before_goes_on_over_every_link_and_the_daemon_may_restart(chain):
    agents = chain()
    gate = agents.house.gate()
    agents.will(first=[["fail"]], second=[["work", str(gate)]])
    house = agents.house
    job = agents.submit(held=True)
    ears = house.client()
    found = []
    waiter = threading.Thread(target=lambda: found.append(ears.call("job.wait", ids=[job["id"]], timeout=20)))
    waiter.start()
    house("job.release", id=job["id"])
    house.until(lambda: house.get(job)["status"] == "failed")
    assert not found
    assert house("job.wait", ids=[job["id"]], timeout=0.05)["done"] is False
    gate.open()
    waiter.join(20)
    assert found[0]["done"]
    assert [one["id"] for one in found[0]["jobs"]] == [job["id"]]
    assert house.get(2)["status"] == "completed"


def test_a_link_is_neither_retried_nor_cancelled_and_the_last_is_named(chain):
    agents = chain()
    agents.will(first=[["fail"]], second=[["fail"]], third=[["fail"], ["ok"]])
    house = agents.house
    job = agents.submit()
    house.ended(job)
    for method, fields in (("job.retry", {"ids": [1]}), ("job.cancel", {"id": 1}), ("job.retry", {"ids": [2]})):
        refused = house.refused(method, **fields)
        assert (refused.data["code"], refused.data["escalated_to"]) == ("conflict", 3)
        assert "job 3 carries on" in refused.message
    assert [one["id"] for one in house("job.list", dead=True)["jobs"]] == [3]
    house("job.retry", ids=[3])
    assert house.ended(3)["status"] == "completed"


def test_a_limited_agent_hands_over_at_once_when_it_is_told_to(chain):
    agents = chain('escalate_on = ["rate_limited"]\n')
    agents.will(first=[["limit", 3600]], second=[["ok"]])
    house = agents.house
    job = agents.submit()
    assert house.ended(job)["error"]["class"] == "rate_limited"
    assert house.get(2)["status"] == "completed"
    assert house.get(agents.submit())["reason"].startswith("agent first cools down")


def test_what_is_retried_first_escalates_at_the_attempt_that_was_set(build, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    house = build(
        f'default_agent = "a"\n[agents.a]\nargv = {argv(first)}\noutput = "claude"\nescalate_to = "b"\n'
        'escalate_after = 2\nretry = { strategy = "immediate", max_retries = 5 }\n'
        f'[agents.b]\nargv = {argv(second)}\noutput = "claude"\n'
    )
    first.with_suffix(".script").write_text(json.dumps([["fail"]]))
    second.with_suffix(".script").write_text(json.dumps([["ok"]]))
    job = house("job.submit", prompt="x", cwd=str(tmp_path))["job"]
    house.ended(job)
    found = house.get(job)
    assert (found["attempts"], found["escalated_to"]) == (2, 2)
    assert house.get(2)["status"] == "completed"
