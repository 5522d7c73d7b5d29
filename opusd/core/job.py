"""The record of a job: what scheduling needs (Job), and what only the attempt and the reader need (Spec, Outcome).

A Job is immutable: a change is a pair (before, after), so a change can be undone by swapping the pair.
Times are integers, microseconds since 1970 in UTC; durations are microseconds too. The memory holds one
Job for each unfinished job and no Spec: prompts and payloads stay in the registry.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from opusd.core.lifecycle import FINAL, Status
from opusd.core.retry import Policy

SECOND = 1_000_000


class Tier(IntEnum):
    LOW = 0
    NORMAL = 1
    URGENT = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return _TIERS[self]


_TIERS = tuple(tier.name.lower() for tier in Tier)


class Source(StrEnum):
    USER = "user"
    AUTOMATED = "automated"
    AGENT = "agent"


class On(StrEnum):
    """Which end of the upstream satisfies an edge."""

    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


class IfUnmet(StrEnum):
    BLOCK = "block"
    CANCEL = "cancel"
    RUN = "run"


class EdgeState(StrEnum):
    PENDING = "pending"
    SATISFIED = "satisfied"
    UNMET = "unmet"


class Edge(msgspec.Struct, frozen=True, gc=False):
    upstream: int
    on: On = On.SUCCESS
    if_unmet: IfUnmet = IfUnmet.BLOCK
    state: EdgeState = EdgeState.PENDING


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What many jobs have in common; equal Terms are one object in memory (`intern`)."""

    tier: Tier = Tier.NORMAL
    boost: int = 0
    agent: str = "exec"
    type: str = "task"
    source: Source = Source.USER
    group: str | None = None
    interactive: bool = False
    needs: tuple[tuple[str, int], ...] = ()  # sorted by name
    timeout: int | None = None
    expires_in: int | None = None
    retry: Policy = Policy()
    policy: Policy | None = None  # what `retry` is without the job's own max_retries, where it has one
    route: str | None = None  # the name of the route that chose the agent
    submitted_by: str = "user:0"
    labels: tuple[str, ...] = ()  # sorted; of jobs that workers claim, for they may ask for labels


class Ending(StrEnum):
    """Why an attempt is being ended by the daemon."""

    CANCEL = "cancel"
    HOLD = "hold"
    TIMEOUT = "timeout"
    ASK = "ask"  # the agent asked a person: its slot is wanted
    STALL = "stall"  # it says nothing any more
    PUT_BACK = "put_back"  # the daemon stops: the job goes back to its place


class Run(msgspec.Struct, frozen=True, gc=False):
    """The attempt under way."""

    attempt: int
    attempt_id: str  # OPUS_ATTEMPT_ID, random
    token_hash: bytes  # SHA-256 of OPUS_TOKEN
    slot: int  # OPUS_SLOT
    over: bool  # sits in an interactive slot, above the pool
    started_at: int
    timeout_at: int | None = None
    ending: Ending | None = None
    kill_at: int | None = None  # when SIGTERM becomes SIGKILL
    ending_by: str | None = None  # the actor that asked for the end
    ending_reason: str | None = None
    worker: str | None = None
    lease_until: int | None = None  # of a worker; None: it is over, and the attempt's end is on its way
    lease: int = 0  # for how long it is renewed
    answered: bool = False  # it goes on with a person's answer
    skew: int = 0  # by how much the wall's clock had jumped when it started: see timekeeping


class Question(msgspec.Struct, frozen=True, gc=False):
    """What an agent asked a person; the job expires at `until` when nobody answers."""

    id: int
    text: str
    options: tuple[str, ...] = ()
    until: int | None = None
    budget: str | None = None  # the daemon asks, for this budget is used up


class Spent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the ended attempts of a job used that has a budget; `grants`: how often a person gave as much again."""

    tokens: int = 0
    cost: float = 0.0
    grants: int = 0
    warned: tuple[str, ...] = ()


class Extra(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What few jobs have; None on all the others."""

    limits: int = 0  # rate limits in a row
    failures: int = 0  # failed attempts since a person's last retry
    asked: int = 0  # questions so far
    question: Question | None = None
    answered: bool = False  # critical until its next attempt starts
    fresh: bool = False  # the next attempt takes up no session
    tree: str = ""  # see Job.tree
    escalated_from: int | None = None
    escalated_to: int | None = None
    spent: Spent | None = None
    skew: int = 0  # by how much the wall's clock had jumped when the job became ready: see timekeeping


PLAIN = Extra()
_skewed: dict[int, Extra] = {}


def kept(extra: Extra) -> Extra | None:
    """None when there is nothing in it; one object for all that keep a skew and no more, which may be very many."""
    if extra == PLAIN:
        return None
    skew = extra.skew
    if not skew or extra != Extra(skew=skew):
        return extra
    if len(_skewed) > _MOST_SKEWS:
        _skewed.clear()
    return _skewed.setdefault(skew, extra)


