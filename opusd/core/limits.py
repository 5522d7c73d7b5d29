"""The numbers and names that configuration gives the core; all of them values, read once."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from opusd.core.job import Tier
from opusd.core.order import Points
from opusd.core.retry import PRESETS, FailureClass, Policy

MINUTE = 60_000_000
UNLIMITED = 1 << 62


class Days(Protocol):
    """The days of a time zone."""

    def end(self, now: int) -> int:
        """The next midnight, later than `now`."""
        ...


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens and dollars that a job may use, and all jobs of the agent in one of its `days`; None: without end."""

    job_tokens: int | None = None
    job_cost_usd: float | None = None
    day_tokens: int | None = None
    day_cost_usd: float | None = None
    days: Days


class Agent(msgspec.Struct, frozen=True):
    """A configured way to do work. `slots` 0: workers alone take its jobs. `starts`: opusd could, given slots."""

    name: str
    slots: int = 3
    starts: bool = True
    max_queued: int = UNLIMITED
    retry: Policy = PRESETS["default"]
    timeout: int | None = None
    may_submit: tuple[str, ...] = ()
    needs: tuple[tuple[str, int], ...] = ()
    starts_per_minute: int | None = None
    auto_resume: bool = True
    stall_after: int | None = None
    escalate_to: str | None = None
    escalate_after: int | None = None
    escalate_on: tuple[FailureClass, ...] | None = None  # None: ESCALATED
    worktree: bool = False
    verify: tuple[str, ...] = ()
    budget: Budget | None = None


class Quota(msgspec.Struct, frozen=True):
    """How many jobs of one submitter, source or group may be queued, and how many may run."""

    max_queued: int = UNLIMITED
    max_running: int = UNLIMITED


class Route(msgspec.Struct, frozen=True):
    """The first route of which every given field equals the job's names the agent."""

    name: str
    agent: str
    type: str | None = None
    source: str | None = None
    label: str | None = None
    tier: str | None = None
    group: str | None = None
    priority: tuple[Tier, int] | None = None


class Hours(Protocol):
    """When an agent or a group starts jobs; its str() is what people are told."""

    def at(self, now: int) -> tuple[bool, int]:
        """Whether it is open at `now`, and when to ask again, later than `now`; shut, that is when it opens."""
        ...


class Limits(msgspec.Struct, frozen=True):
    agents: dict[str, Agent]
    routes: tuple[Route, ...] = ()
    default_agent: str | None = None
    points: Points = Points()
    max_concurrent: int = 3
    interactive_slots: int = 1
    max_queued: int = 2_000_000
    max_depth: int = 3
    max_children: int = 50
    reserve_after: int = 10 * MINUTE
    grace: int = 10_000_000
    expires_in: int | None = None
    timeout: int | None = None
    answer_in: int = 7 * 24 * 60 * MINUTE
    min_free_memory: int | None = None
    min_free_disk: int | Literal["auto"] | None = None
    capacities: dict[str, int] = {}
    submitter: Quota | None = None  # of each one that submits
    sources: dict[str, Quota] = {}
    groups: dict[str, Quota] = {}
    hours: dict[str, Hours] = {}  # `agent:NAME` or `group:NAME`; who is not here is always open
    max_submissions_per_minute: int | None = 60  # by the agents of one root job

    def capacity(self, need: str) -> int:
        """A name that configuration does not know is a mutex."""
        return self.capacities.get(need, 1)
