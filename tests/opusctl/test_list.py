from __future__ import annotations

import json
import re

import pytest


@pytest.fixture
def stocked(daemon, job):
    """Something in every state."""
    jobs = {
        "running": [job(3, "running", tier="urgent", progress={"fraction": 0.5, "message": None})],
        "queued": [job(4, title="日本語のとても長い題名" * 5), job(5, position=2, ahead=1, title="evil\x1b[2J\nline")],
        "completed": [job(1, "completed")],
    }

    def page(params):
        assert isinstance(params["status"], list)
        return {"jobs": jobs.get(params["status"][0], []), "next_cursor": None}

    daemon.answers["job.list"] = page
    return daemon


def test_what_is_unfinished_comes_first_then_the_latest(opusctl, stocked):
    ran = opusctl("list")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["ID", "3", "4", "5", "1"]
    orders = [call["order"] for call in stocked.sent("job.list")]
    assert orders == ["id", "score", "id", "-completed_at"]
    assert stocked.sent("job.list")[1]["status"] == ["queued"]  # the others have no score


def test_piped_columns_are_words_and_the_title_is_whole(opusctl, stocked):
    ran = opusctl("list")
    lines = ran.out.splitlines()
    assert lines[1].split(None, 6) == [
        "3",
        "running",
        "urgent",
        "claude",
        "2025-11-24T09:00:00.000000Z",
        "-",
        "Fix the login",
    ]
    assert lines[2].split(None, 6)[-1] == "日本語のとても長い題名" * 5
    assert lines[3].split(None, 6)[-1] == "evil\\x1b[2J\\nline"
    assert "\x1b" not in ran.out


def test_ids_alone_and_json(opusctl, stocked):
    assert opusctl("list", "-q").out == "3\n4\n5\n1\n"
    assert [job["id"] for job in opusctl("list", "--json").json["jobs"]] == [3, 4, 5, 1]


def test_filters_are_those_of_the_method(opusctl, daemon):
    daemon.answers["job.list"] = {"jobs": [], "next_cursor": None}
    words = [
        "--status", "failed,expired", "--tier", "urgent", "--type", "bug", "--agent", "claude", "--agent", "codex",
        "--source", "user", "--label", "for:me", "--group", "g", "--parent", "3", "--text", "login",
        "--since", "2025-11-01T00:00:00Z", "--until", "2025-12-01T00:00:00Z", "--time", "completed", "--dead", "--full",
        "--order", "-completed_at", "--limit", "7", "--cursor", "c",
    ]  # fmt: skip
    ran = opusctl("list", *words)
    assert (ran.code, ran.out, ran.err) == (0, "", "no jobs\n")
    assert daemon.sent("job.list") == [
        {
            "status": ["failed", "expired"], "tier": "urgent", "type": "bug", "agent": ["claude", "codex"],
            "source": "user", "label": "for:me", "group": "g", "parent": 3, "text": "login",
            "since": "2025-11-01T00:00:00.000000Z", "until": "2025-12-01T00:00:00.000000Z", "time": "completed",
            "dead": True, "full": True, "order": "-completed_at", "limit": 7, "cursor": "c",
        }
    ]  # fmt: skip


def test_more_jobs_than_shown_are_hinted_at_on_stderr(opusctl, daemon, job):
    daemon.answers["job.list"] = lambda params: {"jobs": [job(n) for n in range(params["limit"])], "next_cursor": "c"}
    ran = opusctl("list", "-s", "queued")
    assert len(ran.out.splitlines()) == 51
    assert "there are more" in ran.err
    assert opusctl("list", "-s", "queued", "--json").json["next_cursor"] == "c"


@pytest.fixture
def crowded(daemon, job):
    """2,300 jobs in every state, a thousand a page at most as the daemon gives them."""

    def page(params):
        assert 1 <= params["limit"] <= 1000
        start = int(params.get("cursor") or 0)
        end = min(start + params["limit"], 2300)
        of_state = {"running": 10_000, "queued": 20_000, "held": 30_000, "completed": 40_000}
        kind = next(number for status, number in of_state.items() if status in params["status"])
        jobs = [job(kind + n) for n in range(start, end)]
        return {"jobs": jobs, "next_cursor": str(end) if end < 2300 else None}

    daemon.answers["job.list"] = page
    return daemon


