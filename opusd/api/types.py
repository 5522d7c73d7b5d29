"""The records of the wire: JobSpec, Job, Attempt, Event and what they are made of (contract, section 2).

Times are RFC 3339 text; durations go in as seconds or text and come out as seconds. A field that is
UNSET is not on the wire at all: that is how lists leave out what is long. What a field means for
scheduling is not known here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

Ref: TypeAlias = int | str
"""A job: its id, or its key."""
Duration: TypeAlias = int | float | str
"""Seconds, or text such as `90s`, `10m`, `24h`, `7d`."""
Time: TypeAlias = str
"""RFC 3339; the daemon writes UTC with microseconds."""

StatusWord = Literal[
    "held",
    "blocked",
    "scheduled",
    "queued",
    "running",
    "cancelling",
    "needs_input",
    "retrying",
    "completed",
    "failed",
    "cancelled",
    "expired",
]
TierWord = Literal["low", "normal", "urgent", "critical"]
SourceWord = Literal["user", "automated", "agent"]
OnWord = Literal["success", "failure", "any"]
IfUnmetWord = Literal["block", "cancel", "run"]
StrategyWord = Literal["none", "immediate", "linear", "exponential", "fibonacci"]
ClassWord = Literal[
    "agent_error",
    "rate_limited",
    "auth",
    "config",
    "spawn",
    "timeout",
    "stalled",
    "oom",
    "lost",
    "verify_failed",
    "cancelled",
]

KindWord = Literal[
    "job.submitted",
    "job.queued",
    "job.blocked",
    "job.scheduled",
    "job.held",
    "job.released",
    "job.updated",
    "job.started",
    "job.progress",
    "job.asked",
    "job.answered",
    "job.retrying",
    "job.lost",
    "job.cancelling",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "job.escalated",
    "job.pruned",
    "agent.cooling",
    "agent.ready",
    "queue.paused",
    "queue.resumed",
    "pool.resized",
    "schedule.added",
    "schedule.replaced",
    "schedule.removed",
    "schedule.paused",
    "schedule.resumed",
    "machine.short",
    "machine.ready",
    "daemon.started",
    "daemon.stopped",
]

Title: TypeAlias = Annotated[str, Meta(max_length=200)]
Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Boost: TypeAlias = Annotated[int, Meta(ge=-49, le=49)]
Retries: TypeAlias = Annotated[int, Meta(ge=0)]
Amount: TypeAlias = Annotated[int, Meta(ge=1)]
Labels: TypeAlias = Annotated[list[str], Meta(max_length=100)]
Needs: TypeAlias = Annotated[dict[str, Amount], Meta(max_length=100)]


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends: an unknown name is refused."""


class DependsOn(Params, kw_only=True):
    """An edge as sent; None is the default of the contract: on success, and block or (for failure) cancel."""

    job: Ref
    on: OnWord = "success"
    if_unmet: IfUnmetWord | None = None


Priority: TypeAlias = Annotated[int | str | UnsetType, Meta(extra_json_schema={"default": "normal"})]
"""A tier's name, or 1 to 10. Not sent it is normal, unless a route says another one."""
Edges: TypeAlias = Annotated[list[int | str | DependsOn], Meta(max_length=1000)]


class EnvSource(Params, kw_only=True):
    """Exactly one of the two; resolved when the attempt is spawned."""

    from_env: str | UnsetType = UNSET
    from_file: str | UnsetType = UNSET


class RetryPolicy(Params, kw_only=True):
    """Delays of the strategy are in units of `base`; `jitter` is a fraction added before the cap."""

    strategy: StrategyWord
    base: Duration | None = None
    cap: Duration | None = None
    jitter: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_retries: Retries | None = None
    on: list[ClassWord] | None = None


class JobSpec(Params, gc=False, kw_only=True, omit_defaults=True):
    """What `job.submit` takes. None is: not said, the default of config, agent or daemon applies."""

    prompt: str | None = None
    command: list[str] | None = None
    title: Title | None = None
    type: Annotated[str, Meta(min_length=1, max_length=200)] = "task"
    source: SourceWord | None = None
    interactive: bool = False
    priority: Priority = UNSET
    boost: Boost = 0
    agent: str | None = None
    depends_on: Edges = []
    key: Key | None = None
    group: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    parent: Ref | None = None
    payload: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    labels: Labels = []
    cwd: str | None = None
    env: dict[str, str | EnvSource] = {}
    run_at: Time | None = None
    delay: Duration | None = None
    expires_in: Duration | None = None
    timeout: Duration | None = None
    max_retries: Retries | None = None
    retry: str | RetryPolicy | None = None
    needs: Needs = {}
    worktree: bool | None = None
    verify: list[str] | None = None
    held: bool = False


