"""The tables of agents and retry policies: what they mean, and what each owes itself.

What one agent owes another is opusd/config/__init__.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import asdict, replace

from opusd.config.decode import ConfigError, decode, join
from opusd.config.tables import AgentTable, BudgetTable, File, RetryTable
from opusd.core.retry import PRESETS, FailureClass, Policy, Strategy

EXEC: Final = "exec"
"""Runs a job's own command."""
PULL: Final = "pull"
"""Workers alone take its jobs."""

_BUILT_IN: Final[dict[str, dict[str, Any]]] = {EXEC: {"retry": "none"}, PULL: {"slots": 0}}
_NEVER_RETRIED: Final = (FailureClass.RATE_LIMITED, FailureClass.LOST, FailureClass.CANCELLED)
_LEAST_MEMORY: Final = 16 << 20
_WITH_SESSIONS: Final = ("claude", "codex", "opencode")
"""Kinds of output that name their session."""


class AgentConfig(msgspec.Struct, frozen=True):
    """One way to do work. `slots` None: as many as the pool has, however that is resized."""

    name: str
    argv: tuple[str, ...] = ()
    resume_argv: tuple[str, ...] = ()
    stdin: str = "prompt"
    output: str = "text"
    slots: int | None = None
    max_queued: int | None = None
    starts_per_minute: int | None = None
    timeout: int | None = None
    stall_after: int | None = None
    progress_pattern: str | None = None
    auto_resume: bool = True
    env: dict[str, str | dict[str, str]] = {}
    env_pass: tuple[str, ...] = ()
    retry: Policy = PRESETS["default"]
    escalate_to: str | None = None
    escalate_after: int | None = None
    escalate_on: tuple[FailureClass, ...] | None = None
    may_submit: tuple[str, ...] = ()
    needs: dict[str, int] = {}
    worktree: bool = False
    verify: tuple[str, ...] = ()
    memory_max: int | None = None
    nice: int | None = None
    budget: BudgetTable = BudgetTable()


def read_policies(tables: Mapping[Any, RetryTable]) -> dict[str, Policy]:
    policies = dict(PRESETS)
    for name, table in tables.items():
        policies[name] = _policy(table, PRESETS.get(name, PRESETS["default"]), join("retry", name))
    return policies


def _policy(table: RetryTable, base: Policy, path: str) -> Policy:
    policy = replace(base, **{key: value for key, value in asdict(table).items() if value is not None})
    for failure in policy.on or ():
        if failure in _NEVER_RETRIED:
            raise ConfigError(
                f"{path}.on: {failure.value} is no matter of retries: such a job is put back, or was ended"
            )
    if policy.cap < policy.base:
        raise ConfigError(f"{path}.cap is shorter than its base")
    if policy.strategy is Strategy.NONE and policy.max_retries:
        raise ConfigError(f'{path}: with the strategy "none" nothing is retried, so max_retries is 0')
    return policy


def read_agents(data: Mapping[str, Any], file: File, policies: Mapping[str, Policy]) -> dict[str, AgentConfig]:
    """Those of the file in its order, after the built-in ones, which have defaults of their own."""
    agents = {}
    tables: dict[str, AgentTable] = {str(name): table for name, table in file.agents.items()}
    for name, built_in in _BUILT_IN.items():
        tables[name] = decode({**built_in, **data.get("agents", {}).get(name, {})}, AgentTable, f"agents.{name}")
    for name in sorted(tables, key=lambda name: name not in _BUILT_IN):
        table = tables[name]
        path = join("agents", name)
        if name in _BUILT_IN and table.argv:
            raise ConfigError(
                f"{path}.argv: " + ("exec runs the job's command" if name == EXEC else "pull starts nothing")
            )
        if name == PULL and table.slots != 0:
            raise ConfigError(f"{path}.slots: workers alone take the jobs of pull, so it has 0")
        if name not in _BUILT_IN and not table.argv and table.slots != 0:
            raise ConfigError(
                f"{path}.argv is missing: the program and its arguments (or slots = 0, for workers alone)"
            )
        agents[name] = _agent(name, table, policies, path)
    return agents


