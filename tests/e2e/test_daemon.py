"""The daemon as a whole: events over a restart, backup, reload, shutdown, and the supervisor's signals."""

import json
import os
import signal
import sqlite3
import threading

import pytest

from opus_client import Client, ConnectionLost, RpcError


def cursors(house, client, since, last):
    """The cursors of all events after `since` up to `last`, as they come."""
    seen = []
    for event in client.events(since=since):
        seen.append(event["cursor"])
        if event["cursor"] >= last:
            return seen
    raise AssertionError


def test_resuming_events_across_a_restart_misses_nothing_and_doubles_nothing(house):
    ear = house.client()
    events = ear.events(since=0)
    seen = []
    jobs = [house.submit("true") for _ in range(10)]
    while len(seen) < 15:
        seen.append(next(events)["cursor"])
    house.ended(*jobs)
    house.restart()
    more = [house.submit("true") for _ in range(10)]
    house.ended(*more)
    last = house("job.history", id=more[-1]["id"])["events"][-1]["cursor"]
    last = max(last, *(house("job.history", id=job["id"])["events"][-1]["cursor"] for job in more))
    seen += cursors(house, house.client(), seen[-1], last)
    whole = cursors(house, house.client(), 0, last)
    assert seen == whole
    assert seen == sorted(set(seen))
    kept = {event["cursor"] for job in jobs + more for event in house("job.history", id=job["id"])["events"]}
    assert kept <= set(seen)


def test_events_begin_now_unless_asked_otherwise_and_are_filtered(house):
    house.ended(house.submit("true"))
    gate = house.gate()
    job = house.sh(gate.wait, group="g")
    house.begun(job)
    all_, kinds, jobs, group = (
        house.client().events(**wanted)
        for wanted in ({}, {"kinds": ["job.completed"]}, {"jobs": [job["id"]]}, {"group": "g"})
    )
    other = house.submit("true")
    house.ended(other)
    gate.open()
    house.ended(job)
    gate.close()
    assert next(all_)["job"] == other["id"]
    assert [next(kinds)["job"] for _ in range(2)] == [other["id"], job["id"]]
    assert next(jobs)["kind"] == "job.completed"
    assert next(group)["job"] == job["id"]
    error = house.refused("events.subscribe", since=10**9)
    assert error.code == -32001


