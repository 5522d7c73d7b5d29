"""What the configuration means for the parts of the daemon: values for each, and what only they can judge of it."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict

from opusd.agents.adapters import MEASURES
from opusd.agents.environment import check_argv
from opusd.config import ConfigError
from opusd.core.errors import OpusError
from opusd.dispatcher.launching import Program

if TYPE_CHECKING:
    from opusd.config import Config

_CONNECTIONS: Final = 10_000


def check_agents(config: Config) -> None:
    """ConfigError for an argv that can't be filled in, and for a budget that nobody could hold the agent to."""
    for agent in config.agents.values():
        _check_budget(agent.name, agent.output, asdict(agent.budget))
        for key, argv in (("argv", agent.argv), ("resume_argv", agent.resume_argv)):
            try:
                if argv:
                    check_argv(argv)
            except OpusError as error:
                raise ConfigError(f"agents.{agent.name}.{key}: {error.message}") from error


def _check_budget(agent: str, output: str, budget: dict[str, Any]) -> None:
    """ConfigError when the agent's output does not tell what a budget counts."""
    for key, limit in budget.items():
        what = "tokens" if key.endswith("tokens") else "cost"
        if limit is not None and not getattr(MEASURES[output], what):
            able = ", ".join(name for name, measures in MEASURES.items() if getattr(measures, what))
            message = f'agents.{agent}.budget.{key}: output = "{output}" does not tell its {what}; {able} do'
            raise ConfigError(message)


def launch_values(config: Config) -> dict[str, Any]:
    return {
        "programs": _programs(config),
        "head": config.output.head,
        "tail": config.output.tail,
        "grace": config.defaults.grace / 1e6,
    }


def connection_values(config: Config) -> dict[str, Any]:
    wanted = _CONNECTIONS if config.max_connections == "auto" else config.max_connections
    return {"max_connections": min(wanted, _room_for_connections())}


def lacking_files(config: Config) -> list[str]:
    """What is wrong when more connections are configured than can be open, in words."""
    wanted, room = config.max_connections, _room_for_connections()
    if wanted == "auto" or wanted <= room:
        return []
    return [
        f"the limit of open files (ulimit -n) has room for {room} connections, and socket.max_connections is {wanted}"
    ]


def _room_for_connections() -> int:
    """A quarter of the files that may be open is left to the registry, the agents and their output."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, files * 3 // 4) if files != resource.RLIM_INFINITY else 1_000_000_000


def retention_values(config: Config) -> dict[str, Any]:
    kept = config.retention
    return {"finished": kept.finished, "history": kept.history, "every": kept.every / 1e6}


def _programs(config: Config) -> dict[str, Program]:
    return {
        agent.name: Program(
            argv=agent.argv,
            resume_argv=agent.resume_argv,
            stdin=agent.stdin,
            output=agent.output,
            progress_pattern=agent.progress_pattern,
            listens=agent.output != "text" or agent.stall_after is not None,
            env=agent.env,
            env_pass=agent.env_pass,
            memory_max=agent.memory_max,
            nice=agent.nice,
        )
        for agent in config.agents.values()
    }