_MOST_SKEWS = 1000


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    id: int
    version: int = 1
    status: Status
    terms: Terms
    created_at: int
    queued_at: int | None = None
    run_at: int | None = None
    due_at: int | None = None  # the end of a backoff
    started_at: int | None = None
    completed_at: int | None = None
    key: str | None = None
    ancestors: tuple[int, ...] = ()  # root first, parent last
    edges: tuple[Edge, ...] = ()
    attempts: int = 0
    retries: int = 0
    losses: int = 0
    run: Run | None = None
    extra: Extra | None = None

    def with_extra(self, **fields: Any) -> Job:
        """This job with other extras; None when nothing is left that is worth keeping."""
        return replace(self, extra=kept(replace(self.extra or PLAIN, **fields)))

    @property
    def escalated(self) -> bool:
        """Another job carries on: this one is no dead letter, and to those who wait not over."""
        return self.extra is not None and self.extra.escalated_to is not None

    @property
    def tree(self) -> str:
        """The name of its worktree, if it wants one: `41`, after a fresh start `41-2`; a link keeps the old one's."""
        return (self.extra and self.extra.tree) or str(self.id)

    @property
    def next_tree(self) -> str:
        """The name of the worktree that a fresh start is to have."""
        owner, _, number = self.tree.partition("-")
        return f"{self.id}-{int(number or 1) + 1}" if owner == str(self.id) else ""

    @property
    def tier(self) -> Tier:
        """Its own tier; an answered job is critical until its next attempt starts."""
        return Tier.CRITICAL if self.extra is not None and self.extra.answered else self.terms.tier

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def parent(self) -> int | None:
        return self.ancestors[-1] if self.ancestors else None

    @property
    def root(self) -> int:
        return self.ancestors[0] if self.ancestors else self.id

    @property
    def ready_since(self) -> int:
        """When it became ready, or else was made, in steady time."""
        at = self.queued_at if self.queued_at is not None else self.created_at
        return at if self.extra is None else at - self.extra.skew

    @property
    def expiry(self) -> int | None:
        """When a ready job that never had an attempt gives up, in steady time; None outside that."""
        if self.status is not Status.QUEUED or self.attempts or self.terms.expires_in is None:
            return None
        return self.ready_since + self.terms.expires_in

    @property
    def due(self) -> int | None:
        """When time alone next changes this job, its expiry aside."""
        match self.status:
            case Status.SCHEDULED:
                return self.run_at
            case Status.RETRYING:
                return self.due_at
            case Status.RUNNING | Status.CANCELLING if self.run is not None:
                run = self.run
                moments = (run.lease_until, run.timeout_at if run.ending is None else None)
                return min((at for at in moments if at is not None), default=None)
            case Status.NEEDS_INPUT if self.extra is not None and self.extra.question is not None:
                return self.extra.question.until
            case _:
                return None


_MAX_TITLE = 200


class Spec(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What scheduling never looks at of a JobSpec. `payload`, `metadata` and `env` are JSON objects as sent."""

    title: str
    prompt: str | None = None
    command: list[str] | None = None
    payload: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    labels: list[str] = []
    cwd: str = "/"
    env: dict[str, Any] = {}
    worktree: bool = False
    verify: list[str] | None = None
    previous: list[dict[str, Any]] = []  # of an escalated job: {agent, class, message, output_tail}
    answers: list[dict[str, Any]] = []  # {question, answer}, in order
    digest: bytes = b""  # SHA-256 of the JobSpec as sent, to tell a repeated key from a conflicting one


def default_title(prompt: str | None, command: list[str] | None, type_: str) -> str:
    """The first line of the prompt or command that is not empty; else what type of job it is."""
    text = prompt if prompt is not None else " ".join(command or ())
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first[:_MAX_TITLE] or type_


class Outcome(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What the attempts have brought so far; the wire's `result`, `error`, `usage`, `session_id` and `workdir`.

    A session belongs to `session_agent`, which alone can take it up; `session_usage` is what was used in it.
    `workdir` and `branch` of a worktree are here before it is made. `verify_output` is the end of what the last
    verification that failed has printed; a success takes it away.
    """

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    session_id: str | None = None
    session_agent: str | None = None
    session_usage: dict[str, Any] | None = None
    workdir: str | None = None
    branch: str | None = None
    verify_output: str | None = None


class Attempt(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One row of the attempts table: `run` while it is under way, the rest when it has ended."""

    job: int
    agent: str
    run: Run
    ended_at: int | None = None
    failure: str | None = None  # a failure class; None: it succeeded, or has not ended
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    session_id: str | None = None
    usage: dict[str, Any] | None = None
    log_bytes: int = 0


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One row of the audit trail. `cursor` is the row's id, ascending in the order of decision."""

    cursor: int
    time: int
    kind: str
    job: int | None = None
    attempt: int | None = None
    before: str | None = None  # the wire's `from`
    after: str | None = None  # the wire's `to`
    actor: str = "scheduler"
    detail: dict[str, Any] | None = None


class Change(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One decided step of one job: `before` None creates it; `spec` and `outcome` are given when they are new."""

    before: Job | None
    after: Job
    spec: Spec | None = None
    outcome: Outcome | None = None
    attempt: Attempt | None = None
    event: Event | None = None


_terms: dict[Terms, Terms] = {}


def intern(terms: Terms) -> Terms:
    """The one object that stands for all equal Terms, so that a million alike jobs share it."""
    if len(_terms) > 100_000:  # only a cache: forgetting costs memory, never truth
        _terms.clear()
    return _terms.setdefault(terms, terms)
