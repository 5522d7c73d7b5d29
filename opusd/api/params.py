"""The parameters of every method, by its name: `job.submit` takes JobSubmit (contract, section 7).

Named only; an unknown name is refused. UNSET is "not given", where null says something.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from opusd.api.types import (
    Boost,
    Duration,
    Edges,
    JobSpec,
    KindWord,
    Labels,
    Needs,
    Params,
    Progress,
    Ref,
    Retries,
    SourceWord,
    StatusWord,
    TierWord,
    Time,
    Title,
)

Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Offset: TypeAlias = Annotated[int, Meta(ge=0)]


class JobSubmit(JobSpec, kw_only=True):
    pass


class JobSubmitBatch(Params, kw_only=True):
    jobs: Annotated[list[JobSpec], Meta(min_length=1, max_length=1000)]


class JobGet(Params, kw_only=True):
    id: Ref


class JobList(Params, kw_only=True):
    """Every filter that is given must hold; a list means any of it.

    By `score` are the queued jobs, in the order of dispatch; those that are not queued have none and come last, by id.
    """

    status: StatusWord | list[StatusWord] | None = None
    tier: TierWord | list[TierWord] | None = None
    type: str | list[str] | None = None
    agent: str | list[str] | None = None
    source: SourceWord | list[SourceWord] | None = None
    label: str | None = None
    group: str | None = None
    parent: Ref | None = None
    since: Time | None = None
    until: Time | None = None
    time: Literal["created", "started", "completed"] = "created"
    text: str | None = None
    dead: bool = False
    full: bool = False
    order: Literal["-id", "id", "completed_at", "-completed_at", "score"] = "-id"
    limit: Limit = 100
    cursor: str | None = None


class JobUpdate(Params, kw_only=True):
    """What is not given stays.

    Null takes timeout, expires_in and run_at away, makes title the first line of the prompt or command again, and
    max_retries that of the job's retry policy.
    Nothing else can be null: say what it is to be.
    """

    id: Ref
    version: int | None = None
    title: Title | UnsetType | None = UNSET
    labels: Labels | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    timeout: Duration | UnsetType | None = UNSET
    priority: int | str | UnsetType = UNSET
    boost: Boost | UnsetType = UNSET
    needs: Needs | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    command: list[str] | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    expires_in: Duration | UnsetType | None = UNSET
    max_retries: Retries | UnsetType | None = UNSET
    run_at: Time | UnsetType | None = UNSET
    depends_on: Edges | UnsetType = UNSET


class JobHold(Params, kw_only=True):
    """`id` or `group`; `stop` ends a running attempt, at no cost."""

    id: Ref | None = None
    group: str | None = None
    stop: bool = False


class JobRelease(Params, kw_only=True):
    id: Ref | None = None
    group: str | None = None


class JobCancel(Params, kw_only=True):
    id: Ref | None = None
    group: str | None = None
    reason: str | None = None
    cascade: bool = False
    grace: Duration | None = None


class JobRetry(Params, kw_only=True):
    ids: list[Ref]
    fresh: bool = False
    cascade: bool = False


class JobWait(Params, kw_only=True):
    """`ids` or `group`."""

    ids: list[Ref] | None = None
    group: str | None = None
    any: bool = False
    until: Literal["final", "started"] = "final"
    timeout: Duration | None = None


class JobLogs(Params, kw_only=True):
    """`limit` is in bytes; `wait` is how long to wait for more than nothing."""

    id: Ref
    attempt: Annotated[int, Meta(ge=1)] | None = None
    offset: Offset = 0
    limit: Annotated[int, Meta(ge=4, le=512 * 1024)] = 64 * 1024
    wait: Duration = 0


class JobHistory(Params, kw_only=True):
    id: Ref


class JobWhy(Params, kw_only=True):
    id: Ref


class JobAnswer(Params, kw_only=True):
    id: Ref
    question: int | str
    text: str


class JobPrune(Params, kw_only=True):
    """`ids`, or `before` (completed before this time) with `status`."""

    ids: list[Ref] | None = None
    before: Time | None = None
    status: StatusWord | list[StatusWord] | None = None
    dry_run: bool = False


class WorktreeList(Params, kw_only=True):
    """`ids`: those of these jobs alone."""

    ids: list[Ref] | None = None


class WorktreePrune(Params, kw_only=True):
    """`ids`: those of these jobs alone; a job that the registry has forgotten must be named."""

    ids: list[Ref] | None = None
    dry_run: bool = False


class QueueStatus(Params, kw_only=True):
    pass


class QueuePeek(Params, kw_only=True):
    limit: Limit = 100
    agent: str | None = None


class QueueCapacity(Params, kw_only=True):
    """The start is estimated from run times of the agent's jobs of this `type`, or of all its jobs.

    For a job of this `source`, which has its quota; the caller's own has one too.
    """

    agent: str | None = None
    type: str | None = None
    source: SourceWord | None = None


class QueuePause(Params, kw_only=True):
    """`agent`, or `group`, or neither: everything."""

    agent: str | None = None
    group: str | None = None


class QueueResume(Params, kw_only=True):
    agent: str | None = None
    group: str | None = None


class QueueDrain(Params, kw_only=True):
    timeout: Duration | None = None


class PoolResize(Params, kw_only=True):
    """With `agent`: that agent's slots."""

    max_concurrent: Annotated[int, Meta(ge=0, le=10_000)]
    agent: str | None = None


