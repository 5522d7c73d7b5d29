"""Claude Code's endings that were not captured: limited subscriptions, questions, results too long to keep."""

import json
import signal
import tracemalloc

import pytest

from opusd.agents.adapters import adapter
from opusd.agents.adapters.base import Asked, Limited, Progress, Said, Session, Usage, UsageSeen
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass
from opusd.core.times import HOUR, SECOND, from_rfc3339

NOW = 1_795_480_000_000_000  # 2026-11-24T00:26:40Z
DONE = "The feature is done: parser.py now handles empty input."
RESET = NOW // SECOND + 3600

KILLED = Exit(kind="signal", signal=signal.SIGKILL)


def line(**event):
    return json.dumps(event, separators=(",", ":")) + "\n"


def result(text="", **more):
    return line(type="result", **{"subtype": "success", "is_error": False, "result": text, "session_id": "s", **more})


def refused(**info):
    told = {"status": "rejected", "resetsAt": RESET, "rateLimitType": "five_hour", **info}
    return line(type="rate_limit_event", rate_limit_info=told, session_id="s")


def use(name, **given):
    block = {"type": "tool_use", "id": "t1", "name": name, "input": given}
    return line(type="assistant", message={"id": "m1", "content": [block]}, parent_tool_use_id=None, session_id="s")


def test_a_limited_subscription_names_its_reset_in_an_event(watch):
    text = "You've hit your limit · resets 3:45pm"
    seen, verdict = watch("claude", refused() + result(text, is_error=True), 1)
    assert Limited(RESET * SECOND, "limit reached: five_hour") in seen
    assert verdict.failure is FailureClass.RATE_LIMITED
    assert verdict.limited_until == NOW + HOUR
    assert verdict.message == text


def test_without_the_event_the_text_names_it(watch):
    _, verdict = watch("claude", result("You've hit your limit, resets 3:45pm (America/New_York)", is_error=True), 1)
    assert verdict.failure is FailureClass.RATE_LIMITED
    assert verdict.limited_until == from_rfc3339("2026-11-24T20:45:00Z")


def test_a_clock_time_without_a_zone_is_in_the_zone_that_was_given():
    from zoneinfo import ZoneInfo

    watching = adapter("claude", ZoneInfo("America/New_York"))
    watching.feed(result("You've hit your limit · resets 3:45pm", is_error=True))
    verdict = watching.end(Exit(kind="exit", code=1), NOW, "")
    assert verdict.limited_until == from_rfc3339("2026-11-24T20:45:00Z")


@pytest.mark.parametrize("resets_at", [RESET + 9 * 86400, RESET - 7200, None, "soon"])
def test_a_reset_that_is_not_believed_leaves_the_limit(resets_at, watch):
    _, verdict = watch(
        "claude", refused(resetsAt=resets_at) + result("API Error: Request rejected (429)", is_error=True), 1
    )
    assert verdict.failure is FailureClass.RATE_LIMITED
    assert verdict.limited_until is None


def test_a_reset_in_milliseconds_is_read_as_one(watch):
    seen, verdict = watch("claude", refused(resetsAt=RESET * 1000) + result("no", is_error=True), 1)
    assert seen[1] == Limited(RESET * SECOND, "limit reached: five_hour")
    assert verdict.limited_until == NOW + HOUR


@pytest.mark.parametrize("status", ["allowed", "allowed_warning"])
def test_what_is_allowed_is_no_limit(status, watch):
    seen, verdict = watch("claude", refused(status=status) + result("failed", is_error=True), 1)
    assert not [one for one in seen if isinstance(one, Limited)]
    assert verdict.failure is FailureClass.AGENT_ERROR
    _, verdict = watch("claude", refused() + refused(status=status) + result("failed", is_error=True), 1)
    assert verdict.failure is FailureClass.AGENT_ERROR


def test_a_refusal_that_was_got_over_is_no_failure(watch):
    _, verdict = watch("claude", refused() + result(DONE), 0)
    assert verdict.failure is None
    assert verdict.limited_until is None


