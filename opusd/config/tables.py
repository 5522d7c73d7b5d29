"""config.toml table by table, as it is written: each field is a key, each default is the key's.

What a table means for the daemon, and what one table owes another, is opusd/config/__init__.py's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from opusd.config.decode import Duration, Name, Size
from opusd.core import limits
from opusd.core.order import Points
from opusd.core.retry import FailureClass, Strategy
from opusd.core.times import DAY, HOUR, MINUTE, SECOND

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
Dollars = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]
Slots = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Head = Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)]
NonEmpty = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Word = Literal[
    "failed", "expired", "needs_input", "escalated", "rate_limited", "budget", "started", "completed", "drained"
]  # fmt: skip
"""What a person may be told of."""
Retry = str | dict[str, object]
"""The name of a policy, or a RetryTable in place. Not NonEmpty: msgspec 0.21 and 0.22 free the compiled pattern of a
string that shares a union with a dict, and the collector crashes on it."""


class Order(msgspec.Struct, frozen=True):
    rate: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 25
    low: Head = 0
    normal: Head = 100
    urgent: Head = 200
    reserve_after: Duration = Duration(10 * MINUTE)

    @property
    def points(self) -> Points:
        return Points(low=self.low, normal=self.normal, urgent=self.urgent, rate=self.rate)


class Defaults(msgspec.Struct, frozen=True):
    """What a job gets that says nothing, and whose agent says nothing."""

    expires_in: Duration | None = None
    timeout: Duration | None = None
    grace: Duration = Duration(10 * SECOND)
    answer_in: Duration = Duration(7 * DAY)


class Quota(msgspec.Struct, frozen=True):
    max_queued: AtLeastOne | None = None
    max_running: AtLeastOne | None = None

    @property
    def bounds(self) -> limits.Quota:
        """What the core holds jobs to."""
        return limits.Quota(
            max_queued=limits.UNLIMITED if self.max_queued is None else self.max_queued,
            max_running=limits.UNLIMITED if self.max_running is None else self.max_running,
        )


class SourceQuotas(msgspec.Struct, frozen=True):
    user: Quota = Quota()
    automated: Quota = Quota()
    agent: Quota = Quota()


class Quotas(msgspec.Struct, frozen=True):
    """`submitter` holds for each one that submits: a person, or the agents of one root job."""

    submitter: Quota = Quota()
    source: SourceQuotas = SourceQuotas()


class Group(Quota, frozen=True):
    window: NonEmpty | None = None
    timezone: NonEmpty | None = None  # the machine's


class Match(msgspec.Struct, frozen=True):
    type: NonEmpty | None = None
    source: Literal["user", "automated", "agent"] | None = None
    label: NonEmpty | None = None
    tier: Literal["low", "normal", "urgent", "critical"] | None = None
    group: NonEmpty | None = None


class RouteTable(msgspec.Struct, frozen=True):
    agent: NonEmpty
    name: NonEmpty | None = None  # "route 1", by its place
    match: Match = Match()
    priority: str | int | None = None


class RetryTable(msgspec.Struct, frozen=True):
    """What is absent is as in the preset of the same name, else as in `default`."""

    strategy: Strategy | None = None
    base: Duration | None = None
    cap: Duration | None = None
    jitter: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    max_retries: Count | None = None
    on: tuple[FailureClass, ...] | None = None


class BudgetTable(msgspec.Struct, frozen=True):
    job_tokens: Tokens | None = None
    job_cost_usd: Dollars | None = None
    day_tokens: Tokens | None = None
    day_cost_usd: Dollars | None = None

    @property
    def daily(self) -> bool:
        return self.day_tokens is not None or self.day_cost_usd is not None


class AgentTable(msgspec.Struct, frozen=True):
    argv: tuple[str, ...] = ()
    resume_argv: tuple[str, ...] = ()  # no sessions are taken up
    stdin: Literal["prompt", "payload", "none"] = "prompt"
    output: Literal["text", "claude", "codex", "opencode", "aider"] = "text"
    slots: Slots | None = None  # max_concurrent
    max_queued: AtLeastOne | None = None
    starts_per_minute: Annotated[int, msgspec.Meta(ge=1, le=60_000)] | None = None  # as many as there are slots for
    timeout: Duration | None = None
    stall_after: Duration | None = None
    progress_pattern: NonEmpty | None = None  # any output is a sign of life
    auto_resume: bool = True
    env: dict[str, str | dict[str, str]] = {}
    env_pass: tuple[NonEmpty, ...] = ()
    retry: Retry = "default"
    max_retries: Count | None = None  # the policy's
    escalate_to: NonEmpty | None = None
    escalate_after: AtLeastOne | None = None  # when no retry is left
    escalate_on: tuple[FailureClass, ...] | None = None  # all but rate_limited, lost and cancelled
    may_submit: tuple[NonEmpty, ...] | None = None  # itself
    window: NonEmpty | None = None
    timezone: NonEmpty | None = None  # the machine's
    budget: BudgetTable = BudgetTable()
    needs: dict[NonEmpty, AtLeastOne] = {}
    worktree: bool = False
    verify: tuple[str, ...] = ()
    memory_max: Size | None = None
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] | None = None  # the daemon's


class Secret(msgspec.Struct, frozen=True):
    """Where a secret is read when it is needed: one of the two, or there is none."""

    from_env: str | None = None
    from_file: str | None = None


class NotificationTable(msgspec.Struct, frozen=True):
    name: NonEmpty
    on: tuple[Word, ...]
    command: tuple[str, ...] = ()
    url: str | None = None
    secret: Secret = Secret()
    agents: tuple[NonEmpty, ...] = ()  # all
    groups: tuple[NonEmpty, ...] = ()  # all, and jobs without one
    min_tier: Literal["low", "normal", "urgent", "critical"] = "low"
    waited: Duration = Duration(10 * MINUTE)
    include: tuple[Literal["title", "message", "question"], ...] = ()


class Retention(msgspec.Struct, frozen=True):
    """`finished`: then prompt, payload, result and output of a finished job go; `history`: then the rest."""

    finished: Duration | None = Duration(30 * DAY)
    history: Duration | None = Duration(365 * DAY)
    every: Duration = Duration(HOUR)


class Output(msgspec.Struct, frozen=True):
    """How much of an attempt's output is kept: its beginning and its end, in bytes."""

    head: Size = Size(8 << 20)
    tail: Size = Size(56 << 20)