@pytest.mark.parametrize("number", [1, 1000, 1001, 2299])
def test_a_limit_above_a_page_is_held_by_a_filter(number, opusctl, crowded):
    ran = opusctl("list", "-q", "-s", "queued", "-n", str(number))
    assert ran.out.split() == [str(20_000 + n) for n in range(number)]
    assert json.loads(opusctl("list", "--json", "-s", "queued", "-n", str(number)).out)["next_cursor"] == str(number)


@pytest.mark.parametrize("number", [1, 999, 1500, 2300, 5000, 9200])
def test_a_limit_above_a_page_is_held_without_a_filter(number, opusctl, crowded):
    ran = opusctl("list", "-n", str(number))
    every = [str(kind + n) for kind in (10_000, 20_000, 30_000, 40_000) for n in range(2300)]
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == every[:number]
    more = "" if number == 9200 else f"{number:,} job{'s' if number > 1 else ''} shown, there are more: "
    assert ran.err == (f"{more}a higher --limit, --all or a filter shows them\n" if more else "")


@pytest.mark.parametrize("verb", ["list", "dead"])
@pytest.mark.parametrize("number", ["0", "-5", "many"])
def test_a_limit_is_a_number_from_1_on(verb, number, opusctl, daemon):
    ran = opusctl(verb, "-n", number)
    assert (ran.code, ran.out) == (2, "")
    assert f"-n/--limit: not a number from 1 on: '{number}'" in ran.err
    assert not daemon.calls


def test_all_reads_every_page(opusctl, daemon, job):
    daemon.answers["job.list"] = [
        {"jobs": [job(9), job(8)], "next_cursor": "c"},
        {"jobs": [job(7)], "next_cursor": None},
    ]
    ran = opusctl("list", "--all", "-q")
    assert (ran.out, ran.err) == ("9\n8\n7\n", "")
    assert daemon.sent("job.list")[1]["cursor"] == "c"


def test_a_terminal_of_80_columns_shows_every_job_on_one_line(on_terminal, stocked):
    ran = on_terminal("list")
    assert ran.code == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", ran.out)
    from opusctl.text import width

    lines = plain.splitlines()
    assert len(lines) == 5
    assert max(width(line) for line in lines) <= 80
    assert "● running" in lines[1]
    assert lines[2].endswith("…")
    assert re.search(r"\d+d ago|20\d\d-", lines[1])
    assert "evil\\x1b[2J\\nline" in lines[3]
    assert "\x1b[32m" in ran.out
    starts = {line.index("Fix") if "Fix" in line else None for line in (lines[1], lines[4])}
    assert starts == {lines[0].index("TITLE")}


def test_no_color_and_dumb_terminals_get_no_colour(on_terminal, stocked):
    assert "\x1b" not in on_terminal("list", NO_COLOR="1").out
    assert "\x1b" not in on_terminal("list", TERM="dumb").out


def test_json_on_a_terminal_holds_no_control_character(on_terminal, daemon, job):
    daemon.answers["job.get"] = job(5, title="\x1b[2J\x9b1m\x7f\u202e")
    ran = on_terminal("show", "5", "--json")
    assert json.loads(ran.out)["title"] == "\x1b[2J\x9b1m\x7f\u202e"
    assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e" for c in ran.out)


def test_dead_letters_are_counted_by_agent_and_class(opusctl, daemon, job):
    timed_out = {"class": "timeout", "message": "no end after 2 h", "exit_code": None, "signal": 15}
    jobs = [job(9, "failed"), job(8, "failed", error=timed_out), job(7, "failed")]
    daemon.answers["job.list"] = {"jobs": jobs, "next_cursor": None}
    ran = opusctl("dead")
    assert ran.code == 0
    assert ran.out.splitlines()[:2] == ["    2  claude  agent_error", "    1  claude  timeout"]
    assert "Fix the login: no end after 2 h" in ran.out
    assert daemon.sent("job.list")[0]["dead"] is True
    assert opusctl("dead", "-q", "-n", "2").out == "9\n8\n"
    assert opusctl("dead", "--json").json["counts"][0] == {"agent": "claude", "class": "agent_error", "jobs": 2}
