from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from opusctl.jobfile import BATCH_BYTES, batches


@pytest.fixture
def accepting(daemon, job):
    """A daemon that takes every job, with ids from 1 on."""
    taken = iter(range(1, 10_000))

    def one(spec):
        return {"job": job(next(taken), key=spec.get("key")), "created": True}

    daemon.answers["job.submit"] = one
    daemon.answers["job.submit_batch"] = lambda params: {"jobs": [one(spec) for spec in params["jobs"]]}
    return daemon


def stdin(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_a_prompt_is_submitted_from_this_folder_and_the_id_alone_is_data(opusctl, accepting):
    ran = opusctl("submit", "-p", "Fix the login")
    assert (ran.code, ran.out) == (0, "1\n")
    assert ran.err == "submitted job 1 to claude: waits for a slot\n"
    assert accepting.sent("job.submit") == [{"prompt": "Fix the login", "cwd": str(Path.cwd())}]


def test_a_command_is_kept_word_for_word(opusctl, accepting):
    assert opusctl("submit", "--title", "t", "--", "make", "--json", "-q", "--", "a b").code == 0
    (spec,) = accepting.sent("job.submit")
    assert spec["command"] == ["make", "--json", "-q", "--", "a b"]
    assert spec["title"] == "t"


def test_every_field_of_a_job_spec_has_its_option(opusctl, accepting):
    from opusd.api.types import JobSpec

    words = [
        "--agent", "claude", "--priority", "7", "--boost", "-5", "--title", "t", "--type", "bug", "--group", "g",
        "--parent", "3", "--label", "a", "--label", "for:me", "--depends-on", "4:any:run", "--depends-on", "lint",
        "--key", "k", "--delay", "10m", "--expires-in", "7d", "--timeout", "1h", "--max-retries", "2",
        "--retry", '{"strategy": "linear", "base": "5s"}', "--need", "gpu=2", "--need", "repo:/x", "--worktree",
        "--verify", "make 'a b'", "--held", "--interactive", "--source", "user", "--payload", '{"n": 1}',
        "--metadata", '{"m": [2]}', "--env", "A=b=c", "--env-from", "TOKEN", "--env-from", "KEY=OTHER",
        "--env-file", "SECRET=/etc/x", "--cwd", "/srv/app",
    ]  # fmt: skip
    assert opusctl("submit", *words, "-p", "x").code == 0
    assert opusctl("submit", "--run-at", "2030-01-01T00:00:00Z", "--no-worktree", "--", "true").code == 0
    one, two = accepting.sent("job.submit")
    assert one == {
        "prompt": "x", "agent": "claude", "priority": 7, "boost": -5, "title": "t", "type": "bug", "group": "g",
        "parent": 3, "labels": ["a", "for:me"], "depends_on": [{"job": 4, "on": "any", "if_unmet": "run"}, "lint"],
        "key": "k", "delay": 600, "expires_in": 604800, "timeout": 3600, "max_retries": 2,
        "retry": {"strategy": "linear", "base": "5s"}, "needs": {"gpu": 2, "repo:/x": 1}, "worktree": True,
        "verify": ["make", "a b"], "held": True, "interactive": True, "source": "user", "payload": {"n": 1},
        "metadata": {"m": [2]}, "cwd": "/srv/app",
        "env": {"A": "b=c", "TOKEN": {"from_env": "TOKEN"}, "KEY": {"from_env": "OTHER"},
                "SECRET": {"from_file": "/etc/x"}},
    }  # fmt: skip
    assert two == {
        "command": ["true"],
        "run_at": "2030-01-01T00:00:00.000000Z",
        "worktree": False,
        "cwd": str(Path.cwd()),
    }
    assert {*one, *two} == set(JobSpec.__struct_fields__)


def test_the_default_priority_is_sent_when_it_is_said(opusctl, accepting):
    assert opusctl("submit", "--priority", "normal", "--", "true").code == 0
    assert accepting.sent("job.submit")[0]["priority"] == "normal"


@pytest.mark.parametrize("prompt", ["-quick fix", "- one\n- two", "-x", "--like this=that", "a=b"])
def test_a_prompt_may_begin_with_a_dash(prompt, opusctl, accepting):
    assert opusctl("submit", "--title", "-t", "-p", prompt, "-q").code == 0
    assert accepting.sent("job.submit")[0]["prompt"] == prompt
    assert accepting.sent("job.submit")[0]["title"] == "-t"


def test_an_option_is_never_the_value_of_another(opusctl, accepting):
    ran = opusctl("submit", "-p", "x", "--title", "--wait")
    assert ran.code == 2
    assert "expected one argument" in ran.err


def test_a_prompt_comes_from_stdin(opusctl, accepting, monkeypatch):
    stdin(monkeypatch, "Überprüfe\nalles\n".encode())
    assert opusctl("submit", "-p", "-").code == 0
    assert accepting.sent("job.submit")[0]["prompt"] == "Überprüfe\nalles\n"
    stdin(monkeypatch, b"\xff\xfe")
    ran = opusctl("submit", "-p", "-")
    assert ran.code == 2
    assert "not UTF-8" in ran.err


def test_quiet_prints_the_id_alone_and_json_the_reply(opusctl, accepting):
    ran = opusctl("submit", "-q", "-p", "x")
    assert (ran.out, ran.err) == ("1\n", "")
    ran = opusctl("submit", "--json", "-p", "x")
    assert ran.json["job"]["id"] == 2
    assert ran.json["created"] is True


def test_a_key_in_use_says_that_nothing_changed(opusctl, daemon, job):
    daemon.answers["job.submit"] = {"job": job(7, "completed", key="k"), "created": False}
    ran = opusctl("submit", "--key", "k", "-p", "x")
    assert (ran.code, ran.out) == (0, "7\n")
    assert "nothing was changed. It completed" in ran.err


def test_a_file_with_an_object_is_one_job_and_options_lie_over_it(opusctl, accepting, tmp_path):
    file = tmp_path / "job.json"
    file.write_text('{"prompt": "x", "group": "a",\n "cwd": "/srv"}')
    assert opusctl("submit", "--file", str(file), "--group", "b").out == "1\n"
    assert accepting.sent("job.submit") == [{"prompt": "x", "group": "b", "cwd": "/srv"}]


@pytest.mark.parametrize("text", ['[{"prompt": "a"}, {"prompt": "b"}]', '{"prompt": "a"}\n\n{"prompt": "b"}\n'])
def test_a_list_or_a_job_a_line_is_one_batch(text, opusctl, accepting, monkeypatch):
    stdin(monkeypatch, text.encode())
    ran = opusctl("submit", "--file", "-")
    assert (ran.code, ran.out) == (0, "1\n2\n")
    assert "submitted 2 jobs" in ran.err
    (batch,) = accepting.sent("job.submit_batch")
    assert [spec["prompt"] for spec in batch["jobs"]] == ["a", "b"]
    assert {spec["cwd"] for spec in batch["jobs"]} == {str(Path.cwd())}


def test_the_talk_after_a_submit_tells_reason_and_place(opusctl, daemon, job):
    daemon.answers["job.submit"] = [
        {"job": job(7, reason="the queue is paused", position=3, ahead=5), "created": True},
        {"job": job(8, "blocked", reason="job 2 must complete"), "created": True},
    ]
    told = "submitted job 7 to claude: the queue is paused; position 3 for claude, 5 jobs ahead\n"
    assert opusctl("submit", "-p", "x").err == told
    assert opusctl("submit", "-p", "x").err == "submitted job 8 to claude: it is blocked: job 2 must complete\n"


def test_a_batch_whose_keys_are_known_says_so(opusctl, daemon, job, monkeypatch):
    replies = [{"job": job(1), "created": False}, {"job": job(2), "created": True}]
    daemon.answers["job.submit_batch"] = {"jobs": replies}
    stdin(monkeypatch, b'[{"key": "a"}, {"key": "b"}]')
    ran = opusctl("submit", "--file", "-")
    assert ran.out == "1\n2\n"
    assert "submitted 1 job; 1 of the keys were known already" in ran.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no jobs in"), ("[]", "holds no jobs"),
        ("[1]", "entry 0 of the list is no object"), ("{,}", "is not JSON"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"), ('{"prompt": "a"}\n7\n', "line 2: not an object"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_jobs_is_refused_with_the_place(text, says, opusctl, accepting, tmp_path):
    (tmp_path / "jobs").write_text(text)
    ran = opusctl("submit", "--file", str(tmp_path / "jobs"))
    assert ran.code == 2
    assert says in ran.err
    assert not accepting.calls


def test_over_a_thousand_jobs_go_in_several_batches_and_say_so(opusctl, accepting, tmp_path):
    (tmp_path / "jobs").write_text("\n".join(json.dumps({"prompt": str(n)}) for n in range(1001)))
    ran = opusctl("submit", "--file", str(tmp_path / "jobs"))
    assert ran.code == 0
    assert ran.out.split() == [str(n) for n in range(1, 1002)]
    assert "1,001 jobs go in 2 batches" in ran.err
    assert [len(call["jobs"]) for call in accepting.sent("job.submit_batch")] == [1000, 1]


def test_batches_are_cut_by_size_too():
    big = {"prompt": "x" * (BATCH_BYTES // 2)}
    assert [len(batch) for batch in batches([big, big, big, {"prompt": "y"}])] == [1, 1, 2]


def test_a_refused_second_batch_names_the_entry_and_what_went_in(opusctl, accepting, refusal, tmp_path):
    (tmp_path / "jobs").write_text("\n".join(json.dumps({"prompt": str(n)}) for n in range(1010)))

    def refuse(params):
        raise refusal(-32602, "invalid_params", "bad", index=4)

    accepting.answers["job.submit_batch"] = [accepting.answers["job.submit_batch"], refuse]
    ran = opusctl("submit", "--file", str(tmp_path / "jobs"))
    assert ran.code == 2
    assert "job 1005 of the file: bad" in ran.err
    assert "the first 1,000 jobs of the file are submitted" in ran.err


def test_like_copies_a_job_and_options_change_the_copy(opusctl, accepting, job):
    accepting.answers["job.get"] = job(
        12, "failed", prompt="old", labels=["a"], env={"A": "b"}, group="g", priority="urgent", boost=3, key="k",
        depends_on=[{"job": 1, "on": "success", "if_unmet": "block", "state": "satisfied"}], timeout=60.0,
    )  # fmt: skip
    assert opusctl("submit", "--like", "12", "--priority", "low", "--label", "b").code == 0
    (spec,) = accepting.sent("job.submit")
    assert spec["prompt"] == "old"
    assert (spec["priority"], spec["labels"], spec["group"], spec["env"]) == ("low", ["b"], "g", {"A": "b"})
    assert (spec["cwd"], spec["timeout"], spec["agent"]) == ("/srv/app", 60.0, "claude")
    assert not {"key", "depends_on", "boost", "source", "parent"} & set(spec)


def test_a_job_that_was_shown_in_part_is_not_copied(opusctl, daemon, job):
    daemon.answers["job.get"] = job(12, prompt="fix…", shortened=True)
    ran = opusctl("submit", "--like", "12")
    assert (ran.code, ran.out) == (2, "")
    assert "too long to be shown whole" in ran.err


def test_a_command_like_a_prompt_takes_neither_its_prompt_nor_its_agent(opusctl, accepting, job):
    accepting.answers["job.get"] = job(12, prompt="old")
    assert opusctl("submit", "--like", "12", "--", "make").code == 0
    (spec,) = accepting.sent("job.submit")
    assert spec["command"] == ["make"]
    assert not {"prompt", "agent", "title"} & set(spec)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-p", "x", "--", "make"], "give one of them"),
        (["--"], "no command behind --"),
        ([], "nothing to submit"),
        (["x"], "unexpected argument"),
        (["make", "test"], "a command goes behind --"),
        (["-p", "x", "--name", "nightly"], "--name goes with --cron"),
        (["-p", "x", "--replace"], "--replace goes with --cron"),
        (["-p", "x", "--cron", "* * * * *", "--wait"], "no job to stay for"),
        (["-p", "x", "--cron", "* * * * *", "--key", "k"], "--key is for one job"),
        (["-p", "x", "--cron", "* * * * *", "--run-at", "10m"], "--run-at is for one job"),
        (["--cron", "* * * * *"], "nothing to submit"),
        (["-p", "x", "--file", "f"], "not allowed"),
        (["-p", "x", "--delay", "1h", "--run-at", "10m"], "give one of them"),
        (["-p", "x", "--env", "A"], "NAME=VALUE"),
        (["-p", "x", "--payload", "[1]"], "not a JSON object"),
        (["-p", "x", "--delay", "soon"], "not a duration"),
        (["--file", "/nonexistent"], "can't be read"),
        (["-p", "x" * (5 << 20)], "takes 4,194,304 at once"),
        (["-p", "\udcff"], "not valid UTF-8"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_sent(words, says, opusctl, accepting):
    ran = opusctl("submit", *words)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert not accepting.calls


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
def test_wait_ends_with_the_outcome(status, code, opusctl, accepting, job):
    accepting.answers["job.wait"] = {"jobs": [job(1, status)], "done": True}
    ran = opusctl("submit", "--wait", "-q", "--", "true")
    assert ran.code == code
    assert accepting.sent("job.wait") == [{"ids": [1]}]


@pytest.mark.parametrize("stay", ["--wait", "--follow"])
def test_quiet_prints_the_id_once_whoever_stays(stay, opusctl, accepting, job):
    accepting.answers["job.wait"] = {"jobs": [job(1, "failed", escalated_to=2)], "done": True}
    accepting.answers["job.get"] = job(2, "completed")
    ran = opusctl("submit", stay, "-q", "--", "echo", "x")
    assert (ran.code, ran.out, ran.err) == (0, "1\n", "")
    assert not accepting.sent("job.logs")


def test_quiet_prints_each_id_of_a_file_once(opusctl, accepting, job, tmp_path):
    (tmp_path / "jobs").write_text('[{"prompt": "a"}, {"prompt": "b"}]')
    accepting.answers["job.wait"] = {"jobs": [job(1, "completed"), job(2, "failed")], "done": True}
    ran = opusctl("submit", "-w", "-q", "--file", str(tmp_path / "jobs"))
    assert (ran.code, ran.out, ran.err) == (1, "1\n2\n", "")


def test_wait_times_out_with_124(opusctl, accepting, job):
    accepting.answers["job.wait"] = {"jobs": [job(1, "running")], "done": False}
    ran = opusctl("submit", "--wait-timeout", "2s", "--", "true")
    assert ran.code == 124
    assert "timed out after 2 s" in ran.err
    assert 0 < accepting.sent("job.wait")[0]["timeout"] <= 2


def page(data, offset=0, eof=True, dropped=0):
    written = len(data.encode())
    return {"data": data, "offset": offset, "next_offset": offset + dropped + written, "dropped": dropped, "eof": eof}


def an_event(kind, job=1):
    event = {"cursor": 9, "time": "2025-11-24T09:00:00.000000Z", "kind": kind, "job": job, "actor": "scheduler"}
    return {"method": "event", "params": {"subscription": 1, "event": event}}


def test_follow_prints_the_output_of_every_attempt_and_ends_with_the_outcome(opusctl, accepting, job):
    accepting.answers |= {
        "events.subscribe": {"subscription": 1, "cursor": 8},
        "job.get": [
            job(1),
            job(1, "running"),
            job(1, "retrying", attempts=1, reason="tries again in 1s"),
            job(1, "running", attempts=2),
            job(1, "completed", attempts=2),
        ],
        "job.logs": [page("one\n", eof=False), page("two\n", 4), page("again\n")],
    }
    accepting.notify_after["events.subscribe"] = [
        an_event("job.started"),
        an_event("job.progress"),
        an_event("job.started"),
    ]
    ran = opusctl("submit", "--follow", "--", "make")
    assert (ran.code, ran.out) == (0, "one\ntwo\nagain\n")
    assert "job 1 is retrying: tries again in 1s" in ran.err
    assert ran.err.endswith("job 1 completed\n")
    assert [(call["attempt"], call["offset"]) for call in accepting.sent("job.logs")] == [(1, 0), (1, 4), (2, 0)]


def test_follow_goes_on_with_the_job_that_it_was_escalated_to(opusctl, accepting, job):
    accepting.answers |= {
        "events.subscribe": {"subscription": 1, "cursor": 8},
        "job.get": [
            job(1, "failed", escalated_to=2),
            job(1, "failed", escalated_to=2),
            job(2, "failed", escalated_from=1, attempts=1),
            job(2, "failed", escalated_from=1, attempts=1),
        ],
        "job.logs": [page("a"), page("b")],
    }
    ran = opusctl("submit", "--follow", "-p", "x")
    assert (ran.code, ran.out) == (1, "ab")
    assert "was escalated to job 2" in ran.err
    assert "job 2 failed: agent_error: it broke" in ran.err


def test_follow_goes_on_where_it_was_when_the_daemon_restarts(opusctl, accepting, job, hang_up):
    def leave(params):
        raise hang_up

    accepting.answers |= {
        "events.subscribe": {"subscription": 1, "cursor": 8},
        "job.get": lambda _: job(1, "running" if len(accepting.sent("job.logs")) < 3 else "completed"),
        "job.logs": [page("one\n", eof=False), leave, page("two\n", 4)],
    }
    ran = opusctl("submit", "--follow", "--", "make")
    assert (ran.code, ran.out) == (0, "one\ntwo\n")
    assert "waiting for it to come back" in ran.err
    assert accepting.sent("job.logs")[-1]["offset"] == 4
