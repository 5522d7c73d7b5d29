"""What happens to a submission: its agent, limits, dependencies and first state (contract, sections 2 to 4 and 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from opusd.core import quotas
from opusd.core.access import Caller, may_submit, require_running
from opusd.core.decision import PLACED, judged, placement
from opusd.core.dependencies import find_cycle, unsatisfied
from opusd.core.errors import Conflict, DependencyError, InvalidParams, NotFound, OpusError, QueueFull
from opusd.core.job import Edge, EdgeState, IfUnmet, Job, On, Source, Spec, Terms, Tier, intern
from opusd.core.lifecycle import Status
from opusd.core.retry import Policy, with_retries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from opusd.core.decision import Decision
    from opusd.core.job import Change
    from opusd.core.limits import Agent, Limits, Route
    from opusd.core.state import State

Ref = int | str
_PULL: Final = "pull"
EXEC: Final = "exec"


class Submission(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A JobSpec that was read: names resolved to values, text checked, durations in microseconds."""

    spec: Spec
    tier: Tier = Tier.NORMAL
    boost: int = 0
    explicit_priority: bool = False
    agent: str | None = None
    type: str = "task"
    source: Source | None = None
    group: str | None = None
    interactive: bool = False
    needs: dict[str, int] = {}
    timeout: int | None = None
    expires_in: int | None = None
    retry: Policy | None = None
    max_retries: int | None = None
    run_at: int | None = None
    held: bool = False
    key: str | None = None
    parent: Ref | None = None
    depends: tuple[tuple[Ref, On, IfUnmet], ...] = ()
    worktree: bool | None = None  # None: the agent's
    verify: list[str] | None = None  # None: the agent's; []: nothing


class Facts(msgspec.Struct):
    """What the registry says of jobs that are not in memory; read before the decision.

    `finals`: id -> (status, ancestors). `links`: id of an escalated job -> the job that carries on for it.
    `keys`: key -> (id, digest). `tree_sizes`: root -> descendants.
    """

    finals: dict[int, tuple[Status, tuple[int, ...]]] = {}
    links: dict[int, int] = {}
    keys: dict[str, tuple[int, bytes]] = {}
    tree_sizes: dict[int, int] = {}


class MissingFact(Conflict):
    """Memory holds a key whose digest is not on disk yet: commit, read the facts again, decide again."""


def submit(
    decision: Decision, submissions: Sequence[Submission], facts: Facts, caller: Caller
) -> list[tuple[Job | int, bool]]:
    """All or none, in order: (the new Job, True), or (the id of the key's job, False).

    Errors of a batch carry `index`.
    """
    state = decision.state
    known = {index: found for index, one in enumerate(submissions) if (found := _known(state, one, facts)) is not None}
    own = require_running(caller, state)
    if own is not None and len(known) < len(submissions):
        quotas.require_pace(decision, own.root, len(submissions) - len(known))
    numbers = [known[index] if index in known else decision.next_id() for index in range(len(submissions))]
    pending = _Batch(names=_names(submissions, numbers), facts=facts, queued=state.queued())
    results: list[tuple[Job | int, bool]] = []
    for index, submission in enumerate(submissions):
        if index in known:
            results.append((known[index], False))
            continue
        done = len(decision.changes)
        try:
            results.append((_admit(decision, numbers[index], submission, pending, caller), True))
        except OpusError as error:
            error.data.setdefault("index", index)
            raise
        if len(decision.changes) > done + 1:
            pending.learn(decision.changes[done:])
    if len(decision.changes) == len(submissions) - len(known):
        return results  # nothing became of any of them in the same breath
    last = {change.after.id: change.after for change in decision.changes}
    return [(job if isinstance(job, int) else last[job.id], created) for job, created in results]


class _Batch(msgspec.Struct):
    """`queued`: how many jobs were queued before it."""

    names: dict[str, int]
    facts: Facts
    queued: int

    def learn(self, changes: list[Change]) -> None:
        """Some were cancelled at once: what comes after them in the batch is judged by that."""
        ended = {one.after.id: (one.after.status, one.after.ancestors) for one in changes if one.after.final}
        self.facts = replace(self.facts, finals={**self.facts.finals, **ended})


def _names(submissions: Sequence[Submission], numbers: list[int]) -> dict[str, int]:
    """The ids by the keys of one batch."""
    names: dict[str, int] = {}
    for index, submission in enumerate(submissions):
        if submission.key is None:
            continue
        if submission.key in names:
            message = f"key {submission.key!r} is there twice in one batch"
            raise InvalidParams(message, path=f"$.jobs[{index}].key", index=index)
        names[submission.key] = numbers[index]
    return names


