from __future__ import annotations

import re
import threading

import pytest

LATER = "2099-11-24T09:02:05.000000Z"


def test_status_shows_the_daemon_the_pool_the_queue_and_what_runs(opusctl, daemon, status, info):
    daemon.answers |= {"queue.status": status(paused_agents=["codex"]), "system.info": info()}
    ran = opusctl("status")
    assert ran.code == 0
    for words in (
        "ready  0.1.0  up 2h  pid 4711", "1 of 3 slots busy, 1 more for people who wait", "agent codex",
        "1 running, 12 queued", "40 completed", "1 urgent, 12 normal",
    ):  # fmt: skip
        assert words in ran.out, words
    assert re.search(r"\n +5  normal  claude +\S+ +40%  Fix the login\n", ran.out)
    assert opusctl("status", "-q").out == "5\n"
    document = opusctl("status", "--json").json
    assert (document["pool"]["busy"], document["daemon"]["pid"]) == (1, 4711)


def test_status_fits_a_terminal_of_80_columns(on_terminal, daemon, status, info, job):
    running = [job(n, "running", title="A long title " * 9, agent="an-agent-of-a-long-name") for n in range(1, 4)]
    daemon.answers |= {"queue.status": status(running=running), "system.info": info()}
    ran = on_terminal("status")
    lines = re.sub(r"\x1b\[[\d;]*m", "", ran.out).splitlines()
    assert max(len(line) for line in lines) <= 80


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"ready": False}, 1), ({"degraded": ["the disk is full"]}, 1)])
def test_check_is_0_only_when_ready_and_not_degraded(changes, code, opusctl, daemon, status, info):
    daemon.answers |= {"queue.status": status(), "system.info": info(**changes)}
    assert opusctl("status", "--check").code == code
    assert opusctl("status").code == 0


@pytest.fixture
def silent(daemon, hang_up):
    """A daemon that listens and does not answer."""
    over = threading.Event()

    def answer(params):
        over.wait(10)
        raise hang_up

    daemon.answers |= {"queue.status": answer, "system.info": answer}
    yield daemon
    over.set()


def test_check_gives_a_daemon_that_does_not_answer_5_seconds(opusctl, silent, monkeypatch):
    from opusctl.commands import status

    assert status.PATIENCE == 5
    monkeypatch.setattr(status, "PATIENCE", 0.05)
    ran = opusctl("status", "--check")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines()[0] == "opusctl: no answer from the daemon within 0.05 s"
    ran = opusctl("status", "--check", "--json")
    assert ran.code == 3
    assert ran.json["error"]["data"] == {"code": "no_daemon", "retryable": True, "socket": silent.path}


def test_capacity_says_its_state_first(opusctl, daemon):
    daemon.answers["queue.capacity"] = {
        "state": "full", "running": 3, "slots": 3, "queued": 100, "max_queued": 100, "retry_after": 65.0,
        "estimated_start": LATER,
    }  # fmt: skip
    ran = opusctl("capacity", "claude", "--source", "automated")
    queued = "100 jobs queued of at most 100"
    assert ran.out == f"full: no job is taken, 3 of 3 slots busy, {queued}, starts {LATER}, try again in 1m 5s\n"
    assert daemon.sent("queue.capacity") == [{"agent": "claude", "source": "automated"}]
    assert opusctl("capacity", "-q").out == "full\n"


def test_agents_are_listed_with_their_state(opusctl, daemon):
    one = {"name": "claude", "slots": 2, "busy": 1, "queued": 4, "paused": False, "attempts": 10, "success_rate": 0.9}
    daemon.answers["agent.list"] = {
        "agents": [
            one,
            one | {"name": "codex", "cooling_until": LATER},
            one | {"name": "pull", "slots": 0, "paused": True},
        ]
    }
    lines = opusctl("agents").out.splitlines()
    assert lines[1].split() == ["claude", "1", "2", "4", "10", "90%", "ready"]
    assert lines[2].endswith(f"cooling until {LATER}")
    assert lines[3].split()[2:3] == ["pull"]
    assert lines[3].endswith("paused")
    assert opusctl("agents", "-q").out == "claude\ncodex\npull\n"


@pytest.mark.parametrize(
    ("words", "method", "sent"),
    [
        (["pause"], "queue.pause", {}),
        (["pause", "--agent", "claude"], "queue.pause", {"agent": "claude"}),
        (["resume", "--group", "g"], "queue.resume", {"group": "g"}),
    ],
)
def test_pause_and_resume_say_what_is_paused_then(words, method, sent, opusctl, daemon, status):
    daemon.answers[method] = status(paused=True, paused_groups=["g"])
    ran = opusctl(*words)
    assert (ran.code, ran.out, ran.err) == (0, "", "paused: everything, group g\n")
    assert daemon.sent(method) == [sent]
    assert opusctl(*words, "--json").json["paused"] is True


def test_pause_takes_an_agent_or_a_group(opusctl, daemon):
    assert opusctl("pause", "--agent", "a", "--group", "g").code == 2


def test_drain_ends_when_nothing_runs_or_with_124(opusctl, daemon, status):
    daemon.answers["queue.drain"] = [status(running=[]), status()]
    assert opusctl("drain").code == 0
    ran = opusctl("drain", "--timeout", "5m")
    assert ran.code == 124
    assert "1 job still running: 5" in ran.err
    assert daemon.sent("queue.drain") == [{}, {"timeout": 300}]


def test_resize_sets_the_pool_or_an_agent(opusctl, daemon):
    daemon.answers["pool.resize"] = {"max_concurrent": 5, "busy": 3, "interactive_slots": 1}
    assert "the pool runs 5 at once, 3 run now" in opusctl("resize", "5").err
    assert "claude runs 2 at once" in opusctl("resize", "2", "--agent", "claude").err
    assert daemon.sent("pool.resize") == [{"max_concurrent": 5}, {"max_concurrent": 2, "agent": "claude"}]


def test_prune_says_what_it_removed(opusctl, daemon):
    daemon.answers["job.prune"] = {"jobs": [1, 2], "dry_run": True}
    ran = opusctl("prune", "--before", "2025-11-01T00:00:00Z", "--status", "failed", "--dry-run")
    assert (ran.code, ran.out) == (0, "2 jobs would be removed\n")
    assert "titles, states and times stay" not in ran.err
    assert "titles, states and times stay" in opusctl("prune", "1", "2").err
    sent = {"before": "2025-11-01T00:00:00.000000Z", "status": ["failed"], "dry_run": True}
    assert daemon.sent("job.prune") == [sent, {"ids": [1, 2]}]
    assert opusctl("prune", "1", "2", "-q").out == "1\n2\n"
    assert opusctl("prune").code == 2


def test_backup_is_written_where_it_was_asked_from(opusctl, daemon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    daemon.answers["system.backup"] = lambda params: {"path": params["path"], "bytes": 4096}
    assert opusctl("backup", "copy.db").out == f"{tmp_path}/copy.db\n"


def test_config_prints_what_the_daemon_runs_with_and_the_bound(opusctl, daemon, info):
    config = {"bound_hours": 11.92, "max_concurrent": 3, "order": {"rate": 25}, "agents": {"claude": {"slots": 2}}}
    daemon.answers["system.info"] = info(config=config)
    ran = opusctl("config")
    assert ran.code == 0
    assert "max_concurrent = 3" in ran.out
    assert "[agents.claude]\nslots = 2" in ran.out
    assert "more than 11.9 hours" in ran.err
    assert opusctl("config", "--json").json == config
