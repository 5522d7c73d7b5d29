"""What a Job shows wherever it is shown, what a refusal names, and what is never let in."""

import re
import sys

import pytest

from tests.e2e.conftest import ROOT

BIG = "x" * 250_000
TELL = """
import os
from opus_client import Client
with Client(os.environ["OPUSD_SOCKET"]) as client:
    client.call("worker.heartbeat", id=int(os.environ["OPUS_JOB_ID"]), token=os.environ["OPUS_TOKEN"],
                progress={"fraction": 0.5, "message": "half"})
print("told", flush=True)
"""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def listed(house, job, **filters):
    """The job as job.list shows it."""
    [found] = [one for one in house("job.list", **filters)["jobs"] if one["id"] == job["id"]]
    return found


# --- a Job is the same wherever it is shown ---------------------------------------------------------------


def test_progress_is_shown_in_lists_too(commons):
    gate = commons.gate("progress")
    path = f"{ROOT}:{ROOT / 'clients'}"
    job = commons.sh(f'PYTHONPATH={path} {sys.executable} -c "$TELL"; {gate.wait}', env={"TELL": TELL})
    try:
        commons.output(job, "told")
        shown = {"fraction": 0.5, "message": "half"}
        assert commons.get(job)["progress"] == shown
        assert listed(commons, job)["progress"] == shown
    finally:
        gate.open()
    commons.ended(job)
    gate.close()
    assert listed(commons, job)["progress"] is None


def test_the_workdir_without_a_worktree_is_the_cwd_from_the_first_attempt_on(commons):
    gate = commons.gate("workdir")
    job = commons.sh(gate.wait)
    held = commons.submit("true", held=True)
    commons.begun(job)
    assert commons.get(job)["workdir"] == str(commons.work)
    assert commons.get(held)["workdir"] is None
    gate.open()
    assert commons.ended(job)["workdir"] == str(commons.work)
    gate.close()
    assert listed(commons, job)["workdir"] == str(commons.work)


def test_dependents_are_all_jobs_with_an_edge_to_this_one_wherever_it_is_shown(commons):
    upstream = commons.submit("true", held=True)
    waiting = commons.submit("true", depends_on=[upstream["id"]], held=True)
    ended = commons.submit("true", depends_on=[{"job": upstream["id"], "on": "any"}])
    commons("job.release", id=upstream["id"])
    commons.ended(upstream, ended)
    late = commons.submit("true", depends_on=[upstream["id"]], held=True)
    everyone = [waiting["id"], ended["id"], late["id"]]
    assert commons.get(upstream)["dependents"] == everyone
    assert listed(commons, upstream)["dependents"] == everyone
    assert commons.ended(upstream)["dependents"] == everyone
    assert commons.get(waiting)["dependents"] == []


def test_a_failed_job_keeps_what_it_said_last_and_its_result(commons):
    job = commons.sh("""echo first; echo last words; echo '{"at": 7}' > "$OPUS_RESULT"; exit 3""")
    found = commons.ended(job)
    assert found["status"] == "failed"
    assert found["result"]["summary"].endswith("last words")
    assert found["result"]["data"] == {"at": 7}
    assert found["error"]["exit_code"] == 3


def test_an_expired_jobs_event_says_when_as_a_time(build):
    house = build("max_concurrent = 1\n")
    house("queue.pause")
    job = house.ended(house.submit("true", expires_in=0.05))
    assert job["status"] == "expired"
    event = house("job.history", id=job["id"])["events"][-1]
    assert event["kind"] == "job.expired"
    assert TIME.fullmatch(event["detail"]["expires_at"])


def test_a_log_that_its_agent_cut_short_is_said_to_be_truncated(commons):
    gate = commons.gate("cut")
    job = commons.sh(f"echo long enough to be cut; {gate.wait}; : > $LOG_OF_MINE; echo x; {gate.wait}", env={
        "LOG_OF_MINE": "/proc/self/fd/1"})  # fmt: skip
    commons.output(job, "cut")
    assert commons("job.logs", id=job["id"])["truncated"] is False
    gate.open()
    chunk = commons("job.logs", id=job["id"], offset=24, wait=10)
    assert (chunk["truncated"], chunk["offset"]) == (True, 0)
    gate.open()
    commons.ended(job)
    gate.close()


