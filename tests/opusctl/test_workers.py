from __future__ import annotations

import os

import pytest

from opusctl.program import NotStarted, environment

SEEN = "2025-11-24T08:59:00.000000Z"
FOUND = [
    {"worker": "w1", "agents": ["pull"], "jobs": [3, 4], "last_seen": SEEN, "completed": 7, "failed": 1},
    {"worker": "w2", "agents": [], "jobs": [], "last_seen": SEEN, "completed": 0, "failed": 0},
]


def test_workers_are_listed_with_what_they_hold_and_did(opusctl, daemon):
    daemon.answers["worker.list"] = {"workers": FOUND}
    ran = opusctl("workers")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()] == [
        ["WORKER", "JOBS", "COMPLETED", "FAILED", "SEEN", "AGENTS"],
        ["w1", "3,4", "7", "1", SEEN, "pull"],
        ["w2", "-", "0", "0", SEEN, "-"],
    ]
    assert opusctl("workers", "-q").out == "w1\nw2\n"
    assert opusctl("workers", "--json").json == {"workers": FOUND}
    daemon.answers["worker.list"] = {"workers": []}
    assert opusctl("workers").err == "no workers since the daemon started\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start"], "no program behind --"),
        (["start", "--"], "no program behind --"),
        (["--", "true"], "a command goes with start"),
        (["--count", "2"], "--count goes with start"),
        (["--exit-when-idle"], "--exit-when-idle goes with start"),
        (["start", "--count", "0", "--", "true"], "not a number from 1 on"),
        (["start", "--lease", "soon", "--", "true"], "not a duration"),
        (["begin"], "invalid choice"),
    ],
)
def test_what_makes_no_sense_is_said(words, said, opusctl):
    ran = opusctl("workers", *words)
    assert ran.code == 2
    assert said in ran.err


def test_a_worker_asks_for_what_was_said_and_ends_with_the_refusal(opusctl, daemon, refusal):
    def refuse(params):
        raise refusal(-32602, "invalid_params", "agent 'gpu' has slots", path="$.agents")

    daemon.answers["worker.claim"] = refuse
    words = ["--name", "me", "--agents", "gpu,pull", "--type", "bug", "--label", "for:ann", "--group", "g"]
    ran = opusctl("workers", "start", *words, "--min-tier", "urgent", "--lease", "2m", "--", "true")
    assert (ran.code, "agent 'gpu' has slots" in ran.err) == (2, True)
    assert daemon.sent("worker.claim") == [
        {
            "worker": "me", "agents": ["gpu", "pull"], "types": ["bug"], "labels": ["for:ann"], "group": "g",
            "min_tier": "urgent", "lease": 120.0, "wait": 60.0,
        }
    ]  # fmt: skip


def test_without_a_daemon_a_worker_says_so_at_once(opusctl, monkeypatch, tmp_path):
    monkeypatch.setenv("OPUSD_SOCKET", str(tmp_path / "nobody"))
    assert opusctl("workers", "start", "--", "true").code == 3


def test_a_program_gets_the_environment_of_the_worker_and_the_job_and_nothing_of_opusds(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3\n")
    job = {"env": {"A": "1", "B": {"from_env": "HOME"}, "C": {"from_file": str(secret)}}}
    base = {"HOME": "/home/me", "OPUS_TOKEN": "another's", "OPUSD_SOCKET": "/other", "LANG": "C"}
    assert environment(job, {"OPUS_JOB_ID": "4"}, base) == {
        "HOME": "/home/me", "LANG": "C", "A": "1", "B": "/home/me", "C": "s3", "OPUS_JOB_ID": "4",
    }  # fmt: skip


@pytest.mark.parametrize("given", [{"from_env": "NOT_THERE"}, {"from_file": "/nowhere"}])
def test_a_variable_that_cannot_be_had_is_named(given):
    with pytest.raises(NotStarted, match="env A:") as caught:
        environment({"env": {"A": given}}, {}, os.environ.copy())
    assert caught.value.failure == "config"
