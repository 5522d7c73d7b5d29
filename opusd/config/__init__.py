"""config.toml -> Config: every value read, checked against the others, and ready for those who use it.

`parse` is pure; `load` reads the file and refuses one that others can write, for it names programs to run.
Knows nothing of the agents' programs: whether an argv can be filled in is judged where it is.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import asdict

from opusd.config.agents import EXEC, PULL, AgentConfig, read_agents, read_policies
from opusd.config.decode import ConfigError, decode, join
from opusd.config.hours import Days, Window, local_zone, named_zone, parse_window
from opusd.config.machine import automatic_pool
from opusd.config.notifications import Sink, read_sinks
from opusd.config.tables import (
    AgentTable,
    BudgetTable,
    Defaults,
    File,
    Group,
    Log,
    Order,
    Output,
    Quota,
    Quotas,
    Retention,
    RouteTable,
    Security,
)
from opusd.core.job import Tier
from opusd.core.limits import UNLIMITED, Agent, Budget, Limits, Route
from opusd.core.priority import parse_priority
from opusd.core.retry import Policy

__all__ = ["EXEC", "PULL", "AgentConfig", "Config", "ConfigError", "load", "parse"]

_LONGEST_SOCKET_PATH: Final = 107


Zone = tuple[tzinfo, str]
"""A time zone, and what people call it."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are microseconds, sizes bytes. `automatic` tells that the machine chose `max_concurrent`."""

    default_agent: str | None
    max_concurrent: int
    automatic: bool
    interactive_slots: int
    max_queued: int
    max_depth: int
    max_children: int
    max_submissions_per_minute: int | None
    min_free_memory: int | None
    min_free_disk: int | Literal["auto"] | None
    order: Order
    defaults: Defaults
    resources: dict[str, int]
    quotas: Quotas
    groups: dict[str, Group]
    hours: dict[str, Window]  # agent:NAME, group:NAME
    days: dict[str, Days]  # of the agents of the file
    routes: tuple[Route, ...]
    agents: dict[str, AgentConfig]
    retry: dict[str, Policy]  # the presets too
    notifications: tuple[Sink, ...]
    retention: Retention
    output: Output
    security: Security
    socket_path: str | None
    max_connections: int | Literal["auto"]
    log: Log

    def longest_wait_hours(self) -> float:
        """Nothing that is not critical goes before a job that became ready this many hours earlier."""
        return self.order.points.bound_hours()

    def limits(self) -> Limits:
        """What the core needs of all this. An agent without slots of its own has as many as the pool."""
        return Limits(
            agents={
                agent.name: Agent(
                    name=agent.name,
                    slots=UNLIMITED if agent.slots is None else agent.slots,
                    starts=bool(agent.argv) or agent.name == EXEC,
                    max_queued=UNLIMITED if agent.max_queued is None else agent.max_queued,
                    retry=agent.retry,
                    timeout=agent.timeout,
                    may_submit=agent.may_submit,
                    starts_per_minute=agent.starts_per_minute,
                    auto_resume=agent.auto_resume,
                    stall_after=agent.stall_after,
                    escalate_to=agent.escalate_to,
                    escalate_after=agent.escalate_after,
                    escalate_on=agent.escalate_on,
                    needs=tuple(sorted(agent.needs.items())),
                    worktree=agent.worktree,
                    verify=agent.verify,
                    budget=self._budget(agent),
                )
                for agent in self.agents.values()
            },
            routes=self.routes,
            default_agent=self.default_agent,
            points=self.order.points,
            max_concurrent=self.max_concurrent,
            interactive_slots=self.interactive_slots,
            max_queued=self.max_queued,
            max_depth=self.max_depth,
            max_children=self.max_children,
            max_submissions_per_minute=self.max_submissions_per_minute,
            min_free_memory=self.min_free_memory,
            min_free_disk=self.min_free_disk,
            reserve_after=self.order.reserve_after,
            grace=self.defaults.grace,
            expires_in=self.defaults.expires_in,
            timeout=self.defaults.timeout,
            answer_in=self.defaults.answer_in,
            capacities=self.resources,
            submitter=None if self.quotas.submitter == Quota() else self.quotas.submitter.bounds,
            sources={source: quota.bounds for source, quota in asdict(self.quotas.source).items() if quota != Quota()},
            groups={name: group.bounds for name, group in self.groups.items()},
            hours=dict(self.hours),
        )

    def _budget(self, agent: AgentConfig) -> Budget | None:
        if agent.budget == BudgetTable():
            return None
        return Budget(**asdict(agent.budget), days=self.days[agent.name])