# --- refusals name the field ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"boost": 99}, "$.jobs[1].boost"),
        ({"agent": "zz"}, "$.jobs[1].agent"),
        ({"command": ["true"], "env": {"A": "x", "B": 1}}, "$.jobs[1].env.B"),
        ({"command": ["true"], "env": {"LD_PRELOAD": "x"}}, "$.jobs[1].env.LD_PRELOAD"),
        ({"command": ["true"], "needs": {"ok": 1, "m": 0}}, "$.jobs[1].needs.m"),
        ({"command": ["true"], "parent": 10**9}, "$.jobs[1].parent"),
        ({"command": ["true"], "key": "a b"}, "$.jobs[1].key"),
    ],
)
def test_a_refusal_in_a_batch_names_the_entry_and_the_field(commons, spec, path):
    error = commons.refused("job.submit_batch", jobs=[{"command": ["true"]}, spec])
    assert (error.data["index"], error.data["path"]) == (1, path)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"env": {"A": "x", "B": 1, "C": 2}}, "$.env.B"),
        ({"env": {"A": {"from_env": 7}}}, "$.env.A.from_env"),
        ({"needs": {"m": 0}}, "$.needs.m"),
        ({"agent": "zz"}, "$.agent"),
    ],
)
def test_a_refusal_names_the_key_of_an_object(commons, spec, path):
    error = commons.refused("job.submit", **spec)
    assert (error.code, error.data["path"]) == (-32602, path)
    assert path in error.message or path == "$.agent"
    assert "index" not in error.data


@pytest.mark.parametrize(
    ("order", "cursor"),
    [
        ("-id", "9" * 30),
        ("completed_at", "1,9999999999999999999"),
        ("completed_at", f"{2**63},1"),
        ("score", f"0,{2**63}"),
        ("score", "1,2,3"),
    ],
)
def test_a_cursor_that_no_page_ever_gave_is_refused(commons, order, cursor):
    error = commons.refused("job.list", order=order, cursor=cursor)
    assert (error.code, error.data["path"]) == (-32602, "$.cursor")


@pytest.mark.parametrize(
    "key", ["a\x85b", "a\x9bb", "a\u202eb", "a\u2066b", "a\u200fb", "a\u061cb", "a\u2028b", "a\u2029b"]
)
def test_a_key_holds_no_control_and_nothing_that_turns_text_round(commons, key):
    error = commons.refused("job.submit", command=["true"], key=key)
    assert (error.code, error.data["path"]) == (-32602, "$.key")


@pytest.mark.parametrize("name", ["api_key", "Api_Key", "API_KEY"])
def test_a_literal_secret_is_refused_in_whatever_case_its_name_is(commons, name):
    error = commons.refused("job.submit", command=["true"], env={name: "x"})
    assert (error.code, error.data["path"]) == (-32602, f"$.env.{name}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depends_on", list(range(1, 1002))),
        ("labels", [f"l{number}" for number in range(101)]),
        ("needs", {f"n{number}": 1 for number in range(101)}),
    ],
)
def test_lists_of_a_submission_are_bounded(commons, field, value):
    error = commons.refused("job.submit", command=["true"], **{field: value})
    assert (error.code, error.data["path"]) == (-32602, f"$.{field}")
    job = commons.submit("true", held=True)
    error = commons.refused("job.update", id=job["id"], **{field: value})
    assert (error.code, error.data["path"]) == (-32602, f"$.{field}")


# --- update -----------------------------------------------------------------------------------------------


def test_payload_and_metadata_are_256_kib_together_after_an_update_too(commons):
    job = commons.submit("true", held=True, payload={"a": BIG})
    error = commons.refused("job.update", id=job["id"], metadata={"a": BIG})
    assert (error.code, error.data["path"]) == (-32602, "$.metadata")
    commons("job.update", id=job["id"], metadata={"a": "small"})
    other = commons.submit("true", held=True)
    assert commons("job.update", id=other["id"], metadata={"a": BIG})["metadata"] == {"a": BIG}