class Dependency(msgspec.Struct, kw_only=True):
    """An edge as it stands."""

    job: int
    on: OnWord
    if_unmet: IfUnmetWord
    state: Literal["pending", "satisfied", "unmet"]


class Progress(msgspec.Struct, kw_only=True):
    fraction: float | None = None
    message: str | None = None


class Result(msgspec.Struct, kw_only=True):
    summary: str | None = None
    data: Any = None


class Failure(msgspec.Struct, kw_only=True):
    """A job's `error`."""

    class_: str = msgspec.field(name="class")
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None


class Usage(msgspec.Struct, kw_only=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None


class Question(msgspec.Struct, kw_only=True):
    id: int | str
    text: str
    options: list[str] = msgspec.field(default_factory=list)


class Inherited(msgspec.Struct, kw_only=True):
    """The tier that a job has from a blocked job which waits for it."""

    tier: TierWord
    job: int


class Policy(msgspec.Struct, gc=False, kw_only=True):
    """A retry policy as it applies; `base` and `cap` in seconds."""

    strategy: StrategyWord
    base: float
    cap: float
    jitter: float
    max_retries: int
    on: list[str]


class Job(msgspec.Struct, gc=False, kw_only=True):
    """A job as it stands. `position` is its rank in its lane, `ahead` how many are before it over all lanes.

    `shortened`: one reply would not hold it as it is, so long texts end in `…`, and long lists and objects have only
    the first of what they had.
    """

    id: int
    status: StatusWord
    reason: str
    title: str
    type: str
    source: SourceWord
    interactive: bool
    priority: str
    tier: TierWord
    boost: int
    score: float | None = None
    position: int | None = None
    ahead: int | None = None
    agent: str
    route: str | None = None
    worker: str | None = None
    key: str | None = None
    group: str | None = None
    parent: int | None = None
    root: int
    depth: int = 0
    depends_on: list[Dependency] = []
    dependents: list[int] = []
    inherits: Inherited | None = None
    labels: list[str] = []
    needs: dict[str, int] = {}
    cwd: str
    worktree: bool = False
    held: bool = False
    verify: list[str] | None = None
    timeout: float | None = None
    expires_in: float | None = None
    max_retries: int
    retry: Policy
    attempts: int = 0
    retries: int = 0
    created_at: Time
    queued_at: Time | None = None
    run_at: Time | None = None
    due_at: Time | None = None
    started_at: Time | None = None
    completed_at: Time | None = None
    expires_at: Time | None = None
    timeout_at: Time | None = None
    progress: Progress | None = None
    error: Failure | None = None
    usage: Usage | None = None
    session_id: str | None = None
    workdir: str | None = None
    branch: str | None = None
    question: Question | None = None
    escalated_from: int | None = None
    escalated_to: int | None = None
    submitted_by: str
    version: int
    prompt: str | UnsetType | None = UNSET
    command: list[str] | UnsetType | None = UNSET
    env: dict[str, Any] | UnsetType = UNSET
    payload: dict[str, Any] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    verify_output: str | UnsetType | None = UNSET
    result: Result | UnsetType | None = UNSET
    shortened: bool | UnsetType = UNSET


class Attempt(msgspec.Struct, kw_only=True):
    """One execution of a job. `class` is null when it succeeded or has not ended."""

    attempt: int
    agent: str
    worker: str | None = None
    started_at: Time
    ended_at: Time | None = None
    class_: str | None = msgspec.field(name="class", default=None)
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    session_id: str | None = None
    usage: Usage | None = None
    log_bytes: int = 0


class Event(msgspec.Struct, kw_only=True):
    """One line of the audit trail; `actor` is who caused it: `user:1000`, `job:41`, `scheduler`, `worker:w1`."""

    cursor: int
    time: Time
    kind: str
    job: int | None = None
    attempt: int | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    actor: str
    detail: dict[str, Any] | None = None
