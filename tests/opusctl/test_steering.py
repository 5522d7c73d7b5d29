from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("words", "method", "sent"),
    [
        (["cancel", "5"], "job.cancel", {"id": 5}),
        (
            ["cancel", "k", "--reason", "r", "--cascade", "--grace", "2s"],
            "job.cancel",
            {"id": "k", "reason": "r", "cascade": True, "grace": 2},
        ),
        (["hold", "5", "--stop"], "job.hold", {"id": 5, "stop": True}),
        (["release", "5"], "job.release", {"id": 5}),
    ],
)
def test_a_steering_verb_sends_its_method_and_shows_the_job(words, method, sent, opusctl, daemon, job):
    daemon.answers[method] = job(5, "held", reason="put aside by user:1000")
    ran = opusctl(*words)
    assert (ran.code, ran.out) == (0, "job 5 (Fix the login) is held: put aside by user:1000\n")
    assert daemon.sent(method) == [sent]
    assert opusctl(*words, "-q").out == "5\n"
    assert opusctl(*words, "--json").json["id"] == 5


def test_a_group_is_steered_by_one_call(opusctl, daemon, job):
    daemon.answers["job.cancel"] = {"jobs": [job(5, "cancelled"), job(6, "cancelled")]}
    ran = opusctl("cancel", "--group", "nightly", "-q")
    assert (ran.code, ran.out) == (0, "5\n6\n")
    assert daemon.sent("job.cancel") == [{"group": "nightly"}]


def test_a_group_of_which_no_job_can_be_steered_is_said_so(opusctl, daemon):
    daemon.answers["job.cancel"] = {"jobs": [], "omitted": 0}
    ran = opusctl("cancel", "--group", "nightly")
    assert (ran.code, ran.out) == (0, "")
    assert "none of the jobs of the group nightly" in ran.err
    assert opusctl("cancel", "--group", "nightly", "-q").err == ""


def test_one_that_refuses_does_not_keep_the_others_from_it(opusctl, daemon, job, refusal):
    def cancel(params):
        if params["id"] == 4:
            raise refusal(-32002, "conflict", "job 4 is completed")
        return job(params["id"], "cancelled")

    daemon.answers["job.cancel"] = cancel
    ran = opusctl("cancel", "3", "4", "5", "-q")
    assert (ran.code, ran.out) == (5, "3\n5\n")
    assert "job 4 is completed" in ran.err


@pytest.mark.parametrize("verb", ["cancel", "hold", "release"])
def test_which_jobs_must_be_said(verb, opusctl, daemon):
    assert opusctl(verb).code == 2
    assert opusctl(verb, "5", "--group", "g").code == 2
    assert not daemon.calls


def test_retry_takes_all_jobs_in_one_call(opusctl, daemon, job):
    daemon.answers["job.retry"] = {"jobs": [job(5), job(6)]}
    assert opusctl("retry", "5", "6", "--fresh", "--cascade", "-q").out == "5\n6\n"
    assert daemon.sent("job.retry") == [{"ids": [5, 6], "fresh": True, "cascade": True}]


def test_edit_sends_only_what_was_given(opusctl, daemon, job):
    daemon.answers["job.update"] = job(5)
    words = ["--title", "t", "--priority", "low", "--boost", "2", "--depends-on", "3", "--need", "gpu", "--label", "a",
             "--metadata", "{}", "--timeout", "1h", "--expires-in", "1d", "--max-retries", "0", "--agent", "codex",
             "--run-at", "2030-01-01T00:00:00Z", "--version", "4", "-p", "x"]  # fmt: skip
    assert opusctl("edit", "5", *words).code == 0
    assert daemon.sent("job.update") == [
        {
            "id": 5, "title": "t", "priority": "low", "boost": 2, "depends_on": [3], "needs": {"gpu": 1},
            "labels": ["a"],
            "metadata": {}, "timeout": 3600, "expires_in": 86400, "max_retries": 0, "agent": "codex",
            "run_at": "2030-01-01T00:00:00.000000Z", "version": 4, "prompt": "x",
        }
    ]  # fmt: skip


def test_edit_puts_fields_back_to_their_default(opusctl, daemon, job):
    daemon.answers["job.update"] = job(5)
    assert opusctl("edit", "5", "--clear", "run-at", "--clear", "labels", "--", "make").code == 0
    assert daemon.sent("job.update") == [{"id": 5, "run_at": None, "labels": [], "command": ["make"]}]


def test_every_field_that_can_be_cleared_takes_its_default(opusctl, daemon, job):
    from opusctl.commands.edit import EMPTY

    daemon.answers["job.update"] = job(5)
    for field in EMPTY:
        assert opusctl("edit", "5", "--clear", field.replace("_", "-")).code == 0


@pytest.mark.parametrize("field", ["agent", "command", "prompt", "id"])
def test_what_has_no_default_is_not_cleared(field, opusctl, daemon):
    ran = opusctl("edit", "5", "--clear", field)
    assert (ran.code, ran.out) == (2, "")
    assert f"invalid choice: '{field}'" in ran.err
    cleared = "boost, depends-on, expires-in, labels, max-retries, metadata, needs, run-at, timeout, title"
    assert f"back to the default: {cleared} --version" in " ".join(opusctl("edit", "--help").out.split())


def test_an_edit_of_nothing_is_a_usage_error(opusctl, daemon):
    assert opusctl("edit", "5").code == 2


@pytest.mark.parametrize(("word", "fraction"), [("0.4", 0.4), ("40%", 0.4), ("4/10", 0.4), ("1", 1.0), ("0", 0.0)])
def test_progress_is_a_heartbeat_of_the_job_it_runs_in(word, fraction, opusctl, daemon, monkeypatch):
    monkeypatch.setenv("OPUS_JOB_ID", "41")
    monkeypatch.setenv("OPUS_TOKEN", "secret")
    daemon.answers["worker.heartbeat"] = {"expires_at": None, "cancel": True}
    ran = opusctl("progress", word, "running the tests")
    assert (ran.code, ran.out) == (0, "")
    assert "it was cancelled" in ran.err
    progress = {"fraction": fraction, "message": "running the tests"}
    assert daemon.sent("worker.heartbeat") == [{"id": 41, "token": "secret", "progress": progress}]


def test_progress_outside_a_job_is_a_usage_error(opusctl, daemon, monkeypatch):
    ran = opusctl("progress", "0.4")
    assert ran.code == 2
    assert "does not run inside a job" in ran.err
    monkeypatch.setenv("OPUS_JOB_ID", "41")
    monkeypatch.setenv("OPUS_TOKEN", "secret")
    for wrong in (["110%"], ["5/0"], ["much"], []):
        assert opusctl("progress", *wrong).code == 2