def test_a_tier_alone_keeps_the_boost_and_a_level_brings_its_own(commons):
    job = commons.submit("true", held=True, boost=30)
    found = commons("job.update", id=job["id"], priority="urgent")
    assert (found["tier"], found["boost"]) == ("urgent", 30)
    found = commons("job.update", id=job["id"], priority=4)
    assert (found["tier"], found["boost"]) == ("normal", -16)
    found = commons("job.update", id=job["id"], priority="low", boost=5)
    assert (found["tier"], found["boost"]) == ("low", 5)


def test_an_update_that_says_nothing_new_is_no_step_of_the_job(commons):
    job = commons.submit("true", held=True, title="mine", priority="low", timeout="1m")
    for same in ({}, {"title": "mine"}, {"priority": "low", "timeout": 60, "run_at": None, "depends_on": []}):
        assert commons("job.update", id=job["id"], version=1, **same)["version"] == 1
    assert [event["kind"] for event in commons("job.history", id=job["id"])["events"]] == ["job.submitted"]
    assert commons("job.update", id=job["id"], title="other")["version"] == 2
    assert commons.refused("job.update", id=job["id"], version=1, title="other").code == -32002


def test_null_takes_away_what_a_job_can_be_without_and_names_it_as_at_its_submission(commons):
    own = {"title": "mine", "timeout": 60, "expires_in": 60, "delay": 60, "max_retries": 9}
    job = commons.submit("echo", "hello", held=True, **own)
    found = commons("job.update", id=job["id"], title=None, timeout=None, expires_in=None, run_at=None)
    plain = commons.submit("echo", "hello", held=True)
    assert found["title"] == plain["title"]
    assert (found["timeout"], found["expires_in"], found["run_at"]) == (None, None, None)
    found = commons("job.update", id=job["id"], max_retries=None)
    assert (found["max_retries"], found["retry"]) == (plain["max_retries"], plain["retry"])


@pytest.mark.parametrize("field", ["agent", "prompt", "command", "priority", "labels", "depends_on"])
def test_what_a_job_can_not_be_without_is_not_null_in_an_update(commons, field):
    job = commons.submit("true", held=True)
    error = commons.refused("job.update", id=job["id"], **{field: None})
    assert (error.code, error.data["path"]) == (-32602, f"$.{field}")


def test_an_empty_title_is_refused_by_update(commons):
    job = commons.submit("true", held=True, title="mine")
    error = commons.refused("job.update", id=job["id"], title="")
    assert (error.code, error.data["path"]) == (-32602, "$.title")
    assert commons.get(job)["title"] == "mine"


# --- cancel, history, capacity, events ----------------------------------------------------------------------


def test_cascade_reaches_what_waits_for_a_job_that_was_cancelled_before(commons):
    upstream = commons.submit("true", held=True)
    commons("job.cancel", id=upstream["id"])
    waiting = commons.submit("true", depends_on=[upstream["id"]])
    child = commons.submit("true", parent=upstream["id"], held=True)
    assert commons.get(waiting)["status"] == "blocked"
    assert commons("job.cancel", id=upstream["id"], cascade=True)["status"] == "cancelled"
    assert [commons.get(job)["status"] for job in (waiting, child)] == ["cancelled", "cancelled"]


@pytest.mark.slow
def test_a_long_history_gives_the_newest_events_and_says_so(house):
    job = house.submit("true", held=True)
    assert house("job.history", id=job["id"])["truncated"] is False
    client = house.client()
    for number in range(5_000):
        client.notify("job.update", id=job["id"], title=f"t{number}")
    last = client.call("job.update", id=job["id"], title="last")
    found = house("job.history", id=job["id"])
    assert found["truncated"] is True
    assert len(found["events"]) == 5_000
    cursors = [event["cursor"] for event in found["events"]]
    assert cursors == sorted(cursors)
    newest = house("job.hold", id=job["id"])["version"]
    assert newest == last["version"] == 5_002
    assert cursors[-1] - cursors[0] == 4_999
    assert found["events"][0]["kind"] == "job.updated"


