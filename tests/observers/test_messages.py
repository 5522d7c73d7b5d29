"""What a sink is told of, and what no message holds."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.config.notifications import Sink
from opusd.core.job import Event, Extra, Job, Outcome, Question, Run, Spec, Terms, Tier
from opusd.core.lifecycle import Status
from opusd.core.times import HOUR, MINUTE, to_rfc3339
from opusd.observers import messages
from opusd.store.base import Record

NOW = 1_767_225_600_000_000
WORDS = [*messages.KINDS, "drained"]
MARK = "PRIVATE"


def sink(*on: str, **fields: Any) -> Sink:
    return Sink(name="s", on=frozenset(on or WORDS), command=("true",), waited=10 * MINUTE, **fields)


def record(**fields: Any) -> Record:
    """A finished job, everything private in it marked."""
    terms = Terms(agent="claude", group="nightly", **fields.pop("terms", {}))
    job = Job(
        id=41, status=Status.FAILED, terms=terms, created_at=NOW - 2 * HOUR, queued_at=NOW - HOUR, completed_at=NOW,
        key="k", attempts=3, **fields,
    )  # fmt: skip
    spec = Spec(
        title=f"{MARK} title",
        prompt=f"{MARK} title\nand more",
        command=[MARK],
        env={"A": MARK, MARK: "b"},
        payload={"a": MARK},
        metadata={"a": MARK},
        labels=[MARK],
        cwd=f"/{MARK}",
        previous=[{"output_tail": MARK}],
        answers=[{"question": MARK, "answer": MARK}],
    )
    outcome = Outcome(result={"summary": MARK}, error={"message": MARK}, verify_output=MARK, session_id=MARK)
    return Record(job, spec, outcome)


def event(word: str, **fields: Any) -> Event:
    detail = {
        "failed": {"class": "agent_error", "message": MARK, "losses": 1},
        "escalated": {"class": "auth", "message": MARK, "escalated_to": 42, "agent": "codex"},
        "expired": {"expires_at": to_rfc3339(NOW)},
        "needs_input": {"question": 1},
        "budget": {"budget": "job_tokens", "used": 81234, "limit": 100000, "asking": 3},
        "rate_limited": {"agent": "claude", "until": to_rfc3339(NOW + HOUR), "named": True},
    }.get(word)
    base: dict[str, Any] = {"cursor": 9, "time": NOW, "kind": messages.KINDS[word], "detail": detail}
    if word != "rate_limited":
        base |= {"job": 41, "attempt": None if word == "expired" else 3, "before": "running", "after": "failed"}
    if word == "started":
        base["attempt"] = 1
    return Event(**{**base, **fields})


def told(to: Sink, about: Event, of: Record | None = None) -> dict[str, Any] | None:
    """The message, or None."""
    of = of or (record() if about.job is not None else None)
    if messages.word_of(to, about, of) is None:
        return None
    return msgspec.json.decode(messages.body_of(to, about, of))


def test_a_dead_letter_says_what_failed_and_how() -> None:
    assert told(sink(), event("failed")) == {
        "type": "job.failed",
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "data": {
            "text": "job 41 of claude failed for good after 3 attempts: agent_error",
            "job": 41,
            "key": "k",
            "agent": "claude",
            "group": "nightly",
            "tier": "normal",
            "interactive": False,
            "status": "failed",
            "attempts": 3,
            "class": "agent_error",
        },
    }


@pytest.mark.parametrize(
    ("word", "text", "more"),
    [
        (
            "escalated",
            "job 41 of claude failed: auth; job 42 of codex carries on",
            {"class": "auth", "escalated_to": 42, "escalated_to_agent": "codex"},
        ),
        ("expired", "job 41 of claude expired: it was queued for too long", {"reason": "it was queued for too long"}),
        ("needs_input", "job 41 of claude needs an answer", {"question": 1}),
        (
            "budget",
            "job 41 of claude has brought job_tokens to 81,234 of 100,000",
            {"budget": "job_tokens", "used": 81234, "limit": 100000},
        ),
        ("started", "job 41 of claude started, 1h after it was ready", {"waited_seconds": 3600}),
    ],
)
def test_each_event_has_its_sentence_and_its_data(word: str, text: str, more: dict[str, Any]) -> None:
    message = told(sink(), event(word))
    assert message is not None
    assert message["data"]["text"] == text
    assert {name: message["data"].get(name) for name in more} == more


def test_a_question_that_nobody_answered_is_another_reason_to_expire() -> None:
    message = told(sink(), event("expired", detail={"question": "nobody answered in time"}))
    assert message is not None
    assert message["data"]["reason"] == "nobody answered its question"


def test_other_updates_of_jobs_are_not_told_of() -> None:
    assert told(sink(), event("budget", detail={"timeout": True})) is None
    assert told(sink(), event("budget", detail={"asking": 1, "budget": "job_tokens"})) is None
    assert told(sink(), event("budget", detail=None)) is None


def test_dollars_are_told_with_their_cents() -> None:
    message = told(sink(), event("budget", detail={"budget": "day_cost_usd", "used": 8.127, "limit": 10.0}))
    assert message is not None
    assert message["type"] == "job.budget"
    assert "has brought day_cost_usd to 8.13 of 10" in message["data"]["text"]


def test_a_question_of_a_budget_is_in_words_of_ours() -> None:
    question = Question(1, MARK, ("continue", "stop"), budget="job_tokens")
    asked = told(sink(), event("needs_input"), record(extra=Extra(asked=1, question=question)))
    assert asked is not None
    assert asked["data"]["budget"] == "job_tokens"
    assert asked["data"]["text"] == "job 41 of claude needs an answer: its job_tokens is used up"


def test_a_rate_limit_names_the_agent_and_until_when() -> None:
    message = told(sink(), event("rate_limited"))
    assert message is not None
    assert message["type"] == "agent.cooling"
    assert message["data"]["agent"] == "claude"
    assert message["data"]["until"] == "2026-01-01T01:00:00.000000Z"


@pytest.mark.parametrize("word", messages.KINDS)
def test_a_sink_is_told_of_what_is_in_its_on_alone(word: str) -> None:
    of = record(terms={"interactive": True})
    assert told(sink(word), event(word), None if word == "rate_limited" else of) is not None
    assert told(sink(*set(WORDS) - {word}), event(word), of) is None


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({"agents": ("claude",)}, True),
        ({"agents": ("codex",)}, False),
        ({"groups": ("nightly", "other")}, True),
        ({"groups": ("other",)}, False),
        ({"min_tier": Tier.NORMAL}, True),
        ({"min_tier": Tier.URGENT}, False),
        ({"agents": ("claude",), "groups": ("other",)}, False),
    ],
)
def test_every_filter_must_hold(fields: dict[str, Any], passes: bool) -> None:
    assert (told(sink(**fields), event("failed")) is not None) is passes


def test_a_rate_limit_is_held_by_the_filter_on_agents_alone() -> None:
    assert told(sink(agents=("codex",)), event("rate_limited")) is None
    assert told(sink(groups=("other",), min_tier=Tier.CRITICAL), event("rate_limited")) is not None


def test_only_interactive_jobs_are_told_of_when_they_complete() -> None:
    assert told(sink(), event("completed")) is None
    assert told(sink(), event("completed"), record(terms={"interactive": True})) is not None


def test_only_a_first_start_after_a_long_wait_is_told_of() -> None:
    assert told(sink(), event("started", time=NOW - HOUR + 10 * MINUTE - 1)) is None
    assert told(sink(), event("started", time=NOW - HOUR + 10 * MINUTE)) is not None
    assert told(sink(), event("started", attempt=2)) is None


def test_a_clock_that_jumped_while_a_job_waited_makes_no_long_wait() -> None:
    run = Run(1, "a", b"", 1, over=False, started_at=NOW, skew=HOUR)
    assert told(sink(), event("started"), record(run=run)) is None


def test_a_job_that_is_gone_from_the_registry_is_not_told_of() -> None:
    assert messages.word_of(sink(), event("failed"), None) is None


def test_a_title_a_failure_and_a_question_are_there_for_a_sink_that_asks_for_them() -> None:
    asks = sink(include=frozenset({"title", "message", "question"}))
    failed = told(asks, event("failed"), record())
    assert failed is not None
    assert failed["data"]["title"] == "PRIVATE title"
    assert failed["data"]["message"] == MARK
    assert failed["data"]["text"].startswith("job 41 (PRIVATE title) of claude failed")
    question = Question(1, "which one?", ("a", "b"))
    asked = told(asks, event("needs_input"), record(extra=Extra(asked=1, question=question)))
    assert asked is not None
    assert (asked["data"]["question_text"], asked["data"]["options"]) == ("which one?", ["a", "b"])
    later = Question(2, "and which of those?")
    asked = told(asks, event("needs_input"), record(extra=Extra(asked=2, question=later)))
    assert asked is not None
    assert "question_text" not in asked["data"]


def test_no_control_character_of_a_title_reaches_a_program() -> None:
    of = record()
    of = msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, title="a\x1b[31m\n\u202eb\tc"))
    message = told(sink(include=frozenset({"title"})), event("failed"), of)
    assert message is not None
    assert message["data"]["title"] == "a [31m b c"


@given(
    word=st.sampled_from(list(messages.KINDS)),
    asked=st.booleans(),
    interactive=st.booleans(),
    run=st.booleans(),
    detail=st.dictionaries(st.sampled_from(["message", "output_tail", "text", "note"]), st.just(MARK)),
)
def test_no_message_holds_a_word_of_prompt_environment_output_or_question_unasked(
    word: str, asked: bool, interactive: bool, run: bool, detail: dict[str, str]
) -> None:
    question = Question(1, f"{MARK}?", (MARK,)) if asked else None
    running = Run(3, "a", MARK.encode(), 1, over=False, started_at=NOW, ending_reason=MARK, ending_by=MARK)
    of = record(
        extra=Extra(asked=1, question=question), terms={"interactive": interactive}, run=running if run else None
    )
    about = event(word)
    about = msgspec.structs.replace(about, detail={**detail, **(about.detail or {})}, actor=MARK)
    body = messages.body_of(sink(), about, None if word == "rate_limited" else of)
    assert MARK not in body
    assert messages.text_of(body)


def test_a_drained_queue_says_what_waits_for_something_else() -> None:
    assert "3 wait for something else" in messages.text_of(messages.drained(NOW, 3))
    assert "wait" not in messages.text_of(messages.drained(NOW, 0))
