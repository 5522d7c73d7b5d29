"""Exit and final event are judged together, for every program alike: cut off, killed, never begun."""

import signal

import pytest

from opusd.agents.adapters.base import Verdict
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass

DONE = "The feature is done: parser.py now handles empty input."

LAST = {
    "claude": "claude/ok.jsonl",
    "codex": "codex/ok.jsonl",
    "opencode": "opencode/ok.jsonl",
    "aider": "aider/ok.txt",
}
"""A good ending of each program whose stream tells one."""

KILLED = Exit(kind="signal", signal=signal.SIGKILL)


@pytest.mark.parametrize("program", LAST)
def test_without_a_final_event_exit_code_0_is_no_success(program, stream, watch):
    data = stream(LAST[program])
    cut = data[: data.rstrip().rindex(b"\n") + 1]
    _, verdict = watch(program, cut, 0)
    assert verdict.failure is FailureClass.AGENT_ERROR
    assert verdict.message == "exited with code 0 without a result"
    assert watch(program, b"", 0)[1].failure is FailureClass.AGENT_ERROR


@pytest.mark.parametrize("program", LAST)
def test_a_last_line_that_is_cut_off_is_no_final_event(program, stream, watch):
    data = stream(LAST[program]).rstrip()
    _, verdict = watch(program, data[:-9], 1)
    assert verdict.failure is FailureClass.AGENT_ERROR


@pytest.mark.parametrize("program", LAST)
def test_a_last_line_without_a_newline_is_one(program, stream, watch):
    _, verdict = watch(program, stream(LAST[program]).rstrip(), 0)
    assert verdict.failure is None
    assert verdict.summary == DONE


@pytest.mark.parametrize("program", [*LAST, "text"])
def test_who_was_killed_failed_with_the_signals_name(program, stream, watch):
    data = stream(LAST[program])[:2000] if program in LAST else b"working\n"
    _, verdict = watch(program, data[: data.rindex(b"\n")], how=KILLED)
    assert (verdict.failure, verdict.message) == (FailureClass.AGENT_ERROR, "ended by SIGKILL")


@pytest.mark.parametrize("program", [*LAST, "text"])
def test_even_after_its_final_event(program, stream, watch):
    data = stream(LAST[program]) if program in LAST else b"done\n"
    _, verdict = watch(program, data, how=KILLED)
    assert (verdict.failure, verdict.message) == (FailureClass.AGENT_ERROR, "ended by SIGKILL")


@pytest.mark.parametrize("program", [*LAST, "text"])
@pytest.mark.parametrize(("kind", "failure"), [("spawn", FailureClass.SPAWN), ("lost", FailureClass.LOST)])
def test_what_never_began_or_got_lost_is_that_whatever_was_printed(program, kind, failure, stream, watch):
    data = stream(LAST[program]) if program in LAST else b"done\n"
    _, verdict = watch(program, data, how=Exit(kind=kind, message="in words"))
    assert (verdict.failure, verdict.message) == (failure, "in words")


@pytest.mark.parametrize(("program", "failure"), [
    ("claude", None), ("codex", FailureClass.AGENT_ERROR), ("opencode", FailureClass.AGENT_ERROR),
    ("aider", FailureClass.AGENT_ERROR), ("text", FailureClass.AGENT_ERROR),
])  # fmt: skip
def test_a_code_after_a_good_result_is_forgiven_to_claude_alone(program, failure, stream, watch):
    """Claude Code's code says what `is_error` says; another comes from what is shut down after the result."""
    _, verdict = watch(program, stream(LAST[program]) if program in LAST else b"done\n", 1)
    assert verdict.failure is failure
    assert "exited with code 1" in verdict.message


def test_plain_programs_are_judged_by_their_exit_alone(watch):
    loud = "error: rate limit reached, invalid api key, try again in 5s\n"
    seen, verdict = watch("text", loud, 0)
    assert seen == []
    assert verdict == Verdict(summary=loud)
    _, verdict = watch("text", loud, 7)
    assert verdict == Verdict(failure=FailureClass.AGENT_ERROR, message="exited with code 7", summary=loud)