def test_nothing_is_open_while_the_queue_or_the_agent_is_paused(house):
    assert house("queue.capacity")["state"] == "open"
    for pause in ({}, {"agent": "exec"}):
        house("queue.pause", **pause)
        found = house("queue.capacity", agent="exec")
        assert (found["state"], found["estimated_start"]) == ("busy", None)
        house("queue.resume", **pause)
    assert house("queue.capacity", agent="exec")["state"] == "open"


def test_a_full_queue_refuses_what_would_queue_and_lets_in_what_would_not(build):
    house = build("max_concurrent = 1\nmax_queued = 2\n[agents.exec]\nmax_queued = 2\n")
    gate = house.gate()
    running = house.sh(gate.wait)
    house.begun(running)
    house.submit("true")
    house.submit("true")
    assert house.refused("job.submit", command=["true"]).code == -32003
    assert house.submit("true", held=True)["status"] == "held"
    assert house.submit("true", depends_on=[running["id"]])["status"] == "blocked"
    assert house.submit("true", delay="1h")["status"] == "scheduled"
    error = house.refused("job.submit_batch", jobs=[{"command": ["true"], "held": True}, {"command": ["true"]}])
    assert (error.code, error.data["queued"], error.data["max_queued"]) == (-32003, 2, 2)
    gate.open()
    gate.close()


def test_a_groups_subscriber_hears_live_of_a_job_that_was_pruned(house):
    mine = house.ended(house.submit("true", group="mine"))
    other = house.ended(house.submit("true", group="other"))
    client = house.client()
    events = client.events(group="mine", kinds=["job.pruned"])
    house("job.prune", ids=[other["id"], mine["id"]])
    assert next(events)["job"] == mine["id"]


# --- the machine ----------------------------------------------------------------------------------------------


def test_a_refused_reload_is_a_conflict_that_says_why(build):
    house = build("max_concurrent = 2\n")
    house.configure("max_concurrent = 0\n")
    error = house.refused("system.reload")
    assert error.code == -32002
    assert "max_concurrent" in error.message


def test_a_socket_folder_that_is_open_to_others_is_named_in_info(build):
    house = build(start=False)
    house.folder.chmod(0o755)
    house.start()
    [word] = [word for word in house("system.info")["degraded"] if "socket" in word]
    assert "chmod 700" in word
    house.folder.chmod(0o700)
    assert not [word for word in house("system.info")["degraded"] if "socket" in word]


def test_a_configuration_in_a_folder_that_others_can_write_is_refused(build):
    house = build("max_concurrent = 2\n", start=False)
    house.folder.chmod(0o777)
    status, said = house.refuse()
    assert status == 78
    assert "chmod go-w" in said
    house.folder.chmod(0o1777)
    house.start()


def test_the_next_start_sweeps_what_a_crash_left_of_pruned_jobs(house):
    pruned, kept = house.ended(house.submit("true"), house.submit("true"))
    house("job.prune", ids=[pruned["id"]])
    runs = house.state / "runs"
    (runs / str(pruned["id"]) / "1").mkdir(parents=True)
    (runs / str(10**6)).mkdir()
    (runs / "mine").mkdir()
    house.kill()
    house.start()
    house.until(lambda: not (runs / str(pruned["id"])).exists() or (house.submit("true") and None))
    left = {entry.name for entry in runs.iterdir()}
    assert {str(kept["id"]), str(10**6), "mine"} <= left


def test_what_retention_forgets_is_counted_no_more(build):
    house = build('[retention]\nfinished = "1ms"\nhistory = "1ms"\nevery = "100ms"\n')
    house.ended(house.submit("true"))

    def nothing_left():
        house("queue.pause")
        house("queue.resume")  # events, so that it is asked again
        return house("queue.status")["counts"]["status"] == {}

    house.until(nothing_left)
