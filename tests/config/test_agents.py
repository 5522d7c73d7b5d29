"""What the table of an agent says of its output, its sessions and who carries on for it."""

from typing import Any

import pytest

from opusd.config import ConfigError, parse
from opusd.core.retry import FailureClass

CLAUDE = {"argv": ["claude"], "output": "claude"}


def agents(**tables: dict[str, Any]) -> dict[str, Any]:
    return {"agents": tables}


def test_sessions_silence_and_chains_reach_the_core() -> None:
    config = parse(
        agents(
            a=CLAUDE
            | {
                "resume_argv": ["claude", "--resume", "{session_id}"],
                "stall_after": "10m",
                "progress_pattern": "^step",
                "auto_resume": False,
                "escalate_to": "b",
                "escalate_after": 2,
                "escalate_on": ["timeout", "rate_limited"],
            },
            b=CLAUDE,
        )
        | {"defaults": {"answer_in": "1d"}}
    )
    agent, limits = config.agents["a"], config.limits()
    assert (agent.resume_argv[1], agent.output, agent.progress_pattern) == ("--resume", "claude", "^step")
    core = limits.agents["a"]
    assert (core.stall_after, core.auto_resume, core.escalate_to, core.escalate_after) == (600_000_000, False, "b", 2)
    assert core.escalate_on == (FailureClass.TIMEOUT, FailureClass.RATE_LIMITED)
    assert limits.answer_in == 86_400_000_000
    assert limits.agents["b"].auto_resume


def test_isolation_reaches_the_core_and_the_launches() -> None:
    config = parse(
        agents(a=CLAUDE | {"worktree": True, "verify": ["make", "test"], "memory_max": "4GiB", "nice": 10}, b=CLAUDE)
    )
    core = config.limits().agents
    assert (core["a"].worktree, core["a"].verify) == (True, ("make", "test"))
    assert (core["b"].worktree, core["b"].verify) == (False, ())
    assert (config.agents["a"].memory_max, config.agents["a"].nice) == (4 << 30, 10)
    assert (config.agents["b"].memory_max, config.agents["b"].nice) == (None, None)
    assert parse(agents(a=CLAUDE | {"memory_max": "off"})).agents["a"].memory_max is None


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a": CLAUDE | {"verify": ["", "x"]}}, "agents.a.verify: no argument holds a NUL, and the program has a name"),
        ({"a": CLAUDE | {"verify": "make test"}}, "agents.a.verify: expected a list"),
        ({"a": CLAUDE | {"memory_max": "1MiB"}}, "agents.a.memory_max is at least 16MiB"),
        ({"a": CLAUDE | {"nice": 20}}, "agents.a.nice"),
        ({"a": CLAUDE | {"worktree": "yes"}}, "agents.a.worktree: expected a boolean"),
        ({"a": {"argv": ["x"], "output": "gemini"}}, "agents.a.output"),
        ({"a": CLAUDE | {"resume_argv": ["claude", "--continue"]}}, "{session_id} stands nowhere in it"),
        ({"a": {"argv": ["x"], "resume_argv": ["x", "{session_id}"]}}, 'output = "text" tells of no session'),
        ({"a": CLAUDE | {"output": "aider", "resume_argv": ["x", "{session_id}"]}}, "tells of no session"),
        ({"a": CLAUDE | {"resume_argv": ["x", "{session_id}\0"]}}, "agents.a.resume_argv: no argument holds a NUL"),
        ({"a": CLAUDE | {"progress_pattern": "x"}}, "set stall_after"),
        ({"a": CLAUDE | {"progress_pattern": "(", "stall_after": 5}}, "agents.a.progress_pattern is not a regular"),
        ({"a": CLAUDE | {"stall_after": 0}}, "agents.a.stall_after is longer than 0"),
        ({"a": CLAUDE | {"escalate_after": 2}}, "agents.a.escalate_after: to whom?"),
        ({"a": CLAUDE | {"escalate_on": ["timeout"]}}, "agents.a.escalate_on: to whom?"),
        ({"a": CLAUDE | {"escalate_to": "b", "escalate_on": ["cancelled"]}, "b": CLAUDE}, "what a person cancelled"),
        ({"a": CLAUDE | {"escalate_to": "b"}}, "there is no agent 'b'"),
        ({"a": CLAUDE | {"escalate_to": "exec"}}, "a prompt needs an agent that takes one"),
        ({"a": CLAUDE | {"escalate_to": "a"}}, "goes round: a -> a"),
        (
            {name: CLAUDE | {"escalate_to": to} for name, to in (("a", "b"), ("b", "c"), ("c", "b"))},
            "goes round: a -> b -> c -> b",
        ),
        ({"a": CLAUDE, "exec": {"escalate_to": "a"}}, "agents.exec.escalate_to: exec runs commands"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(agents(**tables))
    assert message in str(refused.value)