def test_a_refusal_without_a_result_is_a_limit_unless_it_was_killed(watch):
    _, verdict = watch("claude", refused(), 1)
    assert (verdict.failure, verdict.limited_until) == (FailureClass.RATE_LIMITED, NOW + HOUR)
    _, verdict = watch("claude", refused(), how=KILLED)
    assert (verdict.failure, verdict.limited_until) == (FailureClass.AGENT_ERROR, None)


def test_the_flag_is_the_truth_and_the_subtype_says_nothing(watch):
    assert watch("claude", result("broken", subtype="success", is_error=True), 0)[1].failure is FailureClass.AGENT_ERROR
    assert watch("claude", result(DONE, subtype="error_of_any_kind", is_error=False), 0)[1].failure is None
    assert watch("claude", line(type="result", subtype="success", result=DONE), 0)[1].failure is not None


def test_an_agent_that_writes_about_limits_is_not_limited(stream, watch):
    talk = stream("claude/ok.jsonl").replace(
        b"The feature is done: parser.py now handles empty input.",
        b"HTTP 429 rate limit, invalid api key, resets 3:45pm, unknown option",
    )
    assert watch("claude", talk, 0)[1].failure is None
    unfinished = talk[: talk.rstrip().rindex(b"\n") + 1]
    assert watch("claude", unfinished, 1)[1].failure is FailureClass.AGENT_ERROR
    assert watch("claude", unfinished[:-40], 1)[1].failure is FailureClass.AGENT_ERROR


@pytest.mark.parametrize(("said", "failure"), [
    ("Invalid API key · Please run /login", FailureClass.AUTH),
    ("Credit balance is too low", FailureClass.AUTH),
    ("OAuth token has expired. Please log in again", FailureClass.AUTH),
    ("There's an issue with the selected model (x). It may not exist", FailureClass.CONFIG),
    ("API Error: 500 Internal server error", FailureClass.AGENT_ERROR),
    ("API Error: Connection error.", FailureClass.AGENT_ERROR),
    ("You've hit your weekly limit · resets Nov 27 at 4:30am (Asia/Calcutta)", FailureClass.RATE_LIMITED),
])  # fmt: skip
def test_without_a_status_the_words_tell_the_class(said, failure, watch):
    assert watch("claude", result(said, is_error=True), 1)[1].failure is failure


@pytest.mark.parametrize(("kind", "failure"), [
    ("authentication_failed", FailureClass.AUTH), ("billing_error", FailureClass.AUTH),
    ("rate_limit", FailureClass.RATE_LIMITED), ("server_error", FailureClass.AGENT_ERROR),
    ("invalid_request", FailureClass.AGENT_ERROR), ("unknown", FailureClass.AGENT_ERROR),
])  # fmt: skip
def test_or_the_kind_that_claude_gives_its_own_error(kind, failure, watch):
    message = {"id": "m", "content": [{"type": "text", "text": "no"}]}
    seen, verdict = watch(
        "claude", line(type="assistant", message=message, error=kind) + result("no", is_error=True), 1
    )
    assert verdict.failure is failure
    assert not [one for one in seen if isinstance(one, Said)]


ASK = {
    "question": "Which database?",
    "options": [{"label": "SQLite", "description": "one file"}, {"label": "Postgres"}],
}


def answer(**more):
    block = {"type": "tool_result", "tool_use_id": "t1", "content": "x", **more}
    return line(type="user", message={"role": "user", "content": [block]}, session_id="s")


@pytest.mark.parametrize("after", ["", answer(is_error=True)])
def test_a_question_that_nobody_answered_is_the_outcome(after, watch):
    seen, verdict = watch("claude", use("AskUserQuestion", questions=[ASK]) + after + result("I have to know."), 0)
    assert Asked("Which database?", ["SQLite", "Postgres"]) in seen
    assert verdict.failure is None
    assert verdict.question == ("Which database?", ["SQLite", "Postgres"])


def test_one_that_was_answered_is_none(watch):
    _, verdict = watch("claude", use("AskUserQuestion", questions=[ASK]) + answer(is_error=False) + result(DONE), 0)
    assert verdict.question is None


