"""Holes, rubbish, events of any shape and lines of any length break nothing and take bounded memory."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opusd.agents.adapters import MEASURES, adapter
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass
from opusd.core.times import DAY

NOW = 1_795_480_000_000_000  # 2026-11-24T00:26:40Z

LAST = {
    "claude": "claude/ok.jsonl",
    "codex": "codex/ok.jsonl",
    "opencode": "opencode/ok.jsonl",
    "aider": "aider/ok.txt",
}
"""A good ending of each program whose stream tells one."""


def line(**event):
    return json.dumps(event, separators=(",", ":")) + "\n"


def use(name, **given):
    block = {"type": "tool_use", "id": "t1", "name": name, "input": given}
    return line(type="assistant", message={"id": "m1", "content": [block]}, parent_tool_use_id=None, session_id="s")


ASK = {
    "question": "Which database?",
    "options": [{"label": "SQLite", "description": "one file"}, {"label": "Postgres"}],
}


def step(reason="stop", **tokens):
    part = {"type": "step-finish", "reason": reason, "tokens": tokens, "cost": 0.5}
    return line(type="step_finish", sessionID="s", part=part)


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


@pytest.mark.slow
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
