from __future__ import annotations

import pytest

QUESTION = {"id": 3, "text": "Which database?", "options": ["PostgreSQL", "SQLite"]}


@pytest.fixture
def asking(daemon, job):
    daemon.answers |= {
        "job.get": job(5, "needs_input", question=QUESTION),
        "job.answer": job(5, "queued", reason="starts at the next turn"),
        "job.list": {"jobs": [job(5, "needs_input", question=QUESTION)]},
    }
    return daemon


@pytest.mark.parametrize(
    ("words", "text"),
    [(["SQLite"], "SQLite"), (["--option", "1"], "PostgreSQL"), (["-o", "2"], "SQLite"), (["a file"], "a file")],
)
def test_an_answer_names_the_question_that_was_shown(words, text, opusctl, asking):
    ran = opusctl("answer", "5", *words)
    assert (ran.code, ran.out) == (0, "job 5 (Fix the login) is queued: starts at the next turn\n")
    assert asking.sent("job.answer") == [{"id": 5, "question": 3, "text": text}]
    assert opusctl("answer", "5", *words, "--json").json["id"] == 5


def test_the_question_may_be_named_so_that_no_later_one_is_answered(opusctl, asking):
    assert opusctl("answer", "5", "yes", "--question", "2").code == 0
    assert asking.sent("job.answer") == [{"id": 5, "question": "2", "text": "yes"}]


def test_without_a_job_all_that_is_asked_is_listed(opusctl, asking):
    ran = opusctl("answer")
    assert ran.out == "job 5  Fix the login\n  Which database?\n    1  PostgreSQL\n    2  SQLite\n"
    assert opusctl("answer", "-q").out == "5\n"
    assert opusctl("answer", "--json").json["jobs"][0]["question"] == QUESTION
    asking.answers["job.list"] = {"jobs": []}
    assert "no job asks anything" in opusctl("answer").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["5"], "job 5 asks: Which database?"),
        (["5", "--option", "3"], "there is no option 3: 2 are offered"),
        (["5", "text", "--option", "1"], "not both"),
        (["--option", "1"], "which job?"),
    ],
)
def test_what_is_missing_is_said(words, said, opusctl, asking):
    ran = opusctl("answer", *words)
    assert ran.code == 2
    assert said in ran.err
    assert not asking.sent("job.answer")


def test_a_job_that_asks_nothing_is_not_answered(opusctl, daemon, job):
    daemon.answers["job.get"] = job(5, "running")
    ran = opusctl("answer", "5", "yes")
    assert ran.code == 5
    assert "nothing is asked" in ran.err


def test_a_question_that_changed_meanwhile_is_a_conflict(opusctl, asking, refusal):
    def moved(params):
        raise refusal(-32002, "conflict", "job 5 asks question 4, not 3")

    asking.answers["job.answer"] = moved
    ran = opusctl("answer", "5", "yes")
    assert ran.code == 5
    assert "question 4" in ran.err


def test_what_an_agent_asks_cannot_write_to_the_terminal(opusctl, asking, job):
    asking.answers["job.list"] = {
        "jobs": [job(5, "needs_input", question={"id": 1, "text": "a\x1b[2Jb", "options": []})]
    }
    assert "\x1b" not in opusctl("answer").out


def test_a_job_asks_with_its_own_token(opusctl, daemon, job, monkeypatch):
    question = {"id": "1", "text": "Which one?", "options": ["a", "b"]}
    daemon.answers["worker.ask"] = job(41, "needs_input", question=question, reason="waits for a person's answer")
    ran = opusctl("ask", "Which one?")
    assert (ran.code, "does not run inside a job" in ran.err) == (2, True)
    monkeypatch.setenv("OPUS_JOB_ID", "41")
    monkeypatch.setenv("OPUS_TOKEN", "secret")
    assert opusctl("ask", "Which one?", "--option", "a", "-o", "b", "-q").out == "41\n"
    assert daemon.sent("worker.ask") == [{"id": 41, "token": "secret", "text": "Which one?", "options": ["a", "b"]}]
    assert opusctl("ask", "Which one?").code == 0
    assert opusctl("ask").code == 2


def test_a_question_of_an_attempt_that_is_over_is_a_wrong_state(opusctl, daemon, refusal, monkeypatch):
    def lost(params):
        raise refusal(-32007, "lease_lost", "this token is not that of a running attempt")

    monkeypatch.setenv("OPUS_JOB_ID", "41")
    monkeypatch.setenv("OPUS_TOKEN", "old")
    daemon.answers["worker.ask"] = lost
    assert opusctl("ask", "Which one?").code == 5
