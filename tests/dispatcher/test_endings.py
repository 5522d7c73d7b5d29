"""What an attempt's exit, its stream and its verification make together."""

import pytest

from opusd.agents.adapters.base import Verdict
from opusd.agents.spec import Ended, Exit
from opusd.core.retry import FailureClass
from opusd.dispatcher.endings import ended

WELL = Exit(kind="exit", code=0, message="exit code 0")
KILLED = Exit(kind="signal", signal=9, message="ended by signal 9 (SIGKILL)")
BAD = Exit(kind="exit", code=1, message="make exited with code 1")
ERROR = Verdict(failure=FailureClass.AGENT_ERROR, message="ended by signal 9 (SIGKILL)", summary="s")


def report(how=WELL, **fields):
    return Ended(job=1, attempt=1, exit=how, output_tail="the agent's", **fields)


def test_a_success_that_is_not_verified_is_verify_failed_with_what_was_said():
    end = ended(report(verify=BAD, verify_output="2 failed"), Verdict(summary="done"), first=True)
    assert (end.failure, end.message) == (FailureClass.VERIFY_FAILED, "verify: make exited with code 1")
    assert (end.verify_output, end.output_tail, end.exit_code) == ("2 failed", "2 failed", 0)
    assert end.result == {"summary": "done", "data": None}


@pytest.mark.parametrize("verify", [None, Exit(kind="exit", code=0, message="true exited with code 0")])
def test_a_success_without_or_with_a_content_verification_is_one(verify):
    end = ended(report(verify=verify, verify_output="fine"), Verdict(summary="done"), first=True)
    assert (end.failure, end.verify_output, end.output_tail) == (None, None, "the agent's")


def test_an_agent_that_failed_failed_whatever_its_verification_says():
    end = ended(report(BAD, verify=BAD), ERROR, first=True)
    assert (end.failure, end.verify_output) == (FailureClass.AGENT_ERROR, None)


def test_a_question_goes_before_a_verification():
    end = ended(report(verify=BAD), Verdict(question=("which?", [])), first=True)
    assert (end.failure, end.question) == (None, ("which?", ()))


def test_a_failure_with_a_process_killed_for_lack_of_memory_is_oom():
    end = ended(report(KILLED, oom=2), ERROR, first=True)
    assert end.failure is FailureClass.OOM
    assert end.message == "out of memory: 2 of its processes were killed for it (ended by signal 9 (SIGKILL))"
    assert ended(report(KILLED), ERROR, first=True).failure is FailureClass.AGENT_ERROR
    assert ended(report(oom=1), Verdict(), first=True).failure is None  # it did without them
    limited = Verdict(failure=FailureClass.RATE_LIMITED, message="limited")
    assert ended(report(BAD, oom=1), limited, first=True).failure is FailureClass.RATE_LIMITED