def _agent(name: str, table: AgentTable, policies: Mapping[str, Policy], path: str) -> AgentConfig:
    policy = _named_policy(table, policies, path)
    if table.max_retries is not None:
        if policy.strategy is Strategy.NONE and table.max_retries:
            raise ConfigError(f'{path}.max_retries: its retry policy is none; name another, such as retry = "default"')
        policy = replace(policy, max_retries=table.max_retries)
    for variable, value in table.env.items():
        _variable(variable, value, f"{path}.env")
    for key, argv in (("argv", table.argv), ("resume_argv", table.resume_argv), ("verify", table.verify)):
        if any("\0" in argument for argument in argv) or argv[:1] == ("",):
            raise ConfigError(f"{path}.{key}: no argument holds a NUL, and the program has a name")
    if table.memory_max is not None and table.memory_max < _LEAST_MEMORY:
        raise ConfigError(f'{path}.memory_max is at least 16MiB, or no program starts; "off" for no limit')
    _listening(table, path)
    _escalation(table, path)
    return AgentConfig(
        name=name,
        argv=table.argv,
        resume_argv=table.resume_argv,
        stdin=table.stdin,
        output=table.output,
        slots=table.slots,
        max_queued=table.max_queued,
        starts_per_minute=table.starts_per_minute,
        timeout=table.timeout,
        stall_after=table.stall_after,
        progress_pattern=table.progress_pattern,
        auto_resume=table.auto_resume,
        env=table.env,
        env_pass=table.env_pass,
        retry=policy,
        escalate_to=table.escalate_to,
        escalate_after=table.escalate_after,
        escalate_on=table.escalate_on,
        may_submit=(name,) if table.may_submit is None else table.may_submit,
        needs=table.needs,
        worktree=table.worktree,
        verify=table.verify,
        memory_max=table.memory_max,
        nice=table.nice,
        budget=table.budget,
    )


def _listening(table: AgentTable, path: str) -> None:
    """What is to be read of the agent's output."""
    if table.resume_argv and not any("{session_id}" in argument for argument in table.resume_argv):
        raise ConfigError(f"{path}.resume_argv: {{session_id}} stands nowhere in it, so it would take up no session")
    if table.resume_argv and table.output not in _WITH_SESSIONS:
        raise ConfigError(
            f'{path}.resume_argv: output = "{table.output}" tells of no session; {", ".join(_WITH_SESSIONS)} do'
        )
    if table.progress_pattern is not None:
        if table.stall_after is None:
            raise ConfigError(f"{path}.progress_pattern says what keeps an attempt from stalling: set stall_after")
        try:
            re.compile(table.progress_pattern)
        except re.error as error:
            raise ConfigError(f"{path}.progress_pattern is not a regular expression: {error}") from None
    if table.stall_after == 0:
        raise ConfigError(f'{path}.stall_after is longer than 0; "off" for none')


def _escalation(table: AgentTable, path: str) -> None:
    if table.escalate_to is None:
        for key in ("escalate_after", "escalate_on"):
            if getattr(table, key) is not None:
                raise ConfigError(f"{path}.{key}: to whom? Set escalate_to")
    if FailureClass.CANCELLED in (table.escalate_on or ()):
        raise ConfigError(f"{path}.escalate_on: what a person cancelled is not carried on by another agent")


def _named_policy(table: AgentTable, policies: Mapping[str, Policy], path: str) -> Policy:
    if not isinstance(table.retry, str):
        path = f"{path}.retry"
        return _policy(decode(table.retry, RetryTable, path), PRESETS["default"], path)
    if table.retry not in policies:
        raise ConfigError(f"{path}.retry: there is no policy {table.retry!r}; there are {', '.join(policies)}")
    return policies[table.retry]


def _variable(name: str, value: str | dict[str, str], path: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise ConfigError(f"{join(path, name)}: not a name of an environment variable")
    if name.startswith(("OPUS_", "OPUSD_")):
        raise ConfigError(f"{join(path, name)}: the daemon itself sets what begins with OPUS_ and OPUSD_")
    if isinstance(value, dict) and (len(value) != 1 or not value.keys() <= {"from_env", "from_file"}):
        raise ConfigError(f"{join(path, name)}: a string, {{from_env = NAME}} or {{from_file = PATH}}")
    if "\0" in (value if isinstance(value, str) else "".join(value.values())):
        raise ConfigError(f"{join(path, name)}: no value holds a NUL")
