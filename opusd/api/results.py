"""What the methods give back, where it is more than a record of `opusd.api.types`. Results may grow fields."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from opusd.api.types import Attempt, Event, Job, Time


class Done(msgspec.Struct):
    """Nothing but that it was done: `{}`."""


class Submitted(msgspec.Struct, kw_only=True):
    """`created` is false when the key was in use: then `job` is the key's.

    `shortened`: one reply would not hold the job as it is, so what is long in it is cut.
    """

    job: Job
    created: bool
    shortened: bool | UnsetType = UNSET


class SubmittedBatch(msgspec.Struct, kw_only=True):
    """`shortened`: one reply would not hold the jobs as they are, so they have only what every job has and their keys,
    and no long text; job.get has more.
    """

    jobs: list[Submitted]
    shortened: bool | UnsetType = UNSET


class Jobs(msgspec.Struct, kw_only=True):
    """`omitted`: how many more there are than one reply holds."""

    jobs: list[Job]
    omitted: int = 0


class JobPage(msgspec.Struct, kw_only=True):
    jobs: list[Job]
    next_cursor: str | None = None


class Waited(msgspec.Struct, kw_only=True):
    """`done` is false when the time ran out first; `omitted`: how many more jobs there are than one reply holds."""

    jobs: list[Job]
    omitted: int = 0
    done: bool


class LogChunk(msgspec.Struct, kw_only=True):
    """Offsets count bytes as written; `dropped` are those between `offset` asked and given that are gone.

    `truncated`: the agent cut its log short below the offset asked for, so this begins at 0 again.
    """

    data: str
    offset: int
    next_offset: int
    dropped: int = 0
    eof: bool = False
    truncated: bool = False


class History(msgspec.Struct, kw_only=True):
    """`truncated`: there are more events or attempts than these, which are the newest."""

    events: list[Event]
    attempts: list[Attempt]
    chain: list[int]
    truncated: bool = False


class Constraint(msgspec.Struct, kw_only=True):
    kind: str
    detail: str
    until: Time | None = None


class Why(msgspec.Struct, kw_only=True):
    runnable: bool
    constraints: list[Constraint]


class WorktreeInfo(msgspec.Struct, kw_only=True):
    """A job's git worktree. `status` is its job's, null when the registry has forgotten the job.

    clean: nothing in it is nowhere else. `changes` counts files that are changed or new, `ahead` commits that no other
    branch has; unknown: git could not say. `kept` says why pruning leaves it, null when it would go.
    """

    job: int
    status: str | None
    path: str
    branch: str | None
    repository: str | None
    state: Literal["clean", "dirty", "ahead", "unknown"]
    changes: int
    ahead: int
    created_at: Time | None
    kept: str | None


class Worktrees(msgspec.Struct, kw_only=True):
    worktrees: list[WorktreeInfo]


class PrunedWorktrees(msgspec.Struct, kw_only=True):
    removed: list[WorktreeInfo]
    kept: list[WorktreeInfo]
    dry_run: bool = False


class Pruned(msgspec.Struct, kw_only=True):
    """`worktrees`: those of the jobs that are left, for there is work in them."""

    jobs: list[int]
    worktrees: list[WorktreeInfo] = []
    dry_run: bool = False


class Counts(msgspec.Struct, kw_only=True):
    """`tier` and `agent` count jobs that are not final."""

    status: dict[str, int]
    tier: dict[str, int]
    agent: dict[str, int]


class Pool(msgspec.Struct, kw_only=True):
    max_concurrent: int
    busy: int
    interactive_slots: int


class Status(msgspec.Struct, kw_only=True):
    """The queue at a glance; `paused` is the pause of everything, `omitted` how many more run than one reply holds."""

    counts: Counts
    running: list[Job]
    omitted: int = 0
    pool: Pool
    paused: bool
    paused_agents: list[str] = []
    paused_groups: list[str] = []
    uptime: float


class Capacity(msgspec.Struct, kw_only=True):
    """open: a slot is free; busy: jobs queue, or a pause holds them; full: submit would be QueueFull.

    `estimated_start` is null when nobody can tell: while it is paused, or when no job has run yet.
    """

    state: Literal["open", "busy", "full"]
    running: int
    slots: int
    queued: int
    max_queued: int | None = None
    retry_after: float | None = None
    estimated_start: Time | None = None


class AgentInfo(msgspec.Struct, kw_only=True):
    name: str
    slots: int
    busy: int
    queued: int
    paused: bool
    cooling_until: Time | None = None
    attempts: int = 0
    success_rate: float | None = None


class Agents(msgspec.Struct, kw_only=True):
    agents: list[AgentInfo]


class Claim(msgspec.Struct, kw_only=True):
    """A job that a worker now holds. `attempt_id` is for the environment of what it starts (OPUS_ATTEMPT_ID).

    `prompt` is there where earlier attempts or answers add to the job's own: the text for this attempt.
    """

    job: Job
    attempt: int
    attempt_id: str
    token: str
    expires_at: Time
    prompt: str | UnsetType | None = UNSET


class Claims(msgspec.Struct, kw_only=True):
    claims: list[Claim]


class Heartbeat(msgspec.Struct, kw_only=True):
    expires_at: Time | None
    cancel: bool


class Finished(msgspec.Struct, kw_only=True):
    job: Job
    claims: list[Claim] = []


class WorkerInfo(msgspec.Struct, kw_only=True):
    worker: str
    agents: list[str]
    jobs: list[int]
    last_seen: Time
    completed: int
    failed: int


class Workers(msgspec.Struct, kw_only=True):
    workers: list[WorkerInfo]


class Subscription(msgspec.Struct, kw_only=True):
    """Events after `cursor` follow as notifications `event {subscription, event}`."""

    subscription: int
    cursor: int


class Spread(msgspec.Struct, kw_only=True):
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None


class StatsGroup(msgspec.Struct, kw_only=True):
    """The key of `group_by` is one of the optional names."""

    agent: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    tier: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    group: str | UnsetType | None = UNSET
    hour: Time | UnsetType = UNSET
    day: Time | UnsetType = UNSET
    submitted: int
    completed: int
    failed: int
    success_rate: float | None
    run_seconds: Spread
    wait_seconds: Spread
    tokens: int
    cost_usd: float
    utilization: float | None


class Stats(msgspec.Struct, kw_only=True):
    groups: list[StatsGroup]


class Schedule(msgspec.Struct, kw_only=True):
    """`last_at` is the firing that last made a job, `last_error` why one since then makes none; `job` is as sent."""

    name: str
    cron: str
    timezone: str | None
    misfire: str
    overlap: str
    paused: bool
    next_at: Time | None
    last_at: Time | None
    last_job: int | None
    last_error: str | None
    job: dict[str, Any]


class Schedules(msgspec.Struct, kw_only=True):
    schedules: list[Schedule]


class NotificationInfo(msgspec.Struct, kw_only=True):
    """Counts are since the daemon began or the configuration was read; `problem` is of the last try."""

    name: str
    to: Literal["command", "webhook"]
    on: list[str]
    waiting: int
    sent: int
    failed: int
    dropped: int
    gone: bool
    problem: str | None


class Notifications(msgspec.Struct, kw_only=True):
    notifications: list[NotificationInfo]


class NotificationTested(msgspec.Struct, kw_only=True):
    ok: bool
    problem: str | None


class Hello(msgspec.Struct, kw_only=True):
    """`capabilities` are the names of the methods that this daemon answers."""

    protocol: int
    version: str
    capabilities: list[str]


class Info(msgspec.Struct, kw_only=True):
    version: str
    pid: int
    uptime: float
    ready: bool
    degraded: list[str]
    store: str
    db_bytes: int
    wal_bytes: int
    free_disk: int
    loop_lag_ms: float
    commit_ms: float
    connections: int
    oldest_queued_seconds: float | None
    socket: str = ""
    state_dir: str = ""
    sqlite_version: str | None = None
    python: str = ""
    punches_holes: bool = True
    config: dict[str, Any] = {}


class BackupMade(msgspec.Struct, kw_only=True):
    path: str
    bytes: int
