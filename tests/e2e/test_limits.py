"""Limits over a real socket with real processes: quotas and the pace of a tree (docs/limits.md)."""

import json
import signal
from datetime import UTC, datetime, timedelta

QUOTAS = """
max_concurrent = 8
max_submissions_per_minute = 2
[quotas.submitter]
max_running = 2
[quotas.source.automated]
max_queued = 1
[groups.small]
max_queued = 1
max_running = 1
[agents.exec]
may_submit = ["exec"]
"""


def test_a_person_past_the_quotas_waits_or_is_refused_and_is_told_which(build):
    house = build(QUOTAS)
    gate = house.gate()
    running = [house.sh(gate.wait, group="small"), house.sh(gate.wait)]
    house.begun(*running)
    waiting = house.submit("true", group="small")
    assert waiting["reason"] == (
        f"submitter user:{house.work.stat().st_uid} has its 2 jobs running (quotas.submitter.max_running); "
        "group small has its 1 jobs running (groups.small.max_running)"
    )
    kinds = [one["kind"] for one in house("job.why", id=waiting["id"])["constraints"]]
    assert kinds == ["quota", "group"]
    error = house.refused("job.submit", command=["true"], group="small")
    assert error.code == -32004
    assert {"code": "quota_exceeded", "quota": "groups.small.max_queued", "limit": 1}.items() <= error.data.items()
    assert error.data["retry_after"] > 0
    assert error.data["retryable"] is True
    message = house.submit("true", interactive=True)
    assert house.ended(message)["status"] == "completed"
    house.restart()
    assert house.get(waiting)["status"] == "queued"
    gate.open(2)
    house.ended(*running, waiting)
    gate.close()


def test_capacity_takes_the_quotas_of_source_and_submitter_into_account(build):
    house = build(QUOTAS)
    assert house("queue.capacity", source="automated")["max_queued"] == 1
    gate = house.gate()
    running = [house.sh(gate.wait) for _ in range(2)]
    house.begun(*running)
    assert house("queue.capacity")["state"] == "busy"
    house.submit("true", source="automated")
    full = house("queue.capacity", source="automated")
    assert (full["state"], full["max_queued"], full["retry_after"] > 0) == ("full", 1, True)
    assert house("queue.capacity", source="user")["state"] == "busy"
    assert house.refused("job.submit", command=["true"], source="automated").data["quota"] == (
        "quotas.source.automated.max_queued"
    )
    gate.open(2)
    house.ended(*running)
    gate.close()


def test_a_reload_takes_quotas_over_and_config_shows_them(build):
    house = build(QUOTAS)
    gate = house.gate()
    jobs = [house.sh(gate.wait) for _ in range(3)]
    house.begun(*jobs[:2])
    assert house.get(jobs[2])["status"] == "queued"
    house.configure(QUOTAS.replace("max_running = 2", "max_running = 3"))
    house.process.send_signal(signal.SIGHUP)
    house.begun(jobs[2])
    config = house("system.info")["config"]
    assert config["quotas"] == {"submitter": {"max_running": 3}, "source": {"automated": {"max_queued": 1}}}
    assert config["groups"] == {"small": {"max_queued": 1, "max_running": 1}}
    assert config["max_submissions_per_minute"] == 2
    gate.open(3)
    house.ended(*jobs)
    gate.close()


SPAWN = """
import json, os, socket
line = socket.socket(socket.AF_UNIX); line.connect(os.environ["OPUSD_SOCKET"]); file = line.makefile("rb")
for number in range(3):
    call = {"jsonrpc": "2.0", "id": number, "method": "job.submit", "params": {"command": ["true"]}}
    line.sendall(json.dumps(call).encode() + b"\\n")
    print(file.readline().decode(), end="")
"""


def test_a_runaway_agent_is_slowed_down_and_told_when_to_go_on(build):
    house = build(QUOTAS)
    job = house.python(SPAWN)
    house.ended(job)
    replies = [json.loads(line) for line in house.logs(job).splitlines()]
    assert ["result" in reply for reply in replies] == [True, True, False]
    data = replies[2]["error"]["data"]
    assert (data["code"], data["quota"], data["limit"]) == ("quota_exceeded", "max_submissions_per_minute", 2)
    assert 0 < data["retry_after"] <= 60


def window(hours):
    """One hour of the day that begins so many hours from now, in UTC."""
    begin = datetime.now(UTC) + timedelta(hours=hours)
    return f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}"


def in_hours(words, group=""):
    return f"""
[groups.night]
{group}
[agents.echo]
argv = ["true"]
stdin = "none"
window = "{words}"
timezone = "UTC"
"""


def test_jobs_wait_for_the_window_of_their_agent_and_humans_do_not(build):
    later = window(3)
    house = build(in_hours(later, f'window = "{later}"\ntimezone = "UTC"'))
    job = house.submit(agent="echo", prompt="x")
    assert job["reason"] == f"agent echo runs {later} UTC"
    grouped = house.submit("true", group="night")
    constraint, *_ = house("job.why", id=grouped["id"])["constraints"]
    assert (constraint["kind"], constraint["detail"]) == ("window", f"group night runs {later} UTC")
    opens = datetime.fromisoformat(constraint["until"])
    assert timedelta(hours=2) < opens - datetime.now(UTC) <= timedelta(hours=3)
    capacity = house("queue.capacity", agent="echo")
    assert capacity["state"] == "busy"
    assert house.ended(house.submit(agent="echo", prompt="x", interactive=True))["status"] == "completed"
    assert house("system.info")["config"]["windows"] == {"agent:echo": f"{later} UTC", "group:night": f"{later} UTC"}
    house.restart()
    assert house.get(job)["status"] == "queued"
    house.configure(in_hours(window(-0.5)))
    house("system.reload")
    assert [one["status"] for one in house.ended(job, grouped)] == ["completed"] * 2


def test_a_window_that_is_none_is_refused_by_name(build):
    house = build(in_hours("22-06"), start=False)
    status, said = house.refuse()
    assert status == 78
    assert "agents.echo.window: '22-06' is no window such as 22:00-06:00" in said


def test_too_little_memory_or_disk_holds_dispatch_and_everybody_says_so(build):
    house = build('min_free_memory = "1000TiB"\nmin_free_disk = "2000TiB"\n')
    job = house.submit("true")
    message = house.submit("true", interactive=True)
    words = house.until(lambda: house("job.why", id=job["id"])["constraints"])
    assert [one["kind"] for one in words][:2] == ["machine", "machine"]
    assert "of free memory and min_free_memory is 1024000 GiB" in words[0]["detail"]
    assert "free and min_free_disk is 2048000 GiB" in house.get(message)["reason"]
    assert [one.partition(" has ")[0] for one in house("system.info")["degraded"]] == [
        "the machine", "the disk of the state folder",
    ]  # fmt: skip
    assert house("system.info")["config"]["min_free_memory"] == 1000 << 40
    house.configure('min_free_memory = "1MiB"\nmin_free_disk = "off"\n')
    house("system.reload")
    assert [one["status"] for one in house.ended(job, message)] == ["completed"] * 2
    assert house("system.info")["degraded"] == []
    said = [line for line in house.said().splitlines() if "machine." in line]
    assert ["machine.short" in said[0], "machine.ready" in said[1]] == [True, True]
    assert "min_free_memory is 1024000 GiB" in said[0]
