"""What an agent is told, by what happened before."""

from msgspec.structs import replace

from opusd.core.job import Extra, Job, Outcome, Run, Spec, Terms
from opusd.core.lifecycle import Status
from opusd.dispatcher.prompts import prompt_for, resumes

SPEC = Spec(title="t", prompt="write the parser")
LIMITED = Outcome(error={"class": "rate_limited", "message": "429"}, session_id="s1", session_agent="bot")


def job(*, answered=False, fresh=False, agent="bot"):
    run = Run(attempt=2, attempt_id="a", token_hash=b"", slot=1, over=False, started_at=0, answered=answered)
    return Job(id=1, status=Status.RUNNING, terms=Terms(agent=agent), created_at=0, run=run, extra=Extra(fresh=fresh))


def test_the_first_attempt_is_given_the_prompt_and_nothing_else():
    assert prompt_for(job(), SPEC, Outcome(), resumed=False) == "write the parser"


def test_a_job_without_a_prompt_has_none():
    assert prompt_for(job(), Spec(title="t"), LIMITED, resumed=True) is None


def test_only_the_agent_whose_session_it_is_takes_it_up_and_not_when_a_fresh_start_was_asked_for():
    assert resumes(job(), LIMITED) == "s1"
    assert resumes(job(agent="other"), LIMITED) is None
    assert resumes(job(fresh=True), LIMITED) is None
    assert resumes(job(), Outcome()) is None


def test_a_session_that_goes_on_is_told_why_and_again_what_the_task_is():
    told = prompt_for(job(), SPEC, LIMITED, resumed=True)
    assert "(rate_limited: 429)" in told
    assert told.endswith("write the parser")


def test_an_answer_goes_into_the_session_with_its_question_alone():
    spec = replace(SPEC, answers=[{"question": "Old?", "answer": "yes"}, {"question": "Which\none?", "answer": "B"}])
    told = prompt_for(job(answered=True), spec, LIMITED, resumed=True)
    assert "> Which\n> one?" in told
    assert "\n\nB\n\n" in told
    assert "Old?" not in told
    assert "write the parser" not in told


def test_without_a_session_all_questions_and_answers_come_behind_the_prompt():
    spec = replace(SPEC, answers=[{"question": "Old?", "answer": "yes"}, {"question": "New?", "answer": "no"}])
    told = prompt_for(job(answered=True), spec, Outcome(), resumed=False)
    assert told.startswith("write the parser\n\n")
    assert told.index("> Old?") < told.index("yes") < told.index("> New?") < told.index("no", told.index("> New?"))


def test_what_other_agents_failed_at_comes_before_the_prompt():
    previous = [{"agent": "first", "class": "timeout", "message": "after 1 h", "output_tail": "a\nb"}]
    told = prompt_for(job(), replace(SPEC, previous=previous), Outcome(), resumed=False)
    assert told.index("- first: timeout: after 1 h") < told.index("  > a\n  > b") < told.index("write the parser")


def test_what_a_verification_said_comes_behind_the_prompt_with_a_session_and_without():
    spec = replace(SPEC, verify=["make", "a b"])
    failed = Outcome(
        error={"class": "verify_failed", "message": "verify: make exited with code 2"}, verify_output="1\n2"
    )
    for resumed in (False, True):
        told = prompt_for(job(), spec, failed, resumed=resumed)
        assert told.index("write the parser") < told.index("`make 'a b'`") < told.index("> 1\n> 2")
    assert "(no output)" in prompt_for(job(), spec, replace(failed, verify_output=""), resumed=False)
    assert prompt_for(job(fresh=True), spec, failed, resumed=False) == "write the parser"
