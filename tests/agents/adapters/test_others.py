"""Endings of Codex, OpenCode and aider that were not captured, built from lines such as they print."""

import json
import signal

import pytest

from opusd.agents.adapters.base import Progress, Said, Usage, Verdict
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass
from opusd.core.times import from_rfc3339

NOW = 1_795_480_000_000_000  # 2026-11-24T00:26:40Z

KILLED = Exit(kind="signal", signal=signal.SIGKILL)


def line(**event):
    return json.dumps(event, separators=(",", ":")) + "\n"


def turn_failed(message):
    return line(type="thread.started", thread_id="t") + line(type="turn.failed", error={"message": message})


@pytest.mark.parametrize(("message", "failure", "until"), [
    ("You've hit your usage limit. Upgrade to Pro (https://chatgpt.com/x), purchase credits or try again at 12:16 PM.",
     FailureClass.RATE_LIMITED, "2026-11-24T12:16:00Z"),
    ("You've hit your usage limit. Try again at Nov 28th, 2026 12:30 PM.",
     FailureClass.RATE_LIMITED, "2026-11-28T12:30:00Z"),
    ("You've hit your usage limit. Try again later.", FailureClass.RATE_LIMITED, None),
    ("Your workspace is out of credits. Add credits to continue.", FailureClass.AUTH, None),
    ("Quota exceeded. Check your plan and billing details.", FailureClass.AUTH, None),
    ("Selected model is at capacity. Please try a different model.", FailureClass.AGENT_ERROR, None),
    ("We're currently experiencing high demand, which may cause temporary errors.", FailureClass.AGENT_ERROR, None),
    ("unexpected status 403 Forbidden: no, url: http://x", FailureClass.AUTH, None),
    ("unexpected status 404 Not Found: no such model, url: http://x", FailureClass.CONFIG, None),
    ("stream disconnected before completion: rate limit reached. Please try again in 1m30s.",
     FailureClass.RATE_LIMITED, "2026-11-24T00:28:10Z"),
    ("stream disconnected before completion: closed", FailureClass.AGENT_ERROR, None),
    ("Missing environment variable: `FAKE_KEY`.", FailureClass.CONFIG, None),
])  # fmt: skip
def test_codex_says_in_prose_what_failed(message, failure, until, watch):
    _, verdict = watch("codex", turn_failed(message), 1)
    assert verdict.failure is failure
    assert verdict.limited_until == (None if until is None else from_rfc3339(until))


def test_an_error_and_no_end_of_the_turn_is_that_error_unless_codex_was_killed(watch):
    errors = line(type="turn.started") + line(type="error", message="last status: 429 Too Many Requests")
    assert watch("codex", errors, 1)[1].failure is FailureClass.RATE_LIMITED
    assert watch("codex", errors, 0)[1].failure is FailureClass.RATE_LIMITED
    assert watch("codex", errors, how=KILLED)[1].message == "ended by SIGKILL"
    assert watch("codex", errors, 143)[1].message == "exited with code 143 (SIGTERM)"


def test_only_the_last_turn_of_codex_counts(watch):
    started, error = line(type="turn.started"), line(type="error", message="last status: 429 Too Many Requests")
    completed = line(type="turn.completed", usage={})
    refused_turn = started + line(type="turn.failed", error={"message": "invalid api key"})
    assert watch("codex", refused_turn + started + completed, 0)[1].failure is None
    assert watch("codex", started + error + completed + started, 1)[1].failure is FailureClass.AGENT_ERROR
    assert watch("codex", started + completed + started, 0)[1].failure is FailureClass.AGENT_ERROR
    assert watch("codex", started + completed + refused_turn, how=KILLED)[1].failure is FailureClass.AUTH


def test_codex_shows_what_it_does(watch):
    def item(when, **what):
        return line(type=f"item.{when}", item={"id": "i", **what})

    todos = [{"text": "Read", "completed": True}, {"text": "Write", "completed": False}]
    seen, verdict = watch("codex", "".join([
        item("started", type="command_execution", command="make test", status="in_progress"),
        item("completed", type="command_execution", command="make test", status="completed", exit_code=0),
        item("updated", type="todo_list", items=todos),
        item("completed", type="file_change", changes=[{"path": "a.py", "kind": "add"}, {"path": "b.py"}]),
        item("completed", type="reasoning", text="hm"),
        item("completed", type="error", message="a warning about rate limits"),
        item("completed", type="agent_message", text="First"),
        item("completed", type="agent_message", text="Second"),
        line(type="turn.completed", usage={"input_tokens": "many"}),
    ]))  # fmt: skip
    assert seen == [
        Progress("$ make test"), Progress("Write", 0.5), Progress("edits a.py, b.py"), Said("First"), Said("Second"),
    ]  # fmt: skip
    assert verdict == Verdict(summary="Second")


