"""Endings that were not captured, built from captured lines: limits of a subscription, kills, cuts, holes, rubbish."""

import json
import signal
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opusd.agents.adapters import MEASURES, adapter
from opusd.agents.adapters.base import Asked, Limited, Progress, Said, Session, Usage, UsageSeen, Verdict
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass
from opusd.core.times import DAY, HOUR, SECOND, from_rfc3339

NOW = 1_795_480_000_000_000  # 2026-11-24T00:26:40Z
DONE = "The feature is done: parser.py now handles empty input."
RESET = NOW // SECOND + 3600

LAST = {
    "claude": "claude/ok.jsonl",
    "codex": "codex/ok.jsonl",
    "opencode": "opencode/ok.jsonl",
    "aider": "aider/ok.txt",
}
"""A good ending of each program whose stream tells one."""

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


# --------------------------------------------------------------------------------- exit and final event, all programs


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


# ----------------------------------------------------------------------------------------------------------- Claude


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


# ------------------------------------------------------------------------------------------ Codex, OpenCode, aider


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


# --------------------------------------------------------------------------------------- holes, rubbish, other pieces


@pytest.mark.parametrize("program", LAST)
def test_a_hole_before_the_end_loses_what_was_in_it_and_nothing_else(program, stream):
    data = stream(LAST[program]).decode()
    last = data.rstrip().rindex("\n") + 1
    for at in (10, last // 2, last - 5):
        watching = adapter(program)
        watching.feed(data[:at])
        watching.gap()
        watching.feed(data[last - 3 :])
        verdict = watching.end(Exit(kind="exit", code=0), NOW, data[-100:])
        assert verdict.failure is None, at


@pytest.mark.parametrize("program", MEASURES)
def test_rubbish_between_lines_changes_no_verdict(program, stream, watch):
    if program not in LAST or program == "aider":
        assert watch(program, bytes(range(256)) * 50, 1)[1].failure is FailureClass.AGENT_ERROR
        return
    lines = stream(LAST[program]).splitlines(keepends=True)
    rubbish = [
        bytes(range(256)),
        b"\n\xff\xfe\x00\n",
        b'{"type":5}\n[]\nnull\n{"type":"new.event","x":[[[[]]]]}\n',
        b"{" * 5000,
    ]
    mixed = b"".join(
        part for text, dirt in zip(lines, rubbish * 9, strict=False) for part in (b"\n", dirt, b"\n", text)
    )
    assert watch(program, mixed, 0)[1] == watch(program, b"".join(lines), 0)[1]


FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["type", "message", "content", "usage", "item", "part", "error", "data", "tokens", "input_tokens", "result",
         "is_error", "rate_limit_info", "resetsAt", "status", "text", "questions", "permission_denials", "modelUsage"],
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
TYPES = ["assistant", "user", "result", "system", "rate_limit_event", "item.completed", "item.updated",
         "turn.completed", "turn.failed", "error", "thread.started", "text", "step_finish", "tool_use"]  # fmt: skip


@pytest.mark.parametrize("program", MEASURES)
def test_events_of_any_shape_break_nothing(program):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(
        ["message", "item", "part", "error", "usage", "result", "is_error", "rate_limit_info", "session_id", "errors",
         "permission_denials", "modelUsage", "total_cost_usd", "thread_id", "api_error_status"]), FIELDS)), max_size=5),
        st.integers(0, 2**53), st.sampled_from([0, 1, 2, 137, 143, 255]))  # fmt: skip
    def holds(events, now, code):
        watching = adapter(program)
        for kind, fields in events:
            watching.feed(json.dumps({"type": kind, **fields}) + "\n")
        verdict = watching.end(Exit(kind="exit", code=code), now, "tail")
        assert verdict.failure is not None or code == 0 or program == "claude"
        assert verdict.limited_until is None or now < verdict.limited_until <= now + 8 * DAY
        assert len(verdict.message) <= 600
        assert "\0" not in verdict.summary + (verdict.session_id or "")
        verdict.summary.encode()

    holds()


@pytest.mark.parametrize("program", MEASURES)
def test_any_bytes_in_any_pieces_break_nothing(program, stream, watch):
    base = stream(LAST[program]) if program in LAST else b"hello\n"

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(base)), st.binary(max_size=6)), max_size=6),
           st.lists(st.integers(0, len(base)), max_size=6))  # fmt: skip
    def holds(edits, cuts):
        data = base
        for at, new in edits:
            data = data[:at] + new + data[at + len(new) :]
        assert watch(program, data, 0, cuts=cuts) == watch(program, data, 0)

    holds()


@pytest.mark.parametrize("program", MEASURES)
def test_a_line_of_100_mib_in_a_stream_takes_little_memory_and_changes_nothing(program, stream, watch):
    data = stream(LAST[program]).decode() if program in LAST else "hello\n"
    middle = data.index("\n") + 1
    watching, piece = adapter(program), '{"type":"user","x":"' + "y" * (1 << 20)
    watching.feed(data[:middle])
    tracemalloc.start()
    try:
        for _ in range(100):
            watching.feed(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    watching.feed("\n" + data[middle:])
    assert peak < 8 << 20
    assert watching.end(Exit(kind="exit", code=0), NOW, data[-2048:]) == watch(program, data, 0)[1]


def test_a_long_stream_takes_little_memory():
    for program in MEASURES:
        watching = adapter(program)
        batch = "plain words\n" * 10 + use("AskUserQuestion", questions=[ASK]) + step(input=1)
        tracemalloc.start()
        try:
            for _ in range(3000):
                watching.feed(batch)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20, program
