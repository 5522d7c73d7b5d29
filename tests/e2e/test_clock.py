"""The wall's clock jumps under a living daemon: libfaketime changes what it shows, and leaves the monotonic one alone.

Agents have the real clock: nothing of the daemon's preloading reaches them.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = pytest.mark.skipif(
    LIBRARY is None,
    reason="libfaketime is not installed: no clock of a living daemon was set (apt-get install faketime)",
)
HOUR, DAY = 3600, 24 * 3600
BACKOFF, TIMEOUT = 1.5, 2.0


class WallClock:
    """What the daemons of a test take for the wall's clock: the machine's, and so many seconds more."""

    def __init__(self, folder):
        self._file = folder / "faketime"
        self.jump_to(time.time())
        self.env = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its name in older versions
            "NO_FAKE_STAT": "1",
        }

    def jump_to(self, moment):
        """Seconds since 1970, from now on."""
        self.ahead = moment - time.time()
        new = self._file.with_suffix(".new")
        new.write_text(f"{self.ahead:+.6f}\n")
        new.rename(self._file)

    def jump(self, seconds):
        self.jump_to(self.now() + seconds)

    def now(self):
        return time.time() + self.ahead


@pytest.fixture
def wall(tmp_path):
    return WallClock(tmp_path)


def at(moment):
    return datetime.fromtimestamp(moment, UTC).isoformat()


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


def look(house):
    """Have the daemon decide something: it looks at the clock then, and otherwise within half a minute."""
    house("queue.resume")


def events(house, job):
    return [event["kind"] for event in house("job.history", id=job["id"])["events"]]


def stamps(path):
    """The monotonic seconds at which the attempts of a job began, by its own clock."""
    return [float(line.split()[0]) for line in path.read_text().splitlines()]


JUMPS = {"an hour back": lambda now: now - HOUR, "three days on": lambda now: now + 3 * DAY, "to 1970": lambda _: HOUR}


@pytest.mark.parametrize("where", JUMPS)
def test_what_lasts_a_while_does_not_notice_a_jump(where, build, wall):
    house = build("max_concurrent = 8\n", env=wall.env)
    gate, begun = house.gate(), house.work / "begun"
    running = house.sh(gate.wait, timeout="1h")
    waiting = house.submit(agent="pull", expires_in="1h")
    before = time.monotonic()
    brief = house.sh(gate.wait, timeout=TIMEOUT)
    house.begun(running, brief)
    again = {"strategy": "linear", "base": BACKOFF, "cap": 60, "jitter": 0}
    failing = house.sh(f"cat /proc/uptime >> {begun}; test $OPUS_ATTEMPT = 2", retry=again, max_retries=1)
    house.until(lambda: "job.retrying" in events(house, failing))
    wall.jump_to(JUMPS[where](wall.now()))
    look(house)
    assert "clock.jumped" in house.said()
    shown = house.get(running)
    assert shown["status"] == "running"
    assert seconds(shown["timeout_at"]) == pytest.approx(wall.now() + HOUR, abs=10)
    assert seconds(house.get(waiting)["expires_at"]) == pytest.approx(wall.now() + HOUR, abs=10)
    assert house.ended(brief)["error"]["class"] == "timeout"
    assert time.monotonic() - before >= TIMEOUT
    assert house.ended(failing)["status"] == "completed"
    first, second = stamps(begun)
    assert second - first >= BACKOFF - 0.02  # the stamps are of 10 ms
    assert (house.get(waiting)["status"], house.get(waiting)["position"]) == ("queued", 1)
    gate.open()
    assert house.ended(running)["status"] == "completed"
    assert seconds(house.get(running)["completed_at"]) == pytest.approx(wall.now(), abs=10)


def test_a_job_of_a_wall_time_starts_when_the_wall_says_so(build, wall):
    house = build(env=wall.env)
    soon, later = (house.submit("true", run_at=at(wall.now() + wait)) for wait in (HOUR, 2 * DAY))
    wall.jump(-DAY)
    look(house)
    assert {house.get(job)["status"] for job in (soon, later)} == {"scheduled"}
    wall.jump(DAY + HOUR)
    look(house)
    assert house.ended(soon)["status"] == "completed"
    assert house.get(later)["status"] == "scheduled"
    wall.jump(2 * DAY)
    look(house)
    assert house.ended(later)["status"] == "completed"


def test_a_jump_while_no_daemon_runs_costs_its_agents_nothing(build, wall):
    house = build(env=wall.env)
    gate = house.gate()
    job = house.sh(f"{gate.wait}; echo done", timeout="1h")
    house.begun(job)
    waiting = house.submit(agent="pull", expires_in="1h")
    for moment in (wall.now() + 3 * DAY, 0.5 * HOUR):
        house.kill()
        wall.jump_to(moment)
        house.start()
        shown = house.get(job)
        assert (shown["status"], shown["attempts"]) == ("running", 1)
        assert seconds(shown["timeout_at"]) == pytest.approx(wall.now() + HOUR, abs=10)
        assert house.get(waiting)["status"] == "queued"
    gate.open()
    done = house.ended(job)
    assert (done["status"], done["result"]["summary"]) == ("completed", "done")


def test_a_daemon_that_starts_in_1970_works_and_its_agents_have_the_real_clock(build, wall):
    wall.jump_to(60)
    house = build(env=wall.env)
    job = house.sh("date +%Y; env")
    done = house.ended(job)
    assert done["created_at"].startswith("1970-01-01T00:01")
    said = house.logs(job)
    assert int(said.split()[0]) >= 2024
    assert "FAKE" not in said
    assert "LD_PRELOAD" not in said
    assert [one["id"] for one in house("job.list", since="1970-01-01T00:00:00Z")["jobs"]] == [job["id"]]


SPRING, AUTUMN = "2026-03-29T01:00:00+00:00", "2026-10-25T01:00:00+00:00"


@pytest.mark.parametrize(("change", "window"), [(SPRING, "03:00-04:00"), (AUTUMN, "02:00-03:00")])
def test_summer_time_begins_and_ends_without_a_jump(change, window, build, wall):
    config = f"""
[agents.exec]
slots = 4
[agents.night]
argv = ["true"]
window = "{window}"
timezone = "Europe/Berlin"
"""
    wall.jump_to(seconds(change) - 1.5)
    house = build(config, env={**wall.env, "TZ": "Europe/Berlin"})
    gate = house.gate()
    running = house.sh(gate.wait, timeout="1h")
    night = house("job.submit", agent="night", prompt="x", cwd="/")["job"]
    house.begun(running)
    done = house.ended(night)
    assert done["status"] == "completed"
    if change == SPRING:  # from 02:00 it is 03:00 at once, and not before
        assert seconds(done["started_at"]) >= seconds(change)
    house.ended(house.submit("true", run_at=at(seconds(change) + 0.1)))  # then it is over
    assert house.ended(house("job.submit", agent="night", prompt="x", cwd="/")["job"])["status"] == "completed"
    assert house.get(running)["status"] == "running"
    assert "clock.jumped" not in house.said()
    gate.open()
    assert house.ended(running)["status"] == "completed"