def load(path: Path, *, must_exist: bool = False) -> Config:
    """The configuration in this file; the defaults when there is none, unless it was asked for by name."""
    try:
        text = _read(path)
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{path} does not exist") from None
        text = ""
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        return parse(tomllib.loads(text), pool=automatic_pool(), zone=local_zone())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(data: Mapping[str, Any], *, pool: int = 3, zone: Zone = (UTC, "UTC")) -> Config:
    """What TOML's tables say, with the defaults and the built-in agents.

    `pool` is what "auto" stands for, `zone` the machine's and what people call it.
    """
    file = decode(data, File)
    policies = read_policies(file.retry)
    agents = read_agents(data, file, policies)
    zones = _zones(file, zone)
    automatic = file.max_concurrent == "auto"
    config = Config(
        default_agent=file.default_agent or None,
        max_concurrent=pool if isinstance(file.max_concurrent, str) else file.max_concurrent,
        automatic=automatic,
        interactive_slots=file.interactive_slots,
        max_queued=file.max_queued,
        max_depth=file.max_depth,
        max_children=file.max_children,
        max_submissions_per_minute=file.max_submissions_per_minute,
        min_free_memory=file.min_free_memory,
        min_free_disk=file.min_free_disk,
        order=file.order,
        defaults=file.defaults,
        resources=dict(file.resources),
        quotas=file.quotas,
        groups={str(name): group for name, group in file.groups.items()},
        hours=_hours(file, zones),
        days={name: Days(zones[f"agent:{name}"][0]) for name in file.agents},
        routes=tuple(_route(number, route) for number, route in enumerate(file.routes, 1)),
        agents=agents,
        retry=policies,
        notifications=read_sinks(file.notifications),
        retention=file.retention,
        output=file.output,
        security=file.security,
        socket_path=file.socket.path or None,
        max_connections=file.socket.max_connections,
        log=file.log,
    )
    _check(config)
    return config


def _zones(file: File, machine: Zone) -> dict[str, Zone]:
    """The zone of each agent and group, `agent:NAME` and `group:NAME`: its own, or the machine's."""
    zones = {}
    for name, table in _with_hours(file):
        try:
            zones[name] = machine if table.timezone is None else (named_zone(table.timezone), table.timezone)
        except ValueError as error:
            raise ConfigError(f"{_path(name)}.timezone: {error}") from None
        daily = isinstance(table, AgentTable) and table.budget.daily
        if table.timezone is not None and table.window is None and not daily:
            what = "window, or a budget a day" if isinstance(table, AgentTable) else "window"
            raise ConfigError(f"{_path(name)}.timezone: of what? Set {what}")
    return zones


def _hours(file: File, zones: Mapping[str, Zone]) -> dict[str, Window]:
    found = {}
    for name, table in _with_hours(file):
        if table.window is not None:
            try:
                found[name] = parse_window(table.window, *zones[name])
            except ValueError as error:
                raise ConfigError(f"{_path(name)}.window: {error}") from None
    return found


def _with_hours(file: File) -> list[tuple[str, AgentTable | Group]]:
    agents = [(f"agent:{name}", table) for name, table in file.agents.items()]
    return [*agents, *((f"group:{name}", table) for name, table in file.groups.items())]


