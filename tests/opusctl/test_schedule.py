from __future__ import annotations

import json
import time

import pytest

from opusctl.text import epoch

HERE = epoch("2025-11-25T22:00:00Z")


@pytest.fixture(autouse=True)
def _berlin(monkeypatch):
    """It is 23:00 in Berlin, where opusctl is."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    for module in ("opusctl.schedules", "opusctl.commands.schedule"):
        monkeypatch.setattr(f"{module}.now", lambda: HERE)
    yield
    monkeypatch.undo()
    time.tzset()


def one(name: str = "nightly", **fields: object) -> dict[str, object]:
    return {
        "name": name, "cron": "0 3 * * *", "timezone": "Europe/Berlin", "misfire": "once", "overlap": "queue",
        "paused": False, "next_at": "2025-11-26T02:00:00.000000Z", "last_at": None, "last_job": None,
        "last_error": None, "job": {"command": ["make", "clean"], "cwd": "/srv"},
    } | fields  # fmt: skip


@pytest.fixture
def adding(daemon):
    daemon.answers["schedule.add"] = lambda asked: one(asked["name"], cron=asked["cron"])
    return daemon


def test_add_takes_the_options_of_submit_and_says_when_it_is_next(opusctl, adding):
    ran = opusctl(
        "schedule", "add", "nightly", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--misfire", "all",
        "--overlap", "skip", "--replace", "--group", "chores", "--cwd", "/srv", "--", "make", "-j4", "clean",
    )  # fmt: skip
    assert (ran.code, ran.out) == (0, "nightly: 0 3 * * * Europe/Berlin; next 2025-11-26 03:00 CET, in 4h\n")
    assert adding.sent("schedule.add") == [
        {
            "name": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin", "misfire": "all", "overlap": "skip",
            "replace": True, "job": {"command": ["make", "-j4", "clean"], "group": "chores", "cwd": "/srv"},
        }
    ]  # fmt: skip


def test_what_is_not_said_is_left_to_the_daemon(opusctl, adding):
    assert opusctl("schedule", "add", "n", "--cron", "@daily", "-p", "tidy", "--cwd", "/srv", "-q").out == "n\n"
    assert adding.sent("schedule.add") == [{"name": "n", "cron": "@daily", "job": {"prompt": "tidy", "cwd": "/srv"}}]


def test_a_file_of_one_job_may_be_scheduled_and_a_list_may_not(opusctl, adding, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"prompt": "tidy", "cwd": "/srv"}))
    assert opusctl("schedule", "add", "n", "--cron", "@daily", "--file", str(path)).code == 0
    assert adding.sent("schedule.add")[0]["job"] == {"prompt": "tidy", "cwd": "/srv"}
    path.write_text(json.dumps([{"prompt": "tidy"}]))
    ran = opusctl("schedule", "add", "n", "--cron", "@daily", "--file", str(path))
    assert ran.code == 2
    assert "a schedule submits one job" in ran.err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--name", "nightly", "-p", "Tidy up"], "nightly"),
        (["-p", "Tidy up, please!\nAll of it"], "tidy-up-please"),
        (["--title", "Clean the cache", "--", "make"], "clean-the-cache"),
        (["--", "make", "-j4", "clean"], "make-j4-clean"),
        (["-p", "word " * 50], "-".join(["word"] * 8)),
    ],
)
def test_submit_with_cron_adds_a_schedule_named_after_what_it_does(opusctl, adding, words, name):
    split = words.index("--") if "--" in words else len(words)
    ran = opusctl("submit", "--cron", "0 3 * * *", *words[:split], *words[split:])
    assert ran.code == 0
    [asked] = adding.sent("schedule.add")
    assert (asked["name"], asked["cron"]) == (name, "0 3 * * *")
    assert not adding.sent("job.submit")


LISTED = [
    one(last_job=41),
    one("review", cron="@hourly", timezone=None, paused=True, next_at=None),
    one("broken", last_error="no such agent", next_at="2025-11-25T22:00:30.000000Z"),
]


def test_schedules_are_listed_with_their_next_firing_on_the_clock_here(opusctl, daemon):
    daemon.answers["schedule.list"] = {"schedules": LISTED}
    ran = opusctl("schedule")
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in ran.out.splitlines()]
    assert rows == [
        ["NAME", "WHEN", "NEXT", "IN", "LAST JOB", "STATE"],
        ["nightly", "0 3 * * * Europe/Berlin", "2025-11-26 03:00 CET", "in 4h", "41", "ok"],
        ["review", "@hourly", "-", "-", "-", "paused"],
        ["broken", "0 3 * * * Europe/Berlin", "2025-11-25 23:00 CET", "in 30s", "-", "no such agent"],
    ]  # fmt: skip
    assert opusctl("schedule", "list", "-q").out == "nightly\nreview\nbroken\n"
    assert opusctl("schedule", "list", "--json").json == {"schedules": LISTED}


def test_without_schedules_it_says_how_to_add_one(opusctl, daemon):
    daemon.answers["schedule.list"] = {"schedules": []}
    ran = opusctl("schedule")
    assert (ran.code, ran.out) == (0, "")
    assert "schedule add" in ran.err


def test_show_prints_all_about_one(opusctl, daemon):
    daemon.answers["schedule.list"] = {"schedules": [one(last_at="2025-11-25T02:00:00.000000Z", last_error="full")]}
    ran = opusctl("schedule", "show", "nightly")
    shown = dict(line.split(maxsplit=1) for line in ran.out.replace("last job", "last-job").splitlines())
    assert shown["when"] == "0 3 * * * Europe/Berlin"
    assert shown["next"] == "next 2025-11-26 03:00 CET, in 4h"
    assert shown["last"] == "2025-11-25 03:00 CET, 20h ago"
    assert shown["error"] == "full"
    assert shown["job.command"] == '["make", "clean"]'
    assert daemon.sent("schedule.list") == [{"name": "nightly"}]
    assert opusctl("schedule", "show", "nightly", "--json").json["name"] == "nightly"


@pytest.mark.parametrize(("moment", "words"), [("2025-11-25T21:00:00.000000Z", "due now"), (None, "never again")])
def test_a_firing_that_is_owed_is_due_now(opusctl, daemon, moment, words):
    daemon.answers["schedule.list"] = {"schedules": [one(next_at=moment)]}
    assert words in opusctl("schedule", "show", "nightly").out


def test_several_are_paused_and_resumed_at_once(opusctl, daemon):
    daemon.answers["schedule.pause"] = lambda asked: one(asked["name"], paused=True, next_at=None)
    daemon.answers["schedule.resume"] = lambda asked: one(asked["name"])
    ran = opusctl("schedule", "pause", "a", "b")
    assert ran.out == "a: 0 3 * * * Europe/Berlin; paused\nb: 0 3 * * * Europe/Berlin; paused\n"
    assert opusctl("schedule", "resume", "a", "-q").out == "a\n"
    assert [asked["name"] for asked in daemon.sent("schedule.pause")] == ["a", "b"]


def test_run_prints_the_id_of_its_job(opusctl, daemon, job):
    daemon.answers["schedule.run"] = {"job": job(7), "created": True}
    ran = opusctl("schedule", "run", "nightly")
    assert (ran.code, ran.out) == (0, "7\n")
    assert "submitted job 7 to claude" in ran.err
    assert opusctl("schedule", "run", "nightly", "--json").json["created"]


def test_remove_says_that_its_jobs_stay(opusctl, daemon):
    daemon.answers["schedule.remove"] = {}
    assert opusctl("schedule", "remove", "nightly").out == "nightly: removed; its jobs stay\n"
    assert opusctl("schedule", "remove", "nightly", "-q").out == "nightly\n"
    assert opusctl("schedule", "remove", "nightly", "--json").json == {"removed": "nightly"}


def test_one_that_is_not_there_is_not_found_and_keeps_the_others_from_nothing(opusctl, daemon, refusal):
    def remove(asked):
        if asked["name"] == "nobody":
            raise refusal(-32001, "not_found", "there is no schedule 'nobody'")
        return {}

    daemon.answers["schedule.remove"] = remove
    ran = opusctl("schedule", "remove", "nobody", "nightly")
    assert (ran.code, ran.out) == (4, "nightly: removed; its jobs stay\n")
    assert "there is no schedule 'nobody'" in ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add"], "takes one NAME"),
        (["add", "n", "-p", "x"], "when?"),
        (["add", "n", "--cron", "@daily"], "nothing to submit"),
        (["add", "n", "make", "--cron", "@daily"], "takes one NAME"),
        (["add", "n", "--cron", "@daily", "--interactive", "-p", "x"], "--interactive is for one job"),
        (["add", "n", "--cron", "@daily", "--misfire", "twice", "-p", "x"], "invalid choice"),
        (["list", "n"], "takes no NAME"),
        (["pause"], "takes the NAME"),
        (["delete", "n"], "can't delete"),
        (["pause", "n", "--cron", "@daily"], "--cron goes with schedule add"),
        (["run", "n", "--group", "g"], "takes no group"),
        (["run", "n", "--", "make"], "takes no command"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_sent(words, says, opusctl, daemon):
    ran = opusctl("schedule", *words)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert not daemon.calls


def test_the_terminal_gets_no_control_characters_of_a_schedule(on_terminal, daemon):
    daemon.answers["schedule.list"] = {"schedules": [one("evil\x1b[2J", last_error="\x1b]0;title\x07")]}
    ran = on_terminal("schedule", columns=140)
    assert "\x1b[2J" not in ran.out
    assert "\x1b]0" not in ran.out
