"""Each capture of a real program, fed whole, byte by byte and in any pieces, gives the one verdict that it should."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opusd.agents.adapters import MEASURES, adapter
from opusd.agents.adapters.base import Asked, Limited, Progress, Said, Session, Usage, UsageSeen, Verdict
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass
from opusd.core.times import SECOND

NOW = 1_795_480_000_000_000
DONE = "The feature is done: parser.py now handles empty input."
AGENT_ERROR, AUTH, CONFIG, LIMITED = (
    FailureClass.AGENT_ERROR, FailureClass.AUTH, FailureClass.CONFIG, FailureClass.RATE_LIMITED,
)  # fmt: skip


def used(fresh, out, cached, cost=None):
    return Usage(input_tokens=fresh, output_tokens=out, cached_tokens=cached, cost_usd=cost)


def failed(failure, message, session=None, usage=None, **more):
    return Verdict(failure=failure, message=message, session_id=session, usage=usage, **more)


NOTHING = used(0, 0, 0, 0.0)
LIMIT = "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2.5s."

VERDICTS = {
    ("claude/ok.jsonl", 0): Verdict(
        summary=DONE,
        session_id="574ad4dc-1e23-42bf-9289-700288b05887",
        usage=used(1200, 42, 300, 0.007199999999999999),
    ),
    ("claude/tool.jsonl", 0): Verdict(
        summary=DONE,
        session_id="f1a2768a-3bd5-4af3-8a59-108e4c0f2f48",
        usage=used(2400, 72, 600, 0.014099999999999998),
    ),
    ("claude/denied.jsonl", 0): Verdict(
        summary=DONE,
        message="permission denied: Bash",
        session_id="0429a5cd-e91d-45a6-8c7f-0181557e0e03",
        usage=used(2400, 84, 600, 0.014399999999999998),
    ),
    ("claude/resumed.jsonl", 0): Verdict(
        summary=DONE,
        session_id="11111111-1111-4111-8111-111111111111",
        usage=used(1200, 42, 300, 0.007199999999999999),
    ),
    ("claude/rate_limit.jsonl", 1): failed(
        LIMITED,
        "API Error: Request rejected (429) · This request would exceed your account's rate limit. "
        "Please try again later.",
        "57238174-080d-4a46-9ca7-b6830daa00c1",
        NOTHING,
    ),
    ("claude/auth_error.jsonl", 1): failed(
        AUTH, "Invalid API key · Fix external API key", "a53a2a20-dbf0-4f3e-a557-1439ab7dcca9", NOTHING
    ),
    ("claude/overloaded.jsonl", 1): failed(
        AGENT_ERROR,
        "API Error: 529 Overloaded. This is a server-side issue, usually temporary — try again in a moment. "
        "If it persists, check your inference gateway (127.0.0.1:8099).",
        "c41074ec-5af0-4ee9-be05-b4ddf334481b",
        NOTHING,
    ),
    ("claude/max_turns.jsonl", 1): failed(
        AGENT_ERROR,
        "Reached maximum number of turns (1)",
        "a977a8ab-9134-46ce-be2d-35b3b2ae962f",
        used(1200, 42, 300, 0.007199999999999999),
    ),
    ("claude/terminated.jsonl", 143): failed(
        AGENT_ERROR, "exited with code 143 (SIGTERM)", "3eaaa330-ad8d-456c-89a8-6ffb21179afc"
    ),
    ("claude/killed.jsonl", -9): failed(
        AGENT_ERROR, "ended by SIGKILL", "3b46866b-c4ba-4517-8a53-9c12b6151f5d", used(1200, 1, 300)
    ),
    ("claude/killed_resumed.jsonl", 0): Verdict(
        summary=DONE,
        session_id="3b46866b-c4ba-4517-8a53-9c12b6151f5d",
        usage=used(1200, 42, 300, 0.007199999999999999),
    ),
    ("claude/asked.jsonl", 0): Verdict(
        summary=DONE,
        session_id="14f6188e-01c8-45e0-ad46-c6b677daceed",
        usage=used(2400, 84, 600, 0.014399999999999998),
        question=("Which port should the service use?", ["8080", "9090"]),
    ),
    ("claude/answered.jsonl", 0): Verdict(
        summary=DONE,
        session_id="14f6188e-01c8-45e0-ad46-c6b677daceed",
        usage=used(1200, 42, 300, 0.007199999999999999),
    ),
    ("claude/subscription_limit.jsonl", 1): failed(
        LIMITED,
        "You've hit your session limit · resets 5:07am (UTC)",
        "d4f8f1ec-c280-497c-abdf-ebe7894f7433",
        NOTHING,
        limited_until=1_795_583_244 * SECOND,
    ),
    ("claude/bad_flag.txt", 1): failed(CONFIG, "exited with code 1: error: unknown option '--no-such-flag'"),
    ("claude/unknown_session.jsonl", 1): failed(
        AGENT_ERROR,
        "No conversation found with session ID: 00000000-0000-4000-8000-000000000000",
        "00000000-0000-4000-8000-000000000000",
        NOTHING,
        session_unknown=True,
    ),
    ("codex/ok.jsonl", 0): Verdict(
        summary=DONE, session_id="01a20111-325f-7101-b4c1-4ed5a65ed1b9", usage=used(1500, 42, 300)
    ),
    ("codex/ok_second_try.jsonl", 0): Verdict(
        summary=DONE, session_id="01a20ae1-6e74-7eb3-931d-a43f8a99c7b6", usage=used(1500, 42, 300)
    ),
    ("codex/resumed.jsonl", 0): Verdict(
        summary=DONE, session_id="01a20ae3-325d-7001-a2a2-5a3579caa2ce", usage=used(3000, 84, 600)
    ),
    ("codex/rate_limit.jsonl", 1): failed(
        LIMITED, "exceeded retry limit, last status: 429 Too Many Requests", "01a20111-49d5-7c40-94e2-024100258317"
    ),
    ("codex/auth_error.jsonl", 1): failed(
        AUTH,
        "unexpected status 401 Unauthorized: Incorrect API key provided, url: http://127.0.0.1:8099/v1/responses",
        "01a20ac8-c968-7662-9a51-208c01e7800c",
    ),
    ("codex/overloaded.jsonl", 1): failed(
        AGENT_ERROR,
        "unexpected status 503 Service Unavailable: The server is overloaded, url: http://127.0.0.1:8099/v1/responses",
        "01a20acb-12c9-7750-aaf8-3a2d1bd0e879",
    ),
    ("codex/terminated.jsonl", 143): failed(
        AGENT_ERROR, "exited with code 143 (SIGTERM)", "01a20adf-43ac-79f3-81a0-0ecdc869e941"
    ),
    ("codex/killed.jsonl", -9): failed(AGENT_ERROR, "ended by SIGKILL", "01a210e3-09a9-7a93-a3a9-54ff6893e78a"),
    ("codex/killed_resumed.jsonl", 0): Verdict(
        summary=DONE, session_id="01a210e3-09a9-7a93-a3a9-54ff6893e78a", usage=used(3000, 84, 600)
    ),
    ("codex/asked.jsonl", 0): Verdict(
        summary=DONE, session_id="01a210e3-217b-7be2-a31f-5f13182ceea5", usage=used(3000, 84, 600)
    ),
    ("codex/bad_flag.txt", 2): failed(CONFIG, "exited with code 2: error: unexpected argument '--no-such-flag' found"),
    ("codex/unknown_session.txt", 1): failed(
        AGENT_ERROR,
        "exited with code 1: Error: thread/resume: thread/resume failed: no rollout found for thread id "
        "01a20adf-43ac-79f3-81a0-0ecdc869e999 (code -32600)",
        session_unknown=True,
    ),
    ("opencode/ok.jsonl", 0): Verdict(
        summary=DONE, session_id="ses_dfeee996affeBEXZmiDdNsKjP6", usage=used(1500, 42, 0, 0.0)
    ),
    ("opencode/rate_limit.jsonl", 1): failed(
        LIMITED, LIMIT, "ses_df5226705ffeWmRs8fyKzGiOVl", limited_until=NOW + 3 * SECOND
    ),
    ("opencode/auth_error.jsonl", 1): failed(AUTH, "Incorrect API key provided", "ses_df5304200ffehJlV7FV1Bqf7Cp"),
    ("opencode/overloaded.jsonl", 1): failed(AGENT_ERROR, "The server is overloaded", "ses_df521e4ceffenfgSzMw6Nm87cX"),
    ("opencode/bad_model.jsonl", 1): failed(
        AGENT_ERROR, "Unexpected server error. Check server logs for details.", "ses_df52065e4ffeNEtdvO6qRDPrnn"
    ),
    ("opencode/killed.jsonl", -9): failed(
        AGENT_ERROR, "ended by SIGKILL", "ses_def1cc3a8ffe103aPMwucMimPg", used(1500, 42, 0, 0.0)
    ),
    ("opencode/resumed.jsonl", 0): Verdict(
        summary=DONE, session_id="ses_def1cc3a8ffe103aPMwucMimPg", usage=used(1500, 42, 0, 0.0)
    ),
    ("opencode/unknown_session.txt", 1): failed(
        AGENT_ERROR, "exited with code 1: Error: Session not found", session_unknown=True
    ),
    ("aider/ok.txt", 0): Verdict(summary=DONE, usage=used(2500, 13, 0, 0.0032)),
    ("aider/auth_error.txt", 0): failed(
        AUTH,
        "litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided "
        "The API provider is not able to authenticate you. Check your API key.",
    ),
    ("aider/overloaded.txt", 0): failed(
        AGENT_ERROR,
        "litellm.ServiceUnavailableError: ServiceUnavailableError: OpenAIException - The server is overloaded "
        "The API provider's servers are down or overloaded.",
    ),
    ("aider/rate_limit.txt", 0): failed(
        LIMITED,
        "litellm.RateLimitError: RateLimitError: OpenAIException - Rate limit reached for gpt-5 in organization org-x "
        "on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2.5s. "
        "The API provider has rate limited you. Try again later or check your quotas.",
        limited_until=NOW + 2_500_000,
    ),
    ("aider/killed.txt", -9): failed(AGENT_ERROR, "ended by SIGKILL"),
    ("aider/resumed.txt", 0): Verdict(summary=f"parser.py\n{DONE}", usage=used(5000, 24, 0, 0.0066)),
    ("aider/bad_model.txt", 0): failed(
        CONFIG,
        "litellm.BadRequestError: LLM Provider NOT provided. Pass in the LLM provider you are trying to call. "
        "You passed model=nope/none Pass model as E.g. For 'Huggingface' inference endpoints pass in "
        "`completion(model='huggingface/starcoder',..)` Learn more: https://docs.litellm.ai/docs/providers",
    ),
}


def ended(code):
    """A code below 0 is a signal."""
    return Exit(kind="exit", code=code) if code >= 0 else Exit(kind="signal", signal=-code)


def expected(name, code, verdict):
    """What an aider that answered nothing leaves as a summary is the end of its output."""
    assert verdict.summary or not name.startswith("aider/")
    return VERDICTS[name, code].summary or (verdict.summary if name.startswith("aider/") else "")


@pytest.mark.parametrize(("name", "code"), VERDICTS)
def test_a_capture_gives_its_verdict_whole_and_byte_by_byte(name, code, stream, watch):
    program, data = name.split("/")[0], stream(name)
    seen, verdict = watch(program, data, how=ended(code))
    wanted = VERDICTS[name, code]
    for field in Verdict.__struct_fields__:
        want = expected(name, code, verdict) if field == "summary" else getattr(wanted, field)
        assert getattr(verdict, field) == want, field
    assert watch(program, data, how=ended(code), cuts=range(len(data))) == (seen, verdict)


@pytest.mark.parametrize(("name", "code"), VERDICTS)
def test_a_capture_gives_its_verdict_in_any_pieces(name, code, stream, watch):
    program, data = name.split("/")[0], stream(name)
    whole = watch(program, data, how=ended(code))

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, len(data)), max_size=12))
    def holds(cuts):
        assert watch(program, data, how=ended(code), cuts=cuts) == whole

    holds()


def test_every_capture_has_its_verdict(stream):
    from pathlib import Path

    streams = Path(__file__).parents[2] / "data" / "agent-streams"
    files = {f"{path.parent.name}/{path.name}" for path in streams.glob("*/*")}
    assert files == {name for name, _ in VERDICTS}


def test_claude_is_seen_to_work_while_it_does(stream, watch):
    seen, _ = watch("claude", stream("claude/tool.jsonl"))
    assert seen == [
        Session("f1a2768a-3bd5-4af3-8a59-108e4c0f2f48"),
        UsageSeen(used(1200, 1, 300)),
        Progress("Bash: write a file"),
        UsageSeen(used(2400, 2, 600)),
        Said(DONE),
        UsageSeen(used(2400, 72, 600, 0.014099999999999998), final=True),
    ]


def test_a_limit_that_a_program_waits_out_by_itself_is_seen_and_forgotten(stream, watch):
    seen, verdict = watch("codex", stream("codex/ok_second_try.jsonl"))
    assert [one for one in seen if isinstance(one, Limited)] == [
        Limited(None, "Reconnecting... 1/1 (exceeded retry limit, last status: 429 Too Many Requests)")
    ]
    assert verdict.failure is None
    assert verdict.limited_until is None


def test_claude_asks_with_its_own_tool_where_somebody_may_be_asked(stream, watch):
    """`--permission-prompt-tool stdio` offers the tool; nobody answers there, so the question is left for a person."""
    seen, _ = watch("claude", stream("claude/asked.jsonl"))
    assert Asked("Which port should the service use?", ["8080", "9090"]) in seen


def test_a_limited_subscription_names_its_reset_before_claude_ends(stream, watch):
    seen, _ = watch("claude", stream("claude/subscription_limit.jsonl"), 1)
    assert Limited(1_795_583_244 * SECOND, "limit reached: five_hour") in seen


def test_what_aider_says_of_a_restored_history_is_not_its_answer(stream, watch):
    seen, _ = watch("aider", stream("aider/resumed.txt"))
    assert next(one for one in seen if isinstance(one, Said)) == Said(DONE)


def test_codex_counts_a_whole_session_and_its_adapter_what_is_new(stream, watch):
    _, verdict = watch("codex", stream("codex/resumed.jsonl"), before=used(1500, 42, 300))
    assert verdict.usage == used(1500, 42, 300)


def test_aider_tells_each_of_its_waits(stream, watch):
    seen, _ = watch("aider", stream("aider/rate_limit.txt"))
    assert len([one for one in seen if isinstance(one, Limited)]) == 8
    assert Progress("Retrying in 32.0 seconds...") in seen


def test_there_is_an_adapter_for_every_name_and_no_other():
    for name in MEASURES:
        assert adapter(name).feed("x\n") == []
    with pytest.raises(ValueError, match="there is no output adapter 'cladue'"):
        adapter("cladue")


def test_what_cannot_be_measured_is_said():
    assert {name for name, can in MEASURES.items() if can.tokens} == {"claude", "codex", "opencode", "aider"}
    assert {name for name, can in MEASURES.items() if can.cost} == {"claude", "opencode", "aider"}