def _path(name: str) -> str:
    kind, _, own = name.partition(":")
    return join(f"{kind}s", own)


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is not a regular file")
        if found.st_uid not in {0, os.geteuid()}:
            raise ConfigError(
                f"{path} belongs to uid {found.st_uid}; it names programs to run: it must be yours or root's"
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(f"{path} can be written by others, and it names programs to run: chmod go-w {path}")
        for folder in {path.absolute().parent, path.resolve().parent}:
            _refuse_open_folder(path, folder)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read().decode()
    finally:
        os.close(descriptor)


def _refuse_open_folder(path: Path, folder: Path) -> None:
    """Who can write a folder can put another file in the place of one that is in it, unless the folder is sticky."""
    found = folder.stat()
    if found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{path} is in {folder}, which belongs to uid {found.st_uid}: it must be yours or root's")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise ConfigError(f"{path} can be replaced by others, who can write its folder: chmod go-w {folder}")


def _route(number: int, table: RouteTable) -> Route:
    path = f"routes[{number}]"
    try:
        priority = None if table.priority is None else parse_priority(table.priority)
    except ValueError as error:
        raise ConfigError(f"{path}.priority: {error}") from None
    if priority is not None and priority[0] is Tier.CRITICAL and table.match.source != "user":
        raise ConfigError(f'{path}.priority: critical is for what a user asks; add source = "user" to its match')
    name = table.name or f"route {number}"
    return Route(name=name, agent=table.agent, priority=priority, **asdict(table.match))


def _check(config: Config) -> None:
    """What one table owes another."""
    named: list[tuple[str, str]] = [("default_agent", name) for name in [config.default_agent] if name]
    named += [(f"routes[{number}].agent", route.agent) for number, route in enumerate(config.routes, 1)]
    for where, name in named:
        _known_agent(config, where, name)
        if name == EXEC:
            raise ConfigError(f"{where}: exec runs commands; a prompt needs an agent that takes one")
    for agent in config.agents.values():
        for name in agent.may_submit:
            _known_agent(config, join("agents", agent.name) + ".may_submit", name)
        for need, amount in agent.needs.items():
            if amount > (capacity := config.resources.get(need, 1)):
                raise ConfigError(
                    f"{join('agents', agent.name)}.needs: {amount} of {need!r}, of which there are {capacity}"
                )
    for sink in config.notifications:
        for name in sink.agents:
            _known_agent(config, f"notifications {sink.name}: agents", name)
    _check_chains(config)
    order = config.order
    if not order.low <= order.normal <= order.urgent:
        raise ConfigError(f"order: low <= normal <= urgent, not {order.low}, {order.normal}, {order.urgent}")
    retention = config.retention
    if retention.history is not None and (retention.finished is None or retention.history < retention.finished):
        raise ConfigError("retention.history is not shorter than retention.finished: what is kept has a history")
    if not retention.every:
        raise ConfigError("retention.every is longer than 0")
    if len({route.name for route in config.routes}) < len(config.routes):
        raise ConfigError("routes: two have the same name, and `show` names the one that matched")
    if (path := config.socket_path) and (
        not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _LONGEST_SOCKET_PATH
    ):
        raise ConfigError(f"socket.path is an absolute path of at most {_LONGEST_SOCKET_PATH} bytes")


def _check_chains(config: Config) -> None:
    """Where jobs escalate to: an agent that takes a prompt, and never back to one that had its turn."""
    for agent in config.agents.values():
        path, chain = join("agents", agent.name) + ".escalate_to", [agent.name]
        following = agent.escalate_to
        if following is not None and agent.name == EXEC:
            raise ConfigError(f"{path}: exec runs commands, which no other agent can carry on")
        while following is not None:
            _known_agent(config, path, following)
            if following == EXEC:
                raise ConfigError(f"{path}: exec runs commands; a prompt needs an agent that takes one")
            chain.append(following)
            if following in chain[:-1]:
                raise ConfigError(f"{path}: goes round: {' -> '.join(chain)}")
            following = config.agents[following].escalate_to


def _known_agent(config: Config, path: str, name: str) -> None:
    if name not in config.agents:
        raise ConfigError(f"{path}: there is no agent {name!r}; there are {', '.join(config.agents)}")
