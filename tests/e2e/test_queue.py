"""Who waits for what: dependencies, groups, needs, pauses, the pool, and what is said about it."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from opus_client import RpcError

FINAL = ("completed", "failed", "cancelled", "expired")
AGENTS = """
max_concurrent = 1
default_agent = "echo"
[agents.echo]
argv = ["cat"]
[agents.second]
argv = ["cat"]
slots = 0
[groups.narrow]
max_running = 1
[resources]
gpu = 2
[[routes]]
name = "reviews"
match = { type = "review" }
agent = "second"
priority = "urgent"
"""


def occupied(house):
    """The daemon with its one slot taken by a job, `house.first`, until the gate `house.door` is opened."""
    house.door = house.gate(f"door{len(list(house.work.iterdir()))}")
    house.first = house.sh(house.door.wait)
    house.begun(house.first)
    return house


@pytest.fixture
def full(build):
    """A daemon of its own with one slot, which is taken."""
    house = occupied(build(AGENTS))
    yield house
    house.door.close()


@pytest.fixture(scope="module")
def _crowd(build_for_module):
    return build_for_module(AGENTS)


@pytest.fixture
def crowd(_crowd):
    """The same, but its registry holds what the tests before have left, all of it finished."""
    yield occupied(_crowd)
    _crowd("queue.resume")
    for job in _crowd("job.list", limit=1000)["jobs"]:
        if job["status"] not in FINAL:
            with suppress(RpcError):  # it has ended since
                _crowd("job.cancel", id=job["id"], grace=0)
    _crowd("job.wait", ids=[_crowd.first["id"]], timeout=10)
    _crowd.door.close()


# --- dependencies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "on", "if_unmet", "status"),
    [
        ("exit 0", "success", None, "completed"),
        ("exit 1", "success", None, "blocked"),
        ("exit 1", "success", "cancel", "cancelled"),
        ("exit 1", "success", "run", "completed"),
        ("exit 1", "failure", None, "completed"),
        ("exit 0", "failure", None, "cancelled"),
        ("exit 0", "failure", "block", "blocked"),
        ("exit 1", "any", None, "completed"),
    ],
)
@pytest.mark.parametrize("over", [False, True], ids=["before", "after"])
def test_an_edge_does_what_it_says_when_its_upstream_ends(commons, script, on, if_unmet, status, over):
    edge = {"on": on} | ({"if_unmet": if_unmet} if if_unmet else {})
    upstream = commons.sh(script, held=not over)
    if over:
        commons.ended(upstream)
    job = commons.submit("true", depends_on=[{"job": upstream["id"], **edge}])
    if not over:
        assert job["status"] == "blocked"
        assert str(upstream["id"]) in job["reason"]
        commons("job.release", id=upstream["id"])
        commons.ended(upstream)
    found = commons.get(job) if status == "blocked" else commons.ended(job)
    assert found["status"] == status
    assert found["reason"] or status in ("completed", "cancelled")
    if status == "blocked":
        assert found["depends_on"][0]["state"] == "unmet"


def test_a_blocked_job_goes_on_when_its_upstream_is_retried_and_succeeds(commons):
    flag = commons.work / "flag"
    upstream = commons.sh(f"test -e {flag}")
    job = commons.submit("true", depends_on=[upstream["id"]])
    commons.ended(upstream)
    assert commons.get(job)["status"] == "blocked"
    flag.touch()
    commons("job.retry", ids=[upstream["id"]])
    assert commons.ended(job)["status"] == "completed"


def test_a_cancelled_job_that_is_retried_learns_that_its_upstream_has_succeeded_meanwhile(commons):
    flag = commons.work / "flag2"
    upstream = commons.sh(f"test -e {flag}")
    job = commons.submit("true", depends_on=[upstream["id"]])
    commons.ended(upstream)
    commons("job.cancel", id=job["id"])
    flag.touch()
    commons("job.retry", ids=[upstream["id"]])
    assert commons.ended(upstream)["status"] == "completed"
    commons("job.retry", ids=[job["id"]])
    assert commons.ended(job)["status"] == "completed"


def test_a_cancel_goes_down_the_chain_by_if_unmet_and_by_cascade(commons):
    first = commons.submit("true", held=True)
    second = commons.submit("true", depends_on=[{"job": first["id"], "if_unmet": "cancel"}])
    third = commons.submit("true", depends_on=[{"job": second["id"], "if_unmet": "cancel"}])
    fourth = commons.submit("true", depends_on=[third["id"]])
    commons("job.cancel", id=first["id"])
    assert [commons.get(job)["status"] for job in (second, third, fourth)] == ["cancelled", "cancelled", "blocked"]
    fifth = commons.submit("true", held=True)
    sixth = commons.submit("true", depends_on=[fifth["id"]])
    seventh = commons.submit("true", depends_on=[sixth["id"]])
    commons("job.cancel", id=fifth["id"], cascade=True)
    assert [commons.get(job)["status"] for job in (sixth, seventh)] == ["cancelled", "cancelled"]
    back = commons("job.retry", ids=[fifth["id"]], cascade=True)["jobs"]
    assert [job["id"] for job in back] == [fifth["id"], sixth["id"], seventh["id"]]
    assert [job["status"] for job in commons.ended(fifth, sixth, seventh)] == ["completed"] * 3


def test_cycles_unknown_jobs_and_oneself_are_refused(commons):
    a = commons.submit("true", held=True)
    b = commons.submit("true", depends_on=[a["id"]])
    error = commons.refused("job.update", id=a["id"], depends_on=[b["id"]])
    assert error.code == -32006
    assert set(error.data["cycle"]) == {a["id"], b["id"]}
    assert commons.refused("job.update", id=a["id"], depends_on=[a["id"]]).code == -32006
    assert commons.refused("job.submit", command=["true"], depends_on=[987654]).code == -32006
    assert commons.refused("job.submit", command=["true"], depends_on=["no-such-key"]).code == -32006
    assert commons.refused("job.submit", command=["true"], key="self", depends_on=["self"]).code == -32006
    loop = [
        {"command": ["true"], "key": "x", "depends_on": ["y"]},
        {"command": ["true"], "key": "y", "depends_on": ["x"]},
    ]
    error = commons.refused("job.submit_batch", jobs=loop)
    assert (error.code, set(error.data["cycle"]), "index" in error.data) == (-32006, {"x", "y"}, True)
    assert commons.get(a)["version"] == a["version"]


def test_a_batch_is_all_or_none_and_its_keys_may_name_each_other_in_any_order(commons):
    jobs = [
        {"command": ["true"], "key": "batch-b", "depends_on": ["batch-a"]},
        {"command": ["true"], "key": "batch-a"},
    ]
    before = commons("job.list", limit=1)["jobs"]
    bad = commons.refused("job.submit_batch", jobs=[*jobs, {"command": ["true"], "boost": 50}])
    assert (bad.code, bad.data["path"]) == (-32602, "$.jobs[2].boost")
    bad = commons.refused("job.submit_batch", jobs=[*jobs, {"command": ["true"], "agent": "nobody"}])
    assert (bad.code, bad.data["index"]) == (-32602, 2)
    assert commons("job.list", limit=1)["jobs"] == before
    entered = commons("job.submit_batch", jobs=jobs)["jobs"]
    assert [one["created"] for one in entered] == [True, True]
    assert [one["job"]["key"] for one in entered] == ["batch-b", "batch-a"]
    again = commons("job.submit_batch", jobs=jobs)["jobs"]
    assert [(one["job"]["id"], one["created"]) for one in again] == [(one["job"]["id"], False) for one in entered]
    assert [job["status"] for job in commons.ended("batch-a", "batch-b")] == ["completed", "completed"]


# --- keys ---------------------------------------------------------------------------------------------


def test_a_key_gives_its_job_again_and_refuses_another_content(commons):
    first = commons("job.submit", command=["true"], key="k1", title="one")
    second = commons("job.submit", title="one", key="k1", command=["true"])
    assert (second["job"]["id"], second["created"]) == (first["job"]["id"], False)
    error = commons.refused("job.submit", command=["true"], key="k1", title="two")
    assert (error.code, error.data["job"]) == (-32002, first["job"]["id"])
    commons.ended("k1")
    assert commons("job.submit", command=["true"], key="k1", title="one")["created"] is False
    assert commons.refused("job.submit", command=["false"], key="k1").code == -32002


def test_a_hundred_clients_that_submit_one_key_at_once_make_one_job(commons):
    clients = [commons.client() for _ in range(100)]
    with ThreadPoolExecutor(100) as threads:
        replies = list(threads.map(lambda client: client.call("job.submit", command=["true"], key="stampede"), clients))
    assert len({reply["job"]["id"] for reply in replies}) == 1
    assert sum(reply["created"] for reply in replies) == 1


# --- groups, needs, order -------------------------------------------------------------------------------


def test_a_group_runs_no_more_than_its_max_running(build):
    house = build(AGENTS.replace("max_concurrent = 1", "max_concurrent = 4"))
    log, gate = house.work / "log", house.gate()
    jobs = [house.sh(f"echo + >> {log}; {gate.wait}; echo - >> {log}", group="narrow") for _ in range(3)]
    free = house.submit("true", group="wide")
    house.ended(free)
    house.begun(jobs[0])
    assert [job["status"] for job in map(house.get, jobs)] == ["running", "queued", "queued"]
    assert "narrow" in house.get(jobs[1])["reason"]
    gate.open(3)
    house.ended(*jobs)
    assert log.read_text() == "+\n-\n" * 3
    gate.close()


def test_needs_are_held_while_a_job_runs_and_an_unknown_name_is_a_mutex(build):
    house = build(AGENTS.replace("max_concurrent = 1", "max_concurrent = 5"))
    gate = house.gate()
    holder = house.sh(gate.wait, needs={"repo:/srv/app": 1})
    house.begun(holder)
    waiting = house.submit("true", needs={"repo:/srv/app": 1})
    assert (waiting["status"], f"job {holder['id']}" in waiting["reason"]) == ("queued", True)
    gpu = [house.sh(gate.wait, needs={"gpu": 1}) for _ in range(3)]
    house.begun(gpu[0], gpu[1])
    assert house.get(gpu[2])["status"] == "queued"
    (constraint,) = [one for one in house("job.why", id=gpu[2]["id"])["constraints"] if one["kind"] == "needs"]
    assert "gpu" in constraint["detail"]
    assert house.refused("job.submit", command=["true"], needs={"gpu": 3}).data["path"] == "$.needs.gpu"
    assert house.refused("job.submit", command=["true"], needs={"mutex": 2}).code == -32602
    gate.open(4)
    assert {job["status"] for job in house.ended(holder, waiting, *gpu)} == {"completed"}
    gate.close()


def test_jobs_go_in_the_order_of_their_tiers_and_boosts_and_peek_shows_it(full):
    log = full.work / "log"
    wanted = {}
    for name, fields in {
        "low": {"priority": "low"},
        "normal": {},
        "boosted": {"boost": 10},
        "urgent": {"priority": "high"},
        "eight": {"priority": 9},
        "critical": {"priority": "critical"},
    }.items():
        wanted[name] = full.sh(f"echo {name} >> {log}", **fields)["id"]
    order = ["critical", "eight", "urgent", "boosted", "normal", "low"]
    assert [job["id"] for job in full("queue.peek")["jobs"]] == [wanted[name] for name in order]
    listed = [job["id"] for job in full("job.list", order="score")["jobs"]]
    assert listed == [*(wanted[name] for name in order), full.first["id"]]
    assert [full.get(wanted[name])["position"] for name in order] == [1, 2, 3, 4, 5, 6]
    assert [full.get(wanted[name])["ahead"] for name in order] == [0, 1, 2, 3, 4, 5]
    assert full.get(wanted["critical"])["score"] is None
    full.door.open()
    full.ended(*wanted.values())
    assert log.read_text().split() == order


def test_a_humans_message_starts_at_once_when_the_pool_is_full(crowd):
    waiting = crowd.submit("true", priority="critical")
    message = crowd.submit("true", interactive=True)
    assert message["tier"] == "critical"
    assert crowd.ended(message)["status"] == "completed"
    assert crowd.get(waiting)["status"] == "queued"
    assert crowd("queue.status")["pool"] == {"max_concurrent": 1, "busy": 1, "interactive_slots": 1}


def test_what_a_blocked_human_waits_for_inherits_its_tier(crowd):
    low = crowd.submit("true", priority="low")
    other = crowd.submit("true", priority="urgent")
    assert (crowd.get(low)["position"], crowd.get(other)["position"]) == (2, 1)
    human = crowd.submit("true", depends_on=[low["id"]], interactive=True)
    seen = crowd.get(low)
    assert (seen["position"], seen["inherits"]) == (1, {"tier": "critical", "job": human["id"]})
    assert seen["dependents"] == [human["id"]]


def test_a_prompt_takes_the_first_route_that_matches_or_the_default_agent(crowd):
    review = crowd.submit(prompt="look at it\nclosely", type="review")
    assert (review["agent"], review["route"], review["tier"], review["title"]) == (
        "second", "reviews", "urgent", "look at it",
    )  # fmt: skip
    plain = crowd.submit(prompt="hello")
    assert (plain["agent"], plain["route"]) == ("echo", None)
    crowd.door.open()
    assert crowd.ended(plain)["result"]["summary"] == "hello"
    assert crowd.submit()["agent"] == "pull"


def test_without_an_agent_for_it_a_prompt_is_refused_with_what_to_configure(commons):
    error = commons.refused("job.submit", prompt="hello")
    assert (error.code, error.data["path"]) == (-32602, "$.agent")
    assert "default_agent" in error.message


# --- update -------------------------------------------------------------------------------------------


def test_each_field_of_a_waiting_job_can_be_changed(crowd):
    for field, value, shown in [
        ("title", "better", "better"),
        ("labels", ["for:me"], ["for:me"]),
        ("metadata", {"a": 1}, {"a": 1}),
        ("timeout", "5m", 300.0),
        ("priority", "urgent", "urgent"),
        ("priority", 4, "normal"),
        ("boost", 7, 7),
        ("needs", {"gpu": 1}, {"gpu": 1}),
        ("command", ["echo", "new"], ["echo", "new"]),
        ("expires_in", "1h", 3600.0),
        ("max_retries", 2, 2),
        ("run_at", "2099-01-01T00:00:00Z", "2099-01-01T00:00:00.000000Z"),
    ]:
        job = crowd.submit("true")
        after = crowd("job.update", id=job["id"], version=job["version"], **{field: value})
        assert after[field] == shown
        assert after["version"] == job["version"] + 1
        seen = crowd.get(job)
        assert seen == after | {"score": seen["score"]}
        assert crowd.refused("job.update", id=job["id"], version=job["version"], **{field: value}).code == -32002
        crowd("job.cancel", id=job["id"])


def test_a_prompt_and_its_agent_can_be_changed_while_it_waits(crowd):
    job = crowd.submit(prompt="one")
    assert crowd("job.update", id=job["id"], prompt="two", agent="second")["agent"] == "second"
    assert crowd("job.update", id=job["id"], agent="echo")["prompt"] == "two"
    assert crowd.refused("job.update", id=job["id"], command=["true"]).code == -32602
    assert crowd.refused("job.update", id=job["id"], agent="exec").code == -32602
    crowd.door.open()
    assert crowd.ended(job)["result"]["summary"] == "two"


def test_a_prompt_can_become_a_command_and_a_command_a_prompt_while_it_waits(crowd):
    asks, runs = crowd.submit(prompt="one", agent="echo"), crowd.submit("echo", "one")
    found = crowd("job.update", id=asks["id"], agent="exec", command=["echo", "two"])
    assert (found["agent"], found["command"], found["prompt"]) == ("exec", ["echo", "two"], None)
    found = crowd("job.update", id=runs["id"], agent="echo", prompt="three")
    assert (found["agent"], found["command"], found["prompt"]) == ("echo", None, "three")
    crowd.door.open()
    assert [crowd.ended(job)["result"]["summary"] for job in (asks, runs)] == ["two", "three"]


def test_a_running_job_lets_its_timeout_be_changed_and_a_finished_one_its_title(crowd):
    job = crowd.first["id"]
    assert crowd("job.update", id=job, labels=["x"])["labels"] == ["x"]
    assert crowd.refused("job.update", id=job, boost=1).data["fields"] == ["boost"]
    assert crowd.refused("job.update", id=job, run_at="2099-01-01T00:00:00Z").code == -32002
    assert crowd("job.update", id=job, timeout=0.3)["timeout_at"] is not None
    assert crowd.ended(job)["error"]["class"] == "timeout"
    assert crowd("job.update", id=job, title="done with")["title"] == "done with"
    assert crowd.refused("job.update", id=job, timeout=3).code == -32002


def test_run_at_and_depends_on_move_a_job_to_where_it_belongs(crowd):
    job = crowd.submit("true", delay="1h")
    assert (job["status"], job["due_at"] or job["run_at"], bool(job["reason"])) == ("scheduled", job["run_at"], True)
    assert crowd("job.update", id=job["id"], depends_on=[crowd.first["id"]])["status"] == "blocked"
    assert crowd("job.update", id=job["id"], depends_on=[])["status"] == "scheduled"
    assert crowd("job.update", id=job["id"], run_at=None)["status"] == "queued"
    crowd.door.open()
    assert crowd.ended(job)["status"] == "completed"


def test_a_scheduled_job_begins_when_its_time_has_come(commons):
    job = commons.submit("true", delay=0.3)
    assert job["status"] == "scheduled"
    assert commons.ended(job)["status"] == "completed"


def test_a_ready_job_expires_when_nothing_began_in_time(crowd):
    job = crowd.submit("true", expires_in=0.2)
    after = crowd.submit("true", depends_on=[{"job": job["id"], "if_unmet": "cancel"}])
    gone = crowd.ended(job)
    assert (gone["status"], bool(gone["reason"])) == ("expired", True)
    assert crowd.get(after)["status"] == "cancelled"


# --- pause, drain, resize ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [{}, {"agent": "exec"}, {"group": "g"}], ids=["all", "agent", "group"])
def test_a_pause_holds_what_it_names_also_across_a_restart(build, what):
    house = build()
    house("queue.pause", **what)
    job = house.submit("true", group="g")
    message = house.submit("true", group="g", interactive=True)
    assert (job["status"], "paused" in job["reason"]) == ("queued", True)
    house.restart()
    status = house("queue.status")
    assert (status["paused"], status["paused_agents"], status["paused_groups"]) == (
        not what, ["exec"] if "agent" in what else [], ["g"] if "group" in what else [],
    )  # fmt: skip
    assert [house.get(one)["status"] for one in (job, message)] == ["queued", "queued"]
    assert house("job.why", id=job["id"])["runnable"] is False
    house("queue.resume", **what)
    assert [one["status"] for one in house.ended(job, message)] == ["completed", "completed"]


def test_drain_waits_until_nothing_runs_and_stays_paused(crowd):
    waiting = crowd.submit("true")
    assert len(crowd("queue.drain", timeout=0.1)["running"]) == 1
    with ThreadPoolExecutor() as threads:
        draining = threads.submit(crowd.client().call, "queue.drain", timeout=10)
        crowd.until(lambda: crowd("queue.status")["paused"])
        crowd.door.open()
        assert draining.result(10)["running"] == []
    assert crowd.get(waiting)["status"] == "queued"
    crowd("queue.resume")
    crowd.ended(waiting)


def test_resizing_the_pool_starts_more_and_ends_nothing_and_survives_a_restart(full):
    second = full.sh(full.door.wait)
    assert full("pool.resize", max_concurrent=2)["max_concurrent"] == 2
    full.begun(second)
    third = full.submit("true")
    assert full("pool.resize", max_concurrent=1) == {"max_concurrent": 1, "busy": 2, "interactive_slots": 1}
    full("pool.resize", agent="exec", max_concurrent=2)
    full("pool.resize", max_concurrent=4)
    assert full.get(third)["status"] == "queued"
    full.restart()
    assert full("queue.status")["pool"]["max_concurrent"] == 4
    assert [agent["slots"] for agent in full("agent.list")["agents"] if agent["name"] == "exec"] == [2]
    assert full.get(third)["status"] == "queued"
    full("pool.resize", agent="exec", max_concurrent=3)
    full.ended(third)
    assert full.refused("pool.resize", agent="nobody", max_concurrent=3).code == -32001
    assert full.refused("pool.resize", agent="pull", max_concurrent=3).data["path"] == "$.agent"
    full.door.open(2)


# --- waiting ------------------------------------------------------------------------------------------


def test_wait_for_any_for_a_group_until_started_and_until_its_timeout(crowd):
    quick = crowd.submit("true", group="pair", interactive=True)
    slow = crowd.submit("true", group="pair")
    found = crowd("job.wait", ids=[slow["id"], quick["id"]], any=True, timeout=10)
    assert found["done"] is True
    assert [job["status"] for job in found["jobs"]] == ["queued", "completed"]
    late = crowd("job.wait", group="pair", timeout=0.1)
    assert (late["done"], [job["id"] for job in late["jobs"]]) == (False, [quick["id"], slow["id"]])
    assert crowd("job.wait", ids=[crowd.first["id"]], until="started", timeout=0)["done"] is True
    assert crowd("job.wait", ids=[slow["id"]], until="started", timeout=0)["done"] is False
    crowd.door.open()
    assert crowd("job.wait", group="pair", timeout=10)["done"] is True
    assert crowd.refused("job.wait", ids=[4711]).code == -32001
    assert crowd.refused("job.wait", group="nobody").code == -32001
    assert crowd.refused("job.wait", ids=[]).code == -32602
    assert crowd.refused("job.wait").code == -32602


# --- lists ----------------------------------------------------------------------------------------------


def ids(answer):
    return [job["id"] for job in answer["jobs"]]


def test_every_filter_of_a_list(full):
    a = full.submit("true", title="Alpha", type="bug", labels=["x", "y"], group="g", priority="low")["id"]
    b = full.submit(prompt="find the Beta", source="automated", agent="second")["id"]
    c = full.submit("true", parent=a, held=True, priority="urgent")["id"]
    d = full.ended(full.submit("false", interactive=True))["id"]
    listed = lambda **fields: ids(full("job.list", **fields))  # noqa: E731 - short names make a readable table
    assert listed() == [d, c, b, a, full.first["id"]]
    assert listed(order="id") == [full.first["id"], a, b, c, d]
    assert listed(status="held") == [c]
    assert listed(status=["held", "failed"]) == [d, c]
    assert listed(tier="low") == [a]
    assert listed(tier=["low", "urgent", "critical"]) == [d, c, a]
    assert listed(type="bug") == [a]
    assert listed(agent="second") == [b]
    assert listed(source="automated") == [b]
    assert listed(label="y") == [a]
    assert listed(group="g") == [a]
    assert listed(parent=a) == [c]
    assert listed(text="alpha") == [a]
    assert listed(text="beta") == [b]
    assert listed(dead=True) == [d]
    created = full.get(b)["created_at"]
    assert listed(since=created) == [d, c, b]
    assert listed(until=created) == [a, full.first["id"]]
    assert listed(time="completed", since=created) == [d]
    assert listed(time="started", until=created) == [full.first["id"]]
    assert listed(status="queued", tier="low", type="bug") == [a]
    assert listed(order="score") == [b, a, full.first["id"], c, d]
    assert listed(order="score", status=["queued", "failed"]) == [b, a, d]
    assert listed(order="score", status=["queued", "failed"], label="y") == [a]
    assert (listed(order="score", status="held"), listed(order="score", status="running")) == ([c], [full.first["id"]])
    assert listed(order="score", dead=True) == [d]
    assert listed(order="score", status="queued") == [b, a]
    assert full.refused("job.list", status="odd").code == -32602
    assert full.refused("job.list", cursor="odd").code == -32602
    short, full_one = full("job.list", text="beta")["jobs"][0], full("job.list", text="beta", full=True)["jobs"][0]
    assert set(full_one) - set(short) == {
        "prompt", "command", "env", "payload", "metadata", "result", "verify_output",
    }  # fmt: skip


@pytest.mark.parametrize("order", ["-id", "id", "completed_at", "-completed_at", "score"])
def test_pages_of_a_list_miss_nothing_and_show_nothing_twice(full, order):
    for _ in range(3):
        full.ended(full.submit("true", interactive=True))
    for number in range(7):
        full.submit("true", boost=number % 3)
    whole = ids(full("job.list", order=order))
    assert len(whole) == 11
    if order == "score":
        assert whole[:7] == ids(full("queue.peek"))
        assert whole[7:] == sorted(whole[7:])
    for limit in (1, 2, 7, 11):
        paged, cursor = [], None
        for _ in range(12):
            page = full("job.list", order=order, limit=limit, **({"cursor": cursor} if cursor else {}))
            paged += ids(page)
            if (cursor := page["next_cursor"]) is None:
                break
        assert (limit, paged) == (limit, whole)


def test_capacity_says_open_busy_or_full_and_when(build):
    house = build("max_concurrent = 1\nmax_queued = 2\n")
    house.ended(house.sh("sleep 0.1"))
    opened = house("queue.capacity")
    assert (opened["state"], opened["running"], opened["slots"], opened["queued"]) == ("open", 0, 1, 0)
    gate = house.gate()
    first = house.sh(gate.wait)
    house.begun(first)
    busy = house("queue.capacity", agent="exec")
    assert (busy["state"], busy["running"], busy["estimated_start"] is not None) == ("busy", 1, True)
    house.submit("true"), house.submit("true")
    full = house("queue.capacity")
    assert (full["state"], full["queued"], full["max_queued"], full["retry_after"] > 0) == ("full", 2, 2, True)
    error = house.refused("job.submit", command=["true"])
    assert (error.code, error.data["queued"], error.data["max_queued"]) == (-32003, 2, 2)
    assert error.data["retryable"] is True
    assert house.submit("true", interactive=True)["tier"] == "critical"
    assert house.refused("queue.capacity", agent="nobody").code == -32001
    gate.open()
    gate.close()


def test_status_counts_what_is_there(full):
    full.submit("true", priority="low")
    full.ended(full.submit("true", interactive=True))
    counts = full("queue.status")["counts"]
    assert counts == {
        "status": {"running": 1, "queued": 1, "completed": 1},
        "tier": {"normal": 1, "low": 1},
        "agent": {"exec": 2},
    }
    full.restart()
    assert full("queue.status")["counts"] == counts


def test_every_job_that_waits_has_a_reason_that_why_gives_as_data(crowd):
    first = crowd.first["id"]
    for job, kind in {
        crowd.submit("true", held=True)["id"]: "held",
        crowd.submit("true", depends_on=[first])["id"]: "dependency",
        crowd.submit("true", delay="1h")["id"]: "scheduled",
        crowd.submit("true")["id"]: "pool",
        crowd.submit(prompt="x", agent="second")["id"]: "slots",
        crowd.submit()["id"]: "slots",
    }.items():
        why = crowd("job.why", id=job)
        shown = crowd.get(job)
        assert why["runnable"] is False
        assert why["constraints"][0]["kind"] in (kind, "worker", "pull"), why
        assert why["constraints"][0]["detail"] in shown["reason"]
    assert crowd("job.why", id=first)["constraints"] == []


# --- pruning --------------------------------------------------------------------------------------------


def test_pruning_removes_what_a_finished_job_left_and_frees_its_key(house):
    job = house.ended(house.sh("echo words; echo '1' > $OPUS_RESULT", key="k", payload={"a": 1}))
    waiting = house.submit("true", held=True)
    assert house.refused("job.prune", ids=[waiting["id"]]).code == -32002
    dry = house("job.prune", ids=["k"], dry_run=True)
    assert (dry["jobs"], dry["dry_run"]) == ([job["id"]], True)
    assert house.get("k")["payload"] == {"a": 1}
    assert house("job.prune", ids=["k"])["jobs"] == [job["id"]]
    assert house.refused("job.get", id="k").code == -32001
    left = house.get(job["id"])
    assert (left["status"], left["payload"], left["result"], left["command"]) == ("completed", {}, None, None)
    assert not (house.state / "runs" / str(job["id"])).exists()
    assert house("job.history", id=job["id"])["events"][-1]["kind"] == "job.pruned"
    again = house("job.submit", command=["echo", "other"], key="k")
    assert again["created"] is True
    assert again["job"]["id"] != job["id"]


def test_a_pruned_job_can_not_be_retried_for_what_it_was_to_do_is_gone(house):
    job = house.ended(house.submit("false"))
    house("job.prune", ids=[job["id"]])
    error = house.refused("job.retry", ids=[job["id"]])
    assert error.code == -32002
    assert house.get(job)["status"] == "failed"


def test_pruning_by_time_spares_what_an_unfinished_job_waits_for(house):
    waited = house.ended(house.submit("false"))
    other = house.ended(house.submit("false"))
    done = house.ended(house.submit("true"))
    dependent = house.submit("true", depends_on=[waited["id"]])
    assert house.refused("job.prune", ids=[waited["id"]]).code == -32002
    before = "2099-01-01T00:00:00Z"
    assert house("job.prune", before=before, status="failed", dry_run=True)["jobs"] == [other["id"]]
    assert house("job.prune", before=before)["jobs"] == [other["id"], done["id"]]
    assert house.refused("job.prune", before=before, status="queued").code == -32602
    house("job.cancel", id=dependent["id"])
    assert house("job.prune", before=before, status=["failed", "cancelled"])["jobs"] == [waited["id"], dependent["id"]]


@pytest.mark.slow
def test_retention_prunes_by_itself(build):
    house = build('[retention]\nfinished = "1s"\nevery = "200ms"\nhistory = "1h"\n'.replace('"200ms"', "0.2"))
    job = house.ended(house.submit("true", key="soon-gone"))
    house.until(lambda: "job.pruned" in json.dumps(house("job.history", id=job["id"])))
    assert house.refused("job.get", id="soon-gone").code == -32001