def test_a_question_among_the_denials_of_the_result_is_one(watch):
    denial = {"tool_name": "AskUserQuestion", "tool_use_id": "t1", "tool_input": {"questions": [ASK]}}
    _, verdict = watch("claude", result(DONE, permission_denials=[denial]), 0)
    assert verdict.question == ("Which database?", ["SQLite", "Postgres"])
    assert verdict.message == ""


def test_several_questions_are_one_text(watch):
    both = [ASK, {"question": "Which port?", "options": ["80"]}]
    _, verdict = watch("claude", use("AskUserQuestion", questions=both) + result(""), 0)
    assert verdict.question == ("Which database? (SQLite / Postgres)\nWhich port? (80)", [])


def test_a_question_of_an_attempt_that_failed_is_not_asked(watch):
    _, verdict = watch("claude", use("AskUserQuestion", questions=[ASK]) + result("no", is_error=True), 1)
    assert verdict.question is None


@pytest.mark.parametrize("given", [{}, {"questions": []}, {"questions": "x"}, {"questions": [{"question": 5}]}])
def test_a_question_without_words_is_none(given, watch):
    seen, verdict = watch("claude", use("AskUserQuestion", **given) + result(DONE), 0)
    assert verdict.question is None
    assert not [one for one in seen if isinstance(one, Asked)]


def test_a_list_of_things_to_do_tells_how_far_it_is(watch):
    todos = [
        {"content": "Read", "status": "completed"},
        {"content": "Write", "status": "in_progress", "activeForm": "Writing"},
    ]
    seen, _ = watch("claude", use("TodoWrite", todos=todos), 0)
    assert seen == [Session("s"), Progress("Writing", 0.5)]


def test_a_message_of_two_blocks_tells_its_usage_once(watch):
    usage = {"input_tokens": 10, "output_tokens": 1}
    blocks = [{"type": "text", "text": "One"}], [{"type": "text", "text": "Two"}]
    both = [line(type="assistant", message={"id": "m", "content": block, "usage": usage}) for block in blocks]
    seen, _ = watch("claude", "".join(both))
    assert seen == [UsageSeen(Usage(input_tokens=10, output_tokens=1, cached_tokens=0)), Said("One"), Said("Two")]


def test_what_a_subagent_says_is_not_the_agents_word(watch):
    message = {"id": "m", "content": [{"type": "text", "text": "found it"}]}
    seen, verdict = watch("claude", line(type="assistant", message=message, parent_tool_use_id="t1"), 1)
    assert seen == []
    assert verdict.summary == ""


def test_messages_are_counted_once_and_all_models_in_the_end(watch):
    def message(number, out):
        usage = {
            "input_tokens": 10,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 3,
            "output_tokens": out,
        }
        return line(type="assistant", message={"id": f"m{number}", "content": [], "usage": usage})

    many = "".join(message(number, 1) + message(number, 2) for number in range(1000))
    _, verdict = watch("claude", many, how=KILLED)
    assert verdict.usage == Usage(input_tokens=15_000, output_tokens=2000, cached_tokens=3000)
    models = {name: {"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3} for name in ("big", "small")}
    _, verdict = watch("claude", many + result(DONE, modelUsage=models, total_cost_usd=0.5), 0)
    assert verdict.usage == Usage(input_tokens=2, output_tokens=4, cached_tokens=6, cost_usd=0.5)


def test_a_result_of_100_mib_still_says_how_it_ended(watch):
    words = {"is_error": False, "api_error_status": None, "result": "Done. é\\n" + "x" * (100 << 20)}
    tail = {"session_id": "s", "total_cost_usd": 0.25}
    long = line(type="result", subtype="success", **words, **tail)
    watching = adapter("claude")
    tracemalloc.start()
    try:
        for begin in range(0, len(long), 1 << 20):
            watching.feed(long[begin : begin + (1 << 20)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    verdict = watching.end(Exit(kind="exit", code=0), NOW, "")
    assert verdict.failure is None
    assert verdict.summary.startswith("Done. é")
    assert verdict.usage == Usage(cost_usd=0.25)


def test_a_long_result_with_an_error_is_one(watch):
    words = {"is_error": True, "api_error_status": 429, "result": "x" * (2 << 20)}
    assert watch("claude", line(type="result", **words), 1)[1].failure is FailureClass.RATE_LIMITED