class AgentList(Params, kw_only=True):
    pass


class WorkerClaim(Params, kw_only=True):
    worker: Annotated[str, Meta(min_length=1, max_length=200)]
    agents: list[str] | None = None
    types: list[str] | None = None
    labels: list[str] | None = None
    group: str | None = None
    min_tier: TierWord | None = None
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    lease: Duration = 60
    wait: Duration = 0


class ProgressReport(Progress, kw_only=True, forbid_unknown_fields=True):
    """How far an attempt is: a fraction between 0 and 1, and words."""


class WorkerHeartbeat(Params, kw_only=True):
    id: Ref
    token: str
    progress: ProgressReport | None = None
    lease: Duration | None = None


class WorkerComplete(Params, kw_only=True):
    id: Ref
    token: str
    result: Any = None
    claim: WorkerClaim | None = None


class WorkerError(Params, kw_only=True):
    class_: str = msgspec.field(name="class", default="agent_error")
    message: str | None = None
    until: Time | None = None


class WorkerFail(Params, kw_only=True):
    id: Ref
    token: str
    error: WorkerError
    claim: WorkerClaim | None = None


class WorkerRelease(Params, kw_only=True):
    id: Ref
    token: str


class WorkerAsk(Params, kw_only=True):
    id: Ref
    token: str
    text: str
    options: list[str] = msgspec.field(default_factory=list)


class WorkerList(Params, kw_only=True):
    pass


class EventsSubscribe(Params, kw_only=True):
    """`since` absent: from now on; 0: all that is kept. `kinds`, `jobs`: only of these; absent or empty: of all."""

    since: Offset | None = None
    kinds: list[KindWord] | None = None
    jobs: list[Ref] | None = None
    group: str | None = None


class EventsUnsubscribe(Params, kw_only=True):
    subscription: int


class StatsSummary(Params, kw_only=True):
    since: Time | None = None
    until: Time | None = None
    group_by: Literal["agent", "type", "tier", "source", "group", "hour", "day"] | None = None


class ScheduleAdd(Params, kw_only=True):
    """`cron` is of five fields or a word such as @daily, in `timezone` (null: the machine's)."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    cron: str
    timezone: str | None = None
    misfire: Literal["skip", "once", "all"] = "once"
    overlap: Literal["queue", "skip"] = "queue"
    replace: bool = False
    job: JobSpec


class ScheduleList(Params, kw_only=True):
    name: str | None = None


class ScheduleRemove(Params, kw_only=True):
    name: str


class SchedulePause(Params, kw_only=True):
    name: str


class ScheduleResume(Params, kw_only=True):
    name: str


class ScheduleRun(Params, kw_only=True):
    name: str


class NotificationList(Params, kw_only=True):
    pass


class NotificationTest(Params, kw_only=True):
    name: str


class SystemHello(Params, kw_only=True):
    protocol_min: int = 1
    protocol_max: int = 1
    client: str | None = None
    token: str | None = None


class SystemInfo(Params, kw_only=True):
    pass


class SystemPing(Params, kw_only=True):
    pass


class SystemReload(Params, kw_only=True):
    pass


class SystemBackup(Params, kw_only=True):
    path: str


class SystemShutdown(Params, kw_only=True):
    agents: Literal["leave", "drain", "stop"] = "leave"
    timeout: Duration | None = None


class RpcDiscover(Params, kw_only=True):
    pass
