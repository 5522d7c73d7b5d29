"""Schedules of a real daemon: over its socket, by opusctl, and over kill -9."""

import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

MINUTE = 60


def ahead(house, moment):
    """The daemon's wall clock will show this moment when it is started now."""
    house.program = (sys.executable, str(Path(__file__).with_name("clock_ahead.py")))
    house.env["CLOCK_AHEAD"] = str(moment - time.time())
    return house


def next_minute():
    return (time.time() // MINUTE + 1) * MINUTE


def stamp(moment):
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def firings(house, name):
    """The firings of a schedule that made a job, in the order of the jobs."""
    jobs = house("job.list", order="id", limit=1000)["jobs"]
    prefix = f"schedule:{name}:"
    return [job["key"].removeprefix(prefix) for job in jobs if (job["key"] or "").startswith(prefix)]


def test_a_schedule_is_added_listed_run_and_removed(house):
    job = {"command": ["sh", "-c", "echo nightly"], "cwd": str(house.work)}
    added = house("schedule.add", name="nightly", cron="0 3 * * *", timezone="Europe/Berlin", job=job)
    assert (added["name"], added["paused"], added["last_job"]) == ("nightly", False, None)
    assert added["next_at"].endswith(("T01:00:00.000000Z", "T02:00:00.000000Z"))
    assert house("schedule.list") == {"schedules": [added]}
    entered = house("schedule.run", name="nightly")
    assert entered["created"]
    ended = house.ended(entered["job"])
    assert (ended["status"], ended["source"], ended["submitted_by"]) == ("completed", "automated", "schedule:nightly")
    house.restart()
    assert house("schedule.list")["schedules"] == [added | {"last_job": ended["id"]}]
    house("schedule.remove", name="nightly")
    assert house("schedule.list") == {"schedules": []}
    assert house.refused("schedule.remove", name="nightly").data["code"] == "not_found"
    house.restart()
    assert house("schedule.list") == {"schedules": []}


def test_a_refusal_names_the_field_inside_of_the_job(house):
    refused = house.refused("schedule.add", name="n", cron="@daily", job={"prompt": "x", "agent": "nobody"})
    assert refused.data["path"] == "$.job.agent"
    assert house.refused("schedule.add", name="n", cron="@never", job={"command": ["true"]}).data["path"] == "$.cron"
    assert house.refused("schedule.list", name="n").data["code"] == "not_found"


@pytest.mark.slow
def test_a_firing_makes_a_job_that_runs_and_a_restart_makes_it_no_second_time(build):
    minute = next_minute()
    house = ahead(build(start=False), minute - 30).start()
    house("schedule.add", name="tick", cron="* * * * *", job={"command": ["true"], "cwd": str(house.work)})
    house.kill()
    ahead(house, minute - 1).start()
    job = house.until(lambda: house("job.list", status="completed")["jobs"])[0]
    assert (job["key"], job["submitted_by"]) == (f"schedule:tick:{stamp(minute)}", "schedule:tick")
    house.kill()
    ahead(house, minute + 5).start()
    assert firings(house, "tick") == [stamp(minute)]
    assert house("schedule.list")["schedules"][0]["last_job"] == job["id"]


def test_a_firing_that_a_full_queue_refused_enters_when_a_reload_makes_room(build):
    minute = next_minute()
    house = ahead(build("max_queued = 5\n", start=False), minute - 30).start()
    house("schedule.add", name="tick", cron="* * * * *", job={"agent": "pull"})
    house.submit(agent="pull")
    house.kill()
    house.configure("max_queued = 1\n")
    ahead(house, minute + 5).start()
    end = time.monotonic() + 10
    while house("schedule.list")["schedules"][0]["last_error"] is None:
        assert time.monotonic() < end, house.said()
    assert firings(house, "tick") == []
    house.configure("max_queued = 5\n")
    house("system.reload")
    house.until(lambda: firings(house, "tick") == [stamp(minute)])
    assert house("schedule.list")["schedules"][0]["last_error"] is None


@pytest.mark.slow
def test_daemons_that_are_killed_around_each_firing_make_one_job_of_each(build):
    chance = random.Random(7)
    minute = next_minute()
    house = ahead(build(start=False), minute - 30).start()
    for name, misfire in (("each", "all"), ("late", "once")):
        house("schedule.add", name=name, cron="* * * * *", misfire=misfire, job={"agent": "pull"})
    rounds = 7
    for number in range(rounds):
        house.kill()
        ahead(house, minute + number * MINUTE - chance.uniform(0.3, 0.9)).start()
        time.sleep(chance.uniform(0, 0.5))
    house.kill()
    ahead(house, minute + rounds * MINUTE - 30).start()
    expected = [stamp(minute + number * MINUTE) for number in range(rounds)]
    house.until(lambda: all(expected[-1] in firings(house, name) for name in ("each", "late")))
    assert firings(house, "each") == expected
    late = firings(house, "late")
    assert late == sorted(set(late))
    assert set(late) <= set(expected)


def test_opusctl_adds_a_schedule_lists_it_and_runs_it(house):
    def opusctl(*words):
        program = [sys.executable, "-m", "opusctl", words[0], "--socket", str(house.socket), *words[1:]]
        ran = subprocess.run(program, capture_output=True, text=True, env=house.env, cwd=house.work, check=True)
        return ran.stdout

    assert opusctl("schedule", "-q", "add", "tick", "--cron", "@hourly", "--", "echo", "tock") == "tick\n"
    assert (
        opusctl("submit", "-q", "--cron", "0 3 * * *", "--", "echo", "deep in the night") == "echo-deep-in-the-night\n"
    )
    assert opusctl("schedule", "list", "-q") == "echo-deep-in-the-night\ntick\n"
    assert "@hourly" in opusctl("schedule", "show", "tick")
    number = int(opusctl("schedule", "run", "tick"))
    assert house.ended(number)["status"] == "completed"
    assert house.logs(number) == "tock\n"
    assert "paused" in opusctl("schedule", "pause", "tick")
    assert opusctl("schedule", "remove", "-q", "tick") == "tick\n"