def test_many_subscribers_that_catch_up_while_jobs_run_see_the_same(house):
    jobs = [house.submit("true", held=number % 2 == 0)["id"] for number in range(60)]
    results = {}

    def listen(name, since):
        with Client(house.socket, timeout=15) as ear:
            seen = results[name] = []
            for event in ear.events(since=since):
                seen.append(event["cursor"])
                if event["kind"] == "queue.paused":
                    return

    threads = [threading.Thread(target=listen, args=(number, number * 20)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in jobs[::2]:
        house("job.release", id=number)
    house.ended(*jobs)
    house("queue.pause")
    for thread in threads:
        thread.join()
    for number in range(4):
        assert results[number] == [cursor for cursor in results[0] if cursor > number * 20]
    assert results[0] == sorted(set(results[0]))


def test_a_backup_made_while_jobs_run_opens_as_a_registry(build, tmp_path):
    house = build()
    copies = tmp_path / "copies"
    copies.mkdir()
    stop = threading.Event()
    submitted = []

    def keep_submitting():
        with Client(house.socket, timeout=15) as client:
            while not stop.is_set():
                submitted.append(client.call("job.submit", command=["true"], cwd="/")["job"]["id"])

    thread = threading.Thread(target=keep_submitting)
    thread.start()
    house.until(lambda: len(submitted) > 20)
    known = submitted[-1]
    made = house("system.backup", path=str(copies / "opusd.db"))
    stop.set()
    thread.join()
    assert made["bytes"] > 0
    assert (copies / "opusd.db").stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(f"file:{copies / 'opusd.db'}?mode=ro", uri=True) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("SELECT count(*) FROM jobs WHERE id <= ?", [known]).fetchone() == (known,)
    copy.close()
    assert house.refused("system.backup", path=str(copies / "opusd.db")).code == -32002
    for path in ("relative.db", "/", str(copies), str(tmp_path / "nowhere" / "x.db"), str(copies / "opusd.db" / "x")):
        error = house.refused("system.backup", path=path)
        assert (error.code, error.data["path"], error.data["retryable"]) == (-32602, "$.path", False)
    assert house("system.info")["degraded"] == []
    other = build(start=False)
    other.state.mkdir(mode=0o700)
    (copies / "opusd.db").rename(other.state / "opusd.db")
    other.start()
    assert other.get(known)["id"] == known
    other("queue.pause")


def test_sighup_reads_the_configuration_again_and_a_bad_one_changes_nothing(build):
    house = build("max_concurrent = 1\n")
    gate = house.gate()
    jobs = [house.sh(gate.wait) for _ in range(3)]
    house.begun(jobs[0])
    house.configure("max_concurrent = 2\n[agents.echo]\nargv = ['cat']\n")
    house.process.send_signal(signal.SIGHUP)
    house.begun(jobs[1])
    assert house.get(jobs[2])["status"] == "queued"
    assert (
        house.ended(house.submit(prompt="new here", agent="echo", interactive=True))["result"]["summary"] == "new here"
    )
    house.configure("max_concurent = 3\n")
    error = house.refused("system.reload")
    assert "max_concurrent" in error.message
    assert house("queue.status")["pool"]["max_concurrent"] == 2
    house.configure("max_concurrent = 3\n")
    house("system.reload")
    house.begun(jobs[2])
    gate.open(3)
    house.ended(*jobs)
    gate.close()


def test_the_jobs_of_an_agent_that_a_reload_removed_stay_and_can_be_given_to_another(build):
    house = build("[agents.old]\nargv = ['cat']\nslots = 0\n[agents.new]\nargv = ['cat']\n")
    job = house.submit(prompt="hello", agent="old")
    house.configure("[agents.new]\nargv = ['cat']\n")
    house("system.reload")
    seen = house.get(job)
    assert (seen["status"], "old" in seen["reason"]) == ("queued", True)
    house("job.update", id=job["id"], needs={"x": 1}, max_retries=1)
    assert house("queue.peek")["jobs"][0]["id"] == job["id"]
    house("job.list", order="score"), house("queue.status"), house("agent.list"), house("job.why", id=job["id"])
    house.restart()
    assert house.get(job)["status"] == "queued"
    house("job.update", id=job["id"], agent="new")
    assert house.ended(job)["result"]["summary"] == "hello"


def test_sigterm_leaves_agents_running_for_the_next_start(house):
    gate = house.gate()
    running = house.sh(f"echo before; {gate.wait}; echo after; exit 7")
    house.output(running, "before")
    waiting = Client(house.socket, timeout=15).connect()  # nobody closes it before the daemon does
    replies = []

    def wait():
        try:
            replies.append(waiting.call("job.wait", ids=[running["id"]]))
        except (RpcError, ConnectionLost) as error:
            replies.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    house.until(lambda: house("system.info")["connections"] >= 2)
    assert house.stop() == 0
    thread.join(10)
    assert isinstance(replies[0], RpcError)
    assert replies[0].code == -32008
    waiting.close()
    assert not house.socket.exists()
    gate.open()
    house.start()
    done = house.ended(running)
    assert (done["error"]["exit_code"], done["attempts"]) == (7, 1)
    assert house.logs(running) == "before\nafter\n"
    gate.close()


def test_shutdown_can_drain(house):
    gate = house.gate()
    running = house.sh(gate.wait)
    house.begun(running)
    queued = house.submit("true")
    asked = house.client()
    thread = threading.Thread(target=asked.call, args=("system.shutdown",), kwargs={"agents": "drain"})
    thread.start()
    house.until(lambda: "shutting down" in house.get(house.submit("true"))["reason"], 5)
    gate.open()
    assert house.process.wait(10) == 0
    thread.join(10)
    gate.close()
    house.kill()
    house.start()
    assert house.get(running)["status"] == "completed"
    house.ended(queued)


def test_shutdown_can_stop_the_agents_which_run_again_at_no_cost_after_the_next_start(house):
    marks = house.work / "marks"
    job = house.sh(f"echo run | tee -a {marks}; test $OPUS_ATTEMPT = 2 || sleep 600", max_retries=0)
    stubborn = house.sh("trap '' TERM; echo ready; test $OPUS_ATTEMPT = 2 && exit; while :; do sleep 0.1; done")
    house.output(job, "run")
    house.output(stubborn, "ready")
    house("job.cancel", id=stubborn["id"], grace=0.3)
    asked = house.client()
    asked.call("system.shutdown", agents="stop", timeout=8)
    assert house.process.wait(10) == 0
    house.kill()
    assert not [path for path in house.state.glob("runs/*/*/started") if not (path.parent / "exit").exists()]
    house.start()
    done, cancelled = house.ended(job, stubborn)
    assert (done["status"], done["attempts"], done["retries"], cancelled["status"]) == ("completed", 2, 0, "cancelled")
    assert marks.read_text() == "run\nrun\n"
    classes = [attempt["class"] for attempt in house("job.history", id=job["id"])["attempts"]]
    assert classes == ["cancelled", None]


def test_shutdown_can_leave_everything(house):
    job = house.sh("echo on; sleep 600")
    house.output(job, "on")
    assert house("system.shutdown") == {}
    assert house.process.wait(10) == 0
    house.kill()
    house.start()
    assert (house.get(job)["status"], house.get(job)["attempts"]) == ("running", 1)


def test_a_cancel_under_way_goes_on_after_the_daemon_was_killed(house):
    job = house.sh("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    house.output(job, "ready")
    assert house("job.cancel", id=job["id"], grace=1)["status"] == "cancelling"
    house.restart()
    assert house.ended(job)["status"] == "cancelled"


def test_a_timeout_is_kept_over_a_restart(house):
    job = house.submit("sleep", "600", timeout=1.5)
    house.begun(job)
    house.restart()
    assert house.ended(job)["error"]["class"] == "timeout"


def test_the_log_has_one_record_a_line_and_no_job_text(build):
    house = build(arguments=["--log-level", "debug", "--log-format", "json"])
    house.ended(
        house.sh("echo the-output", env={"WORD": "the-env-value"}, payload={"x": "the-payload"}, title="the-title")
    )
    house.ended(house.sh("echo the-output >&2; exit 1"))
    house.stop()
    records = [json.loads(line) for line in house.said().splitlines()]
    kinds = [record["event"] for record in records]
    assert {"daemon.started", "job.submitted", "job.started", "job.completed", "job.failed", "daemon.stopped"} <= set(
        kinds
    )
    assert all({"time", "level", "event"} <= set(record) for record in records)
    assert any(record.get("job") == 1 and record.get("actor") == f"user:{os.getuid()}" for record in records)
    for word in ("the-output", "the-env-value", "the-payload", "the-title"):
        assert word not in house.said()


def test_a_reload_changes_what_is_written_to_the_log(build):
    """Of a level that leaves the events out nothing is made of them at all."""
    house = build("[log]\nlevel = 'warning'\nformat = 'json'\n")
    told = {}
    for level in ("warning", "debug", "info", "error"):
        house.configure(f"[log]\nlevel = '{level}'\nformat = 'json'\n")
        house("system.reload")
        job = house.sh("true")
        house.ended(job)
        told[level] = job["id"]
    house.stop()
    records = [json.loads(line) for line in house.said().splitlines()]
    found = {level: {one["event"] for one in records if one.get("job") == number} for level, number in told.items()}
    assert (found["warning"], found["error"]) == (set(), set())
    assert found["info"] >= {"job.started", "job.completed"}
    assert "job.submitted" not in found["info"]
    assert found["debug"] >= found["info"] | {"job.submitted"}


@pytest.mark.parametrize("method", ["system.info", "queue.status", "agent.list", "rpc.discover", "system.ping"])
def test_what_takes_no_parameters_answers(commons, method):
    assert isinstance(commons(method), dict)
    assert commons.refused(method, odd=1).data["path"] == "$.odd"
