from __future__ import annotations

import pytest


def test_all_completed_is_success(opusctl, daemon, job):
    daemon.answers["job.wait"] = {"jobs": [job(5, "completed"), job(6, "completed")], "done": True}
    ran = opusctl("wait", "5", "nightly")
    assert ran.code == 0
    assert "completed" in ran.out
    assert daemon.sent("job.wait") == [{"ids": [5, "nightly"]}]


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_one_that_did_not_complete_is_a_failure(status, opusctl, daemon, job):
    daemon.answers["job.wait"] = {"jobs": [job(5, "completed"), job(6, status)], "done": True}
    assert opusctl("wait", "5", "6").code == 1


def test_a_timeout_is_124(opusctl, daemon, job):
    daemon.answers["job.wait"] = {"jobs": [job(5, "running")], "done": False}
    ran = opusctl("wait", "5", "--timeout", "1m")
    assert ran.code == 124
    assert "running" in ran.out


def test_any_is_judged_by_those_that_ended(opusctl, daemon, job):
    daemon.answers["job.wait"] = {"jobs": [job(5, "completed"), job(6, "running")], "done": True}
    assert opusctl("wait", "--any", "5", "6").code == 0
    assert daemon.sent("job.wait")[0]["any"] is True


def test_started_is_enough_when_asked(opusctl, daemon, job):
    daemon.answers["job.wait"] = {"jobs": [job(5, "running")], "done": True}
    assert opusctl("wait", "--until", "started", "5").code == 0


def test_an_escalated_job_counts_by_its_last_link(opusctl, daemon, job):
    daemon.answers |= {
        "job.wait": {"jobs": [job(5, "failed", escalated_to=8)], "done": True},
        "job.get": job(8, "completed"),
    }
    ran = opusctl("wait", "5", "--json")
    assert ran.code == 0
    assert ran.json["jobs"][0]["id"] == 8


def test_all_means_every_job_that_is_neither_finished_nor_held(opusctl, daemon, job):
    daemon.answers |= {
        "job.list": [
            {"jobs": [job(n) for n in range(1, 601)], "next_cursor": "c"},
            {"jobs": [job(700)], "next_cursor": None},
        ],
        "job.wait": lambda params: {"jobs": [job(n, "completed") for n in params["ids"]], "done": True},
    }
    ran = opusctl("wait", "--all", "-q")
    assert ran.code == 0
    assert len(ran.out.split()) == 601
    assert not {"completed", "held"} & set(daemon.sent("job.list")[0]["status"])
    assert [len(call["ids"]) for call in daemon.sent("job.wait")] == [500, 101]


def test_all_with_nothing_to_wait_for_is_done(opusctl, daemon):
    daemon.answers["job.list"] = {"jobs": [], "next_cursor": None}
    assert opusctl("wait", "--all").code == 0


def test_a_group_is_waited_for_as_a_group(opusctl, daemon, job):
    daemon.answers["job.wait"] = {"jobs": [job(5, "completed")], "done": True}
    assert opusctl("wait", "--group", "nightly").code == 0
    assert daemon.sent("job.wait") == [{"group": "nightly"}]


@pytest.mark.parametrize("words", [[], ["5", "--all"], ["--group", "g", "5"]])
def test_what_to_wait_for_is_said_once(words, opusctl, daemon):
    assert opusctl("wait", *words).code == 2


def test_a_wait_outlives_a_restart_of_the_daemon(opusctl, daemon, job, hang_up):
    def leave(params):
        raise hang_up

    daemon.answers["job.wait"] = [leave, {"jobs": [job(5, "completed")], "done": True}]
    ran = opusctl("wait", "5")
    assert ran.code == 0
    assert "waiting for it to come back" in ran.err


def test_a_wait_that_cannot_end_is_wrong_state(opusctl, daemon, refusal):
    def refuse(params):
        raise refusal(-32002, "conflict", "job 5 waits for you")

    daemon.answers["job.wait"] = refuse
    assert opusctl("wait", "5").code == 5
