"""Schedules of a real daemon: over its socket, and over kill -9."""

NEVER = "0 0 29 2 *"


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
