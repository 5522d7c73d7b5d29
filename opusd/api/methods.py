"""The one table of methods. Decoding, `rpc.discover`, the protocol page and the clients derive from it.

A method is declared here once; who answers it, and for whom, is not known here. A method that the
daemon's commands do not offer is answered with -32601, so the table may be ahead of the daemon.
"""

from __future__ import annotations

from typing import Any, Final

from opusd.api import params as p
from opusd.api import results as r
from opusd.api.method import Method
from opusd.api.types import Job
from opusd.core.errors import (
    Conflict,
    DependencyError,
    Forbidden,
    InvalidParams,
    LeaseLost,
    NotFound,
    QueueFull,
    QuotaExceeded,
    RequestCancelled,
    ShuttingDown,
    StorageUnavailable,
)

_WRITE: Final = (InvalidParams, Forbidden, ShuttingDown, StorageUnavailable)
_CHANGE: Final = (*_WRITE, NotFound, Conflict)
_ADMIT: Final = (*_CHANGE, QueueFull, QuotaExceeded, DependencyError)
_LEASE: Final = (*_CHANGE, LeaseLost)

JOB_SUBMIT = Method(
    "job.submit",
    p.JobSubmit,
    r.Submitted,
    "Enter a job. With a `key` in use and the same content, the key's job comes back and `created` is false.",
    "write",
    _ADMIT,
)
JOB_SUBMIT_BATCH = Method(
    "job.submit_batch",
    p.JobSubmitBatch,
    r.SubmittedBatch,
    "Enter up to 1,000 jobs, all or none. `depends_on` may name keys of the batch in any order; "
    "an error carries `data.index`. Where one reply would not hold the jobs they come `shortened`, in order.",
    "write",
    _ADMIT,
)
JOB_GET = Method(
    "job.get", p.JobGet, Job, "One job, with everything that one reply holds.", errors=(InvalidParams, NotFound)
)
JOB_LIST = Method(
    "job.list",
    p.JobList,
    r.JobPage,
    "Jobs that match every filter. Without `full` prompt, command, env, payload, metadata and result are left out.",
    errors=(InvalidParams, NotFound),
)
JOB_UPDATE = Method(
    "job.update",
    p.JobUpdate,
    Job,
    "Change a job. title, labels, metadata always; timeout while it runs too; priority, boost, needs, prompt, "
    "command, agent, expires_in, max_retries while it neither runs nor is final; run_at and depends_on before that. "
    "With another agent goes what it runs: a command for exec, a prompt for the others, and the other one is dropped. "
    "An interactive job is critical: another priority or boost is refused. "
    "`title: null` is the first line of the prompt or command again; null takes timeout, expires_in and run_at away. "
    "`max_retries: null` is the number of the job's retry policy again, or of its agent's. "
    "A stale `version` is Conflict. What says nothing new leaves the job and its version as they are.",
    "write",
    _ADMIT,
)
JOB_HOLD = Method(
    "job.hold",
    p.JobHold,
    Job,
    "Put a job aside; with `stop` its running attempt is ended, at no cost. For a group: `{jobs}`.",
    "write",
    _CHANGE,
    group_result=r.Jobs,
)
JOB_RELEASE = Method(
    "job.release",
    p.JobRelease,
    Job,
    "Let a held job go on. For a group: `{jobs}`.",
    "write",
    _CHANGE,
    group_result=r.Jobs,
)
JOB_CANCEL = Method(
    "job.cancel",
    p.JobCancel,
    Job,
    "Cancel a job; answered at once, with `cancelling` when an attempt runs: SIGTERM to every process of it, "
    "SIGKILL after `grace` (10 s; a second call may shorten it). `cascade` takes dependents and spawned jobs too. "
    "For a group: `{jobs}`.",
    "write",
    _CHANGE,
    group_result=r.Jobs,
)
JOB_RETRY = Method(
    "job.retry",
    p.JobRetry,
    r.Jobs,
    "Try failed, cancelled, expired and backing-off jobs again. `fresh` starts anew instead of resuming the session.",
    "write",
    _ADMIT,
)
JOB_WAIT = Method(
    "job.wait",
    p.JobWait,
    r.Waited,
    "Wait until all (or `any`) of the jobs have ended, or started.",
    errors=(InvalidParams, NotFound, Conflict, RequestCancelled),
    waits=True,
)
JOB_LOGS = Method(
    "job.logs",
    p.JobLogs,
    r.LogChunk,
    "Output of an attempt (the last by default). `wait` is a long poll; `data` never ends inside a character.",
    errors=(InvalidParams, NotFound, RequestCancelled),
    waits=True,
)
JOB_HISTORY = Method(
    "job.history",
    p.JobHistory,
    r.History,
    "What happened to a job: its audit trail, its attempts and its chain of escalation.",
    errors=(InvalidParams, NotFound),
)
JOB_WHY = Method(
    "job.why",
    p.JobWhy,
    r.Why,
    "Why a job is where it is: `reason` as data.",
    errors=(InvalidParams, NotFound),
)
JOB_ANSWER = Method(
    "job.answer",
    p.JobAnswer,
    Job,
    "Answer a job's question; it keeps its place and is critical until its next attempt starts.",
    "write",
    _CHANGE,
    since="0.2",
)
JOB_PRUNE = Method(
    "job.prune",
    p.JobPrune,
    r.Pruned,
    "Remove prompt, payload, result and output of final jobs, and free their keys. "
    "Never what an unfinished job waits for. 500 go together: when some are pruned and the next ones can't be, the "
    "error says so, and how many in `data.pruned`.",
    "write",
    _CHANGE,
)
WORKTREE_LIST = Method(
    "worktree.list",
    p.WorktreeList,
    r.Worktrees,
    "The git worktrees of jobs, with what work is in them.",
    errors=(InvalidParams, NotFound),
)
WORKTREE_PRUNE = Method(
    "worktree.prune",
    p.WorktreePrune,
    r.PrunedWorktrees,
    "Remove the clean worktrees of finished jobs, and their branches. One with changes, with commits that no other "
    "branch has, or whose job is not finished is kept.",
    "write",
    (*_WRITE, NotFound),
)
QUEUE_STATUS = Method("queue.status", p.QueueStatus, r.Status, "Counts, what runs, the pool.")
QUEUE_PEEK = Method(
    "queue.peek",
    p.QueuePeek,
    r.Jobs,
    "The queued jobs in the order of dispatch; `omitted` of them where one reply does not hold so many.",
    errors=(InvalidParams, NotFound),
)
QUEUE_CAPACITY = Method(
    "queue.capacity",
    p.QueueCapacity,
    r.Capacity,
    "Whether a job for this agent would start, queue or be refused, and when it might start.",
    errors=(InvalidParams, NotFound),
)
QUEUE_PAUSE = Method(
    "queue.pause",
    p.QueuePause,
    r.Status,
    "Start no more jobs (of an agent or group). Survives restarts; submit still answers.",
    "write",
    (*_WRITE, NotFound),
)
QUEUE_RESUME = Method(
    "queue.resume",
    p.QueueResume,
    r.Status,
    "End a pause; with an agent its cool-down too.",
    "write",
    (*_WRITE, NotFound),
)
QUEUE_DRAIN = Method(
    "queue.drain",
    p.QueueDrain,
    r.Status,
    "Pause, and return when nothing runs (or the time is over: then `running` is not empty). Stays paused.",
    "write",
    (*_WRITE, RequestCancelled),
    waits=True,
)
POOL_RESIZE = Method(
    "pool.resize",
    p.PoolResize,
    r.Pool,
    "Set how many attempts run at once, in all or of one agent. Lowering ends nothing. Refused for an agent without "
    "`argv`: workers alone take its jobs.",
    "write",
    (*_WRITE, NotFound),
)
AGENT_LIST = Method("agent.list", p.AgentList, r.Agents, "The configured agents and how they are doing.")
WORKER_CLAIM = Method(
    "worker.claim",
    p.WorkerClaim,
    r.Claims,
    "Take up to `count` jobs under a lease; empty when there was none within `wait`.",
    "write",
    (*_WRITE, RequestCancelled),
    waits=True,
    since="0.2",
)
WORKER_HEARTBEAT = Method(
    "worker.heartbeat",
    p.WorkerHeartbeat,
    r.Heartbeat,
    "Renew a lease and report progress; a pushed agent may call it with `$OPUS_TOKEN`.",
    "write",
    _LEASE,
)
WORKER_COMPLETE = Method(
    "worker.complete",
    p.WorkerComplete,
    r.Finished,
    "The job is done; `claim` takes the next in the same commit.",
    "write",
    _LEASE,
    since="0.2",
)
WORKER_FAIL = Method(
    "worker.fail",
    p.WorkerFail,
    r.Finished,
    "The attempt failed, or is `cancelled` as was asked of it; `claim` takes the next in the same commit.",
    "write",
    _LEASE,
    since="0.2",
)
WORKER_RELEASE = Method(
    "worker.release",
    p.WorkerRelease,
    Job,
    "Put a claimed job back, at no cost.",
    "write",
    _LEASE,
    since="0.2",
)
WORKER_ASK = Method(
    "worker.ask",
    p.WorkerAsk,
    Job,
    "Ask a person; the job becomes needs_input. A pushed agent may, too.",
    "write",
    _LEASE,
    since="0.2",
)
WORKER_LIST = Method("worker.list", p.WorkerList, r.Workers, "Who claims, and what they hold.", since="0.2")
EVENTS_SUBSCRIBE = Method(
    "events.subscribe",
    p.EventsSubscribe,
    r.Subscription,
    "Events as notifications `event {subscription, event}`, all after `since` (a cursor; 0: all that is kept; absent: "
    "from now). A client that does not keep up gets one `event.lagged {subscription, cursor}` and is unsubscribed.",
    "stream",
    (InvalidParams, NotFound),
)
EVENTS_UNSUBSCRIBE = Method(
    "events.unsubscribe",
    p.EventsUnsubscribe,
    r.Done,
    "End a subscription of this connection.",
    errors=(InvalidParams, NotFound),
)
STATS_SUMMARY = Method(
    "stats.summary",
    p.StatsSummary,
    r.Stats,
    "How much was done, how well, how long it ran and waited, and what it cost.",
    errors=(InvalidParams,),
    since="0.3",
)
SCHEDULE_ADD = Method(
    "schedule.add",
    p.ScheduleAdd,
    r.Schedule,
    "Submit a job by the calendar. With `replace` it takes the place of the schedule of that name.",
    "write",
    (*_CHANGE, DependencyError),
    since="0.3",
)
SCHEDULE_LIST = Method(
    "schedule.list",
    p.ScheduleList,
    r.Schedules,
    "The schedules, or the one of this name.",
    errors=(NotFound,),
    since="0.3",
)
SCHEDULE_REMOVE = Method(
    "schedule.remove",
    p.ScheduleRemove,
    r.Done,
    "Forget a schedule; its jobs stay.",
    "write",
    (*_WRITE, NotFound),
    since="0.3",
)
SCHEDULE_PAUSE = Method(
    "schedule.pause",
    p.SchedulePause,
    r.Schedule,
    "Let a schedule rest.",
    "write",
    (*_WRITE, NotFound),
    since="0.3",
)
SCHEDULE_RESUME = Method(
    "schedule.resume",
    p.ScheduleResume,
    r.Schedule,
    "Let a schedule go on.",
    "write",
    (*_WRITE, NotFound),
    since="0.3",
)
SCHEDULE_RUN = Method(
    "schedule.run",
    p.ScheduleRun,
    r.Submitted,
    "Submit a schedule's job now.",
    "write",
    (*_ADMIT,),
    since="0.3",
)
NOTIFICATION_LIST = Method(
    "notification.list", p.NotificationList, r.Notifications, "The configured notifications and how they are doing."
)
NOTIFICATION_TEST = Method(
    "notification.test",
    p.NotificationTest,
    r.NotificationTested,
    "Send one of them a message that says it is a test, now and once, and say what came of it.",
    "write",
    (*_WRITE, NotFound),
)
SYSTEM_HELLO = Method(
    "system.hello",
    p.SystemHello,
    r.Hello,
    "Agree on a version of the protocol (Conflict when there is none), and say by `token` whose agent is calling.",
    errors=(InvalidParams, Conflict),
)
SYSTEM_INFO = Method("system.info", p.SystemInfo, r.Info, "How the daemon is.")
SYSTEM_PING = Method("system.ping", p.SystemPing, r.Done, "Answered at once.")
SYSTEM_RELOAD = Method("system.reload", p.SystemReload, r.Done, "Read the configuration again.", "write", _WRITE)
SYSTEM_BACKUP = Method(
    "system.backup",
    p.SystemBackup,
    r.BackupMade,
    "Write a consistent copy of the registry to a path that does not exist, while jobs run.",
    "write",
    (*_WRITE, Conflict),
)
SYSTEM_SHUTDOWN = Method(
    "system.shutdown",
    p.SystemShutdown,
    r.Done,
    "End the daemon. Agents are left running for the next start, or drained, or stopped.",
    "write",
    _WRITE,
)
RPC_DISCOVER = Method("rpc.discover", p.RpcDiscover, dict[str, Any], "This protocol as an OpenRPC document.")

METHODS: Final[dict[str, Method[Any, Any]]] = {
    method.name: method for method in list(globals().values()) if isinstance(method, Method)
}
"""Every method by name, in the order of the contract."""
