from __future__ import annotations

import pytest

from opusctl.failure import EXIT_OF_CODE
from opusctl.verbs import VERBS

HEAVY = (
    "asyncio", "msgspec", "structlog", "rich", "typing", "dataclasses", "datetime", "shutil", "unicodedata",
    "inspect",
         "subprocess", "threading", "opusd", "aiosqlite", "sqlite3",
)  # fmt: skip
LATER = ("top", "stats", "metrics", "service", "completion", "mcp",
         "web", "nodes", "store")  # fmt: skip


def test_the_fast_path_imports_nothing_heavy_and_one_verb(daemon, status, info, run_python):
    daemon.answers |= {"queue.status": status(), "system.info": info()}
    program = (
        "import sys; known = set(sys.modules)\n"
        "from opusctl.__main__ import main\n"
        "code = main(['status'])\n"
        "print(code, *sorted(set(sys.modules) - known), file=sys.stderr)"
    )
    ran = run_python(program)
    code, *modules = ran.stderr.split()
    assert code == "0"
    assert not [module for module in modules if module.split(".")[0] in HEAVY]
    assert [module for module in modules if module.startswith("opusctl.commands.")] == ["opusctl.commands.status"]


def test_help_names_every_verb_of_now_and_none_of_later(opusctl):
    ran = opusctl("--help")
    assert ran.code == 0
    listed = [line.split()[0] for line in ran.out.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    assert set(VERBS) <= set(listed)
    assert not set(LATER) & set(listed)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_the_common_options(verb, opusctl):
    ran = opusctl(verb, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: opusctl {verb}")
    for option in ("--json", "--quiet", "--socket PATH"):
        assert option in ran.out
    assert opusctl("help", verb).out == ran.out


def test_an_unknown_verb_is_a_usage_error_that_names_the_nearest(opusctl):
    ran = opusctl("sumbit")
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean submit?" in ran.err
    assert "did you mean list?" in opusctl("ps").err


def test_an_unknown_option_names_the_nearest(opusctl):
    ran = opusctl("list", "--statsu", "queued")
    assert ran.code == 2
    assert "did you mean --status?" in ran.err


def test_options_may_stand_before_the_verb(opusctl, daemon, info):
    daemon.answers["system.info"] = info(config={"bound_hours": 11.9})
    assert opusctl("--json", "--socket", daemon.path, "config").json == {"bound_hours": 11.9}
    assert opusctl("--frob", "config").code == 2


def test_usage_errors_are_json_too(opusctl):
    ran = opusctl("sumbit", "--json")
    assert ran.code == 2
    assert ran.json["error"]["data"] == {"code": "usage", "retryable": False}
    assert ran.err == ""


def test_without_a_daemon_it_says_how_to_start_one(opusctl, tmp_path):
    ran = opusctl("list", "--socket", str(tmp_path / "none.sock"))
    assert (ran.code, ran.out) == (3, "")
    assert "systemctl --user start opusd" in ran.err
    ran = opusctl("list", "--json", "--socket", str(tmp_path / "none.sock"))
    assert ran.code == 3
    assert ran.json["error"]["data"]["code"] == "no_daemon"


def test_a_stale_socket_is_no_daemon(opusctl, tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale.sock"))
    ran = opusctl("list", "--socket", str(tmp_path / "stale.sock"))
    assert ran.code == 3
    assert "nobody listens" in ran.err


def test_a_socket_path_over_107_bytes_is_refused_by_name(opusctl):
    ran = opusctl("list", "--socket", "/tmp/" + "x" * 110)
    assert ran.code == 3
    assert "over 107 bytes" in ran.err


@pytest.mark.parametrize(
    ("code", "word", "ends"),
    [
        (-32001, "not_found", 4), (-32002, "conflict", 5), (-32003, "queue_full", 75), (-32004, "quota_exceeded", 75),
        (-32005, "forbidden", 6), (-32006, "dependency_error", 2), (-32007, "lease_lost", 5),
        (-32008, "shutting_down", 75), (-32009, "storage_unavailable", 75), (-32602, "invalid_params", 2),
        (-32603, "internal_error", 1), (-32601, "method_not_found", 1), (-32800, "cancelled", 1),
    ],
)  # fmt: skip
def test_each_error_of_the_wire_has_its_exit_code(code, word, ends, opusctl, daemon, refusal):
    def refuse(params):
        raise refusal(code, word, "because\x1b[2J")

    daemon.answers["job.get"] = refuse
    ran = opusctl("show", "5")
    assert (ran.code, ran.out) == (ends, "")
    assert "because\\x1b[2J" in ran.err
    ran = opusctl("show", "5", "--json")
    assert ran.code == ends
    error = ran.json["error"]
    assert (error["code"], error["data"]["code"]) == (code, word)


def test_the_exit_codes_know_every_error_of_the_daemon():
    from opusd.core import errors

    known = {one.code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.OpusError)}
    assert known <= set(EXIT_OF_CODE)


def test_a_daemon_that_goes_away_before_it_answers_is_no_daemon(opusctl, daemon, hang_up):
    def leave(params):
        raise hang_up

    daemon.answers["job.submit"] = leave
    ran = opusctl("submit", "-p", "x")
    assert ran.code == 3
    assert "may have been done" in ran.err


@pytest.mark.parametrize(
    ("words", "method", "reply"),
    [
        ("submit -p x", "job.submit", None),
        ("submit -p x", "job.submit", {"created": True}),
        ("submit -p x", "job.submit", {"job": None, "created": True}),
        ("submit -q -p x", "job.submit", ["job"]),
        ("show 5", "job.get", "five"),
        ("show 5", "job.get", {"id": 5}),
        ("list", "job.list", {"jobs": [7], "next_cursor": None}),
        ("list --all", "job.list", None),
        ("edit 5 --title t", "job.update", None),
        ("retry 5", "job.retry", {"jobs": None}),
        ("cancel 5 6", "job.cancel", 7),
        ("status", "queue.status", None),
        ("doctor", "system.info", []),
        ("agents", "agent.list", {}),
    ],
)
def test_a_reply_of_another_shape_is_one_line_that_names_the_call(words, method, reply, opusctl, daemon, info):
    daemon.answers["system.info"] = info()
    daemon.odd[method] = reply
    ran = opusctl(*words.split())
    assert (ran.code, ran.out) == (1, "")
    first, hint = ran.err.splitlines()
    assert first.startswith(f"opusctl: the daemon's reply to {method} is not understood; is it of another version? (")
    assert hint == "  what was asked may have been done; opusctl doctor compares the versions"


def test_a_reply_of_another_shape_is_json_for_scripts(opusctl, daemon):
    daemon.odd["job.wait"] = None
    ran = opusctl("wait", "5", "--json")
    assert (ran.code, ran.err) == (1, "")
    assert ran.json["error"]["data"]["code"] == "not_understood"


def test_an_error_of_our_own_is_not_laid_at_the_door_of_the_daemon(opusctl, daemon, job, monkeypatch):
    from opusctl.commands import show

    daemon.answers["job.get"] = job(5)
    daemon.answers["job.history"] = {"events": [], "attempts": [], "chain": []}
    monkeypatch.setattr(show, "Page", None)
    with pytest.raises(TypeError):
        opusctl("show", "5")


def test_a_reader_that_leaves_early_is_no_error(spawn, daemon, job):
    daemon.answers["job.list"] = {"jobs": [job(n, title="t" * 200) for n in range(900)], "next_cursor": None}
    process = spawn("list", "--all")
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr.read() == b""


def test_the_socket_is_looked_for_where_the_contract_says(monkeypatch):
    from opusctl.wire import socket_path

    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("OPUSD_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert socket_path() == "/home/u/.local/state/opusd/opusd.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert socket_path() == "/run/user/1/opusd/opusd.sock"
    monkeypatch.setenv("OPUSD_SOCKET", "/x.sock")
    assert socket_path() == "/x.sock"
    assert socket_path("/y.sock") == "/y.sock"