def _known(state: State, submission: Submission, facts: Facts) -> int | None:
    """The job that has this key already; Conflict when it was submitted with another content."""
    key = submission.key
    if key is None:
        return None
    found = facts.keys.get(key)
    if found is None:
        if key in state.keys:
            message = f"key {key!r} is being submitted at this moment: try again"
            raise MissingFact(message, key=key)
        return None
    number, digest = found
    if digest != submission.spec.digest:
        message = (
            f"key {key!r} belongs to job {number}, which was submitted with another content: "
            "use another key, or the same content"
        )
        raise Conflict(message, job=number, key=key)
    return number


def _room(state: State, agent: Agent, batch: _Batch) -> None:
    """Backpressure for a job that would be queued."""
    limit = state.limits.max_queued
    if state.queued() + 1 > limit:
        message = f"{batch.queued} jobs are queued and max_queued is {limit}: wait, or raise max_queued"
        raise QueueFull(message, queued=batch.queued, max_queued=limit, retry_after=60)
    queued = len(state.lane(agent.name).order)
    if queued + 1 > agent.max_queued:
        message = f"{queued} jobs of agent {agent.name} are queued and its max_queued is {agent.max_queued}: wait"
        raise QueueFull(message, queued=queued, max_queued=agent.max_queued, retry_after=60, agent=agent.name)


def _admit(decision: Decision, number: int, submission: Submission, batch: _Batch, caller: Caller) -> Job:
    state, limits, now = decision.state, decision.state.limits, decision.now
    ancestors = _ancestors(state, submission, batch, caller)
    terms = _terms(state, submission, caller, decision.actor)
    agent = limits.agents[terms.agent]
    spec = submission.spec
    if submission.worktree or submission.verify:
        spec = replace(spec, worktree=bool(submission.worktree), verify=submission.verify or None)
    may_submit(caller, spec, terms, limits, state, ancestors, batch.facts.tree_sizes)
    if submission.worktree is None and agent.worktree:
        spec = replace(spec, worktree=True)
    if submission.verify is None and agent.verify:
        spec = replace(spec, verify=list(agent.verify))
    edges = _edges(state, number, submission, batch) if submission.depends else ()
    status = Status.HELD if submission.held else PLACED[placement(edges, submission.run_at, now)]
    job = Job(
        id=number,
        status=status,
        terms=terms,
        created_at=now,
        queued_at=now if status is Status.QUEUED else None,
        run_at=submission.run_at,
        key=submission.key,
        ancestors=ancestors,
        edges=edges,
    )
    if status is Status.QUEUED and not terms.interactive:  # a human's message comes in though machines filled it
        _room(state, agent, batch)
        quotas.require_room(state, job)
    job = decision.put(None, job, "submitted", spec=spec)
    return decision.cancel_unmet(job) if edges else job


def _ancestors(state: State, submission: Submission, batch: _Batch, caller: Caller) -> tuple[int, ...]:
    parent = submission.parent
    if parent is None:
        parent = caller.job if caller.agent else None
    if parent is None:
        return ()
    number = resolve(parent, state, batch.facts)
    if number is None:
        message = f"parent {parent!r} is not a job"
        raise NotFound(message, path="$.parent")
    job = state.jobs.get(number)
    above = job.ancestors if job is not None else batch.facts.finals[number][1] if number in batch.facts.finals else ()
    return (*above, number)


def resolve(ref: Ref, state: State, facts: Facts, names: dict[str, int] | None = None) -> int | None:
    """The id that an id or key names, or None."""
    if isinstance(ref, str):
        if names and ref in names:
            return names[ref]
        found = facts.keys.get(ref)
        return state.keys.get(ref, found[0] if found else None)
    if ref in state.jobs or ref in facts.finals or (names is not None and ref in names.values()):
        return ref
    return None


def _edges(state: State, number: int, submission: Submission, batch: _Batch) -> tuple[Edge, ...]:
    edges = make_edges(state, number, submission.depends, batch.facts, batch.names)
    refuse_cycle(state, number, edges, batch.names)
    return edges


def refuse_cycle(state: State, number: int, edges: Iterable[Edge], names: dict[str, int] | None = None) -> None:
    """DependencyError when a job with these edges would wait for itself; `names` are the keys of its batch."""
    if number not in state.dependents:
        return  # nobody waits for it, so nothing leads back to it
    waited_for = [edge.upstream for edge in edges if edge.state is not EdgeState.SATISFIED]
    cycle = find_cycle(number, waited_for, lambda job: unsatisfied(state.jobs.get(job)))
    if cycle is not None:
        by_number = {job: key for key, job in (names or {}).items()}
        words = [by_number.get(job, job) for job in cycle]
        message = f"depends_on makes a cycle: {' -> '.join(map(str, words))}"
        raise DependencyError(message, cycle=words)


