"""The house that a simulated week happens in: agents with every kind of retry, providers that close now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from opusd.core.limits import Agent, Budget, Limits, Quota
from opusd.core.retry import PRESETS, FailureClass, Policy, Strategy
from tests.core.world import HOUR, MINUTE, SECOND, Shifts

if TYPE_CHECKING:
    import random

DAY = 24 * HOUR
WEEK = 7 * DAY


class Midnights(msgspec.Struct, frozen=True):
    """The days of UTC."""

    def end(self, now: int) -> int:
        return now - now % DAY + DAY


CHAINED = (FailureClass.AGENT_ERROR, FailureClass.TIMEOUT, FailureClass.STALLED, FailureClass.AUTH)

AGENTS = [
    Agent("exec", slots=2, retry=PRESETS["none"]),
    Agent(
        "claude", slots=3, retry=PRESETS["default"], may_submit=("claude", "codex"), starts_per_minute=4,
        escalate_to="codex", escalate_after=2,
        budget=Budget(job_tokens=260_000, day_tokens=5_000_000, days=Midnights()),
    ),
    Agent(
        "codex", slots=2, retry=Policy(Strategy.LINEAR, 40 * SECOND, 100 * SECOND, 0.2, 4), needs=(("gpu", 1),),
        escalate_to="aider", escalate_after=3, escalate_on=CHAINED,
    ),
    Agent("aider", slots=2, retry=PRESETS["slow"], auto_resume=False, timeout=2 * HOUR),
    Agent(
        "opencode", slots=2, retry=PRESETS["fast"], starts_per_minute=2,
        escalate_to="claude", escalate_on=(*CHAINED, FailureClass.RATE_LIMITED),
    ),
    Agent("gemini", slots=2, retry=Policy(Strategy.EXPONENTIAL, 5 * SECOND, 30 * SECOND, 0.5, 4)),
    Agent("pull", slots=0, retry=Policy(Strategy.EXPONENTIAL, 10 * SECOND, HOUR, 0.1, 2, (FailureClass.AGENT_ERROR,))),
]  # fmt: skip

LIMITED = ("claude", "codex", "aider", "opencode", "gemini", "pull")
"""Those that have a provider."""

RULES = Limits(
    agents={agent.name: agent for agent in AGENTS},
    default_agent="claude",
    max_concurrent=5,
    max_queued=2_000,
    capacities={"gpu": 2, "disk": 3},
    groups={"small": Quota(max_running=1), "large": Quota(max_running=2, max_queued=80)},
    submitter=Quota(max_running=5, max_queued=500),
    sources={"automated": Quota(max_running=2), "agent": Quota(max_running=3)},
    max_submissions_per_minute=6,
    hours={"agent:gemini": Shifts(14 * HOUR, 23 * HOUR), "group:night": Shifts(9 * HOUR, 25 * HOUR)},  # not at midnight
)


class Window(msgspec.Struct, frozen=True):
    """The provider refuses from `begin` to `end`, in steady time; `names`: its words name the reset."""

    begin: int
    end: int
    names: bool


class Provider:
    """When one agent's provider is closed, for two weeks: minutes to hours at a time, `lasting` once for a day."""

    def __init__(self, chance: random.Random, *, lasting: bool) -> None:
        self.windows: list[Window] = []
        at = 0
        while at < 2 * WEEK:
            at += int(chance.uniform(3, 18) * HOUR)
            length = int(min(chance.expovariate(1 / (70 * MINUTE)) + 2 * MINUTE, 6 * HOUR))
            self.windows.append(Window(at, at + length, chance.random() < 0.5))
            at += length
        if lasting:
            begin = int(chance.uniform(1, 3) * DAY)
            apart = [one for one in self.windows if one.end < begin or one.begin > begin + 26 * HOUR]
            self.windows = sorted([*apart, Window(begin, begin + 26 * HOUR, names=False)], key=lambda one: one.begin)

    def closed(self, at: int) -> Window | None:
        return next((one for one in self.windows if one.begin <= at < one.end), None)

    def closes(self, begin: int, end: int) -> Window | None:
        """The first window that begins between the two."""
        return next((one for one in self.windows if begin < one.begin < end), None)