def test_a_last_message_of_2_mib_is_the_summary_as_far_as_it_is_kept(watch):
    item = {"id": "i", "type": "agent_message", "text": 'It says "done"\n' + "x" * (2 << 20)}
    _, verdict = watch("codex", line(type="item.completed", item=item) + line(type="turn.completed", usage={}))
    assert verdict.summary.startswith('It says "done"\nxxx')


def step(reason="stop", **tokens):
    part = {"type": "step-finish", "reason": reason, "tokens": tokens, "cost": 0.5}
    return line(type="step_finish", sessionID="s", part=part)


def test_opencode_adds_up_its_steps(watch):
    steps = step("tool-calls", input=10, output=2, reasoning=1, cache={"read": 5, "write": 4}) + step(input=1, output=1)
    _, verdict = watch("opencode", steps, 0)
    assert verdict.failure is None
    assert verdict.usage == Usage(input_tokens=15, output_tokens=4, cached_tokens=5, cost_usd=1.0)


@pytest.mark.parametrize("output", [
    step("tool-calls"), step("length"), step("content-filter"), step() + line(type="step_start", part={}),
])  # fmt: skip
def test_opencode_has_not_ended_well_in_the_middle_of_its_steps(output, watch):
    assert watch("opencode", output, 0)[1].failure is FailureClass.AGENT_ERROR


def test_an_error_of_opencode_is_one_with_exit_code_0_and_after_a_step(watch):
    error = line(type="error", sessionID="s", error={"name": "ProviderAuthError", "data": {"message": "no key"}})
    assert watch("opencode", step() + error, 0)[1].failure is FailureClass.AUTH
    assert watch("opencode", error + step(), 0)[1].failure is FailureClass.AUTH


def test_an_account_with_nothing_left_is_no_rate_limit(watch):
    body = json.dumps({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
    data = {"message": "You exceeded your current quota", "statusCode": 429, "responseBody": body}
    _, verdict = watch("opencode", line(type="error", error={"name": "APIError", "data": data}), 1)
    assert (verdict.failure, verdict.message) == (FailureClass.AUTH, "You exceeded your current quota")
    data["message"] += ", please retry in 32.5s"
    _, verdict = watch("opencode", line(type="error", error={"name": "APIError", "data": data}), 1)
    assert (verdict.failure, verdict.limited_until) == (FailureClass.RATE_LIMITED, NOW + 32_500_000)


BANNER = "Aider v0.86.2\nMain model: x with diff edit format\n\n"


def test_aiders_report_may_be_wrapped_and_its_rounds_add_up(watch):
    output = BANNER + (
        "First answer.\n\nTokens: 12k sent, 1.1k cache write, 2.2k cache hit, 1.3k received. Cost: $0.12\nmessage, "
        "$0.12 session.\nApplied edit to a.py\nCommit 0a1b2c3 feat: x\n\nSecond\nanswer.\n\n"
        "Tokens: 900 sent, 50 received.\nCost: $0.03 message, $0.15 session.\n"
    )
    seen, verdict = watch("aider", output, 0)
    assert verdict.summary == "Second\nanswer."
    assert verdict.usage == Usage(input_tokens=12_900, output_tokens=1350, cached_tokens=2200, cost_usd=0.15)
    assert Progress("Applied edit to a.py") in seen
    assert watch("aider", output, cuts=range(len(output)))[1] == verdict


def test_aider_that_was_limited_and_went_on_has_succeeded(stream, watch):
    limited = stream("aider/rate_limit.txt").decode()
    _, verdict = watch("aider", limited + "The answer.\n\nTokens: 10 sent, 2 received.\n", 0)
    assert verdict == Verdict(
        summary="The answer.", usage=Usage(input_tokens=10, output_tokens=2, cached_tokens=0), failure=None
    )


def test_an_error_after_an_answer_of_aider_is_a_failure(watch):
    output = BANNER + "One.\n\nTokens: 1 sent, 1 received.\n\nlitellm.APIConnectionError: no route\nto host\n"
    _, verdict = watch("aider", output, 0)
    assert verdict.failure is FailureClass.AGENT_ERROR
    assert verdict.message == "litellm.APIConnectionError: no route to host"
    assert verdict.summary == "One."


def test_what_aider_warned_of_before_it_began_is_not_why_it_ended(watch):
    _, verdict = watch("aider", "Too many requests to its own update server\n" + BANNER + "Half an ans", 1)
    assert (verdict.failure, verdict.message) == (FailureClass.AGENT_ERROR, "exited with code 1")


def test_aider_with_a_bad_flag_is_a_matter_of_config(watch):
    _, verdict = watch("aider", "usage: aider [-h]\naider: error: unrecognized arguments: --no-such-flag\n", 2)
    assert verdict.failure is FailureClass.CONFIG