def make_edges(
    state: State,
    number: int,
    depends: tuple[tuple[Ref, On, IfUnmet], ...],
    facts: Facts,
    names: dict[str, int] | None = None,
) -> tuple[Edge, ...]:
    """Edges to jobs that exist; an upstream that is final already is judged now."""
    edges: dict[Edge, None] = {}
    for ref, on, if_unmet in depends:
        upstream = resolve(ref, state, facts, names)
        if upstream is None:
            message = f"depends_on names {ref!r}, which is not a job"
            raise DependencyError(message, unknown=ref)
        while upstream in facts.links and upstream not in state.jobs:
            upstream = facts.links[upstream]
        if upstream == number:
            message = "a job can't depend on itself"
            raise DependencyError(message, cycle=[ref, ref])
        edge = Edge(upstream, on, if_unmet)
        if upstream not in state.jobs and upstream in facts.finals:
            edge = judged(edge, facts.finals[upstream][0])
        edges[edge] = None
    return tuple(edges)


def _terms(state: State, submission: Submission, caller: Caller, submitted_by: str) -> Terms:
    limits = state.limits
    source = submission.source or (Source.AGENT if caller.agent else Source.USER)
    tier, boost = submission.tier, submission.boost
    if submission.interactive:
        tier, boost = Tier.CRITICAL, 0
    if (submission.interactive or tier is Tier.CRITICAL) and source is not Source.USER and not caller.agent:
        what = "interactive" if submission.interactive else "critical"
        message = f"{what} is for source user alone: this submission says {source}"
        raise InvalidParams(message, path="$.interactive" if submission.interactive else "$.priority")
    name, route = choose_agent(limits, submission, source, tier)
    if name not in limits.agents:
        by = "" if route is None else f" by route {route.name}"
        message = f"this job is{by} for the agent {name}, which is not configured: add it, or name another"
        raise InvalidParams(message, path="$.agent")
    if (
        route is not None
        and route.priority is not None
        and not submission.explicit_priority
        and not submission.interactive
    ):
        tier, boost = route.priority
    agent = limits.agents[name]
    needs = checked_needs(limits, agent, submission.needs)
    retry, policy = with_retries(submission.retry or agent.retry, submission.max_retries)
    return intern(
        Terms(
            tier=tier,
            boost=0 if tier is Tier.CRITICAL else boost,
            agent=name,
            type=submission.type,
            source=source,
            group=submission.group,
            interactive=submission.interactive,
            needs=needs,
            timeout=submission.timeout if submission.timeout is not None else agent.timeout or limits.timeout,
            expires_in=submission.expires_in if submission.expires_in is not None else limits.expires_in,
            retry=retry,
            policy=policy,
            route=None if route is None else route.name,
            submitted_by=submitted_by,
            labels=kept_labels(agent, submission.spec.labels),
        )
    )


def kept_labels(agent: Agent, labels: Collection[str]) -> tuple[str, ...]:
    """The labels that scheduling has to know: of jobs that workers claim."""
    return () if agent.slots or not labels else tuple(sorted(set(labels)))


def checked_needs(limits: Limits, agent: Agent, needs: dict[str, int]) -> tuple[tuple[str, int], ...]:
    if not needs and not agent.needs:
        return ()
    wanted = {**dict(agent.needs), **needs}
    for name, amount in wanted.items():
        if amount > limits.capacity(name):
            message = f"needs {amount} of {name!r}, and there is {limits.capacity(name)}: it could never run"
            raise InvalidParams(message, path=f"$.needs.{name}")
    return tuple(sorted((name, amount) for name, amount in wanted.items() if amount > 0))


def choose_agent(limits: Limits, submission: Submission, source: Source, tier: Tier) -> tuple[str, Route | None]:
    """The agent named, else by route, else the default one."""
    spec = submission.spec
    name = submission.agent
    if name is not None:
        if name not in limits.agents:
            message = f"agent {name!r} is not configured; there are: {', '.join(sorted(limits.agents))}"
            raise InvalidParams(message, path="$.agent")
        if spec.command is not None and name != EXEC:
            message = f"command is for the agent exec, not for {name}: give a prompt, or leave the agent out"
            raise InvalidParams(message, path="$.command")
        if name == EXEC and spec.command is None:
            message = "the agent exec runs a command: give command, a list of strings"
            raise InvalidParams(message, path="$.command")
        return name, None
    if spec.command is not None:
        return EXEC, None
    if spec.prompt is None:
        return _PULL, None
    for route in limits.routes:
        if _matches(route, submission, source, tier):
            return route.agent, route
    if limits.default_agent is None:
        message = "no agent for this prompt: name one, or set default_agent or a [[routes]] entry in config.toml"
        raise InvalidParams(message, path="$.agent")
    return limits.default_agent, None


def _matches(route: Route, submission: Submission, source: Source, tier: Tier) -> bool:
    return (
        route.type in (None, submission.type)
        and route.source in (None, source.value)
        and route.tier in (None, tier.word)
        and route.group in (None, submission.group)
        and (route.label is None or route.label in submission.spec.labels)
    )