class Security(msgspec.Struct, frozen=True):
    env_secret: tuple[NonEmpty, ...] = ("*KEY*", "*TOKEN*", "*SECRET*", "*PASSWORD*", "*CREDENTIAL*")


class Socket(msgspec.Struct, frozen=True):
    path: str = ""  # where the contract has it; --socket and $OPUSD_SOCKET come first
    max_connections: AtLeastOne | Literal["auto"] = "auto"


class Log(msgspec.Struct, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class File(msgspec.Struct, frozen=True):
    default_agent: str = ""
    max_concurrent: Annotated[int, msgspec.Meta(ge=1, le=1000)] | Literal["auto"] = 3
    interactive_slots: Slots = 1
    max_queued: AtLeastOne = 2_000_000
    max_depth: Count = 3
    max_children: Count = 50
    max_submissions_per_minute: AtLeastOne | None = 60
    min_free_memory: Size | None = None
    min_free_disk: Size | Literal["auto"] | None = "auto"
    order: Order = Order()
    defaults: Defaults = Defaults()
    quotas: Quotas = Quotas()
    resources: dict[NonEmpty, Count] = {}
    groups: dict[NonEmpty, Group] = {}
    routes: tuple[RouteTable, ...] = ()
    agents: dict[Name, AgentTable] = {}
    retry: dict[Name, RetryTable] = {}
    notifications: tuple[NotificationTable, ...] = ()
    retention: Retention = Retention()
    output: Output = Output()
    security: Security = Security()
    socket: Socket = Socket()
    log: Log = Log()
