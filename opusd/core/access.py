"""Who is asking, and what that allows (contract, section 8). Evidence only ever lowers rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from opusd.core.errors import Forbidden, QuotaExceeded

if TYPE_CHECKING:
    from opusd.core.job import Job, Spec, Terms
    from opusd.core.limits import Limits
    from opusd.core.state import State


class Caller(msgspec.Struct, frozen=True):
    """The peer of one connection, looked at once when it connected.

    `agent` is true for a job's agent; `job` and `attempt` are then its attempt, or None when the peer
    could not be resolved: an agent without a job, which may only read. `start` is when a person's process
    began, in ticks since boot: with the pid it names that process and no later one; 0 is not known.
    """

    uid: int = 0
    pid: int = 0
    start: int = 0
    agent: bool = False
    job: int | None = None
    attempt: int | None = None

    @property
    def actor(self) -> str:
        """The word the audit trail uses for this caller: `user:1000` or `job:41`."""
        if not self.agent:
            return f"user:{self.uid}"
        return "agent" if self.job is None else f"job:{self.job}"


def require_person(caller: Caller, what: str) -> None:
    """Forbidden to any job's agent."""
    if caller.agent:
        message = f"{what} is for people: {_who(caller)} may not do it"
        raise Forbidden(message)


def require_descendant(caller: Caller, job: int, ancestors: tuple[int, ...], what: str) -> None:
    """A job's agent may do this to the jobs that descend from its own, and to no other."""
    if caller.agent and (caller.job is None or caller.job not in ancestors):
        message = f"{_who(caller)} may {what} its own descendants alone, and job {job} is none"
        raise Forbidden(message, job=job)


def require_running(caller: Caller, state: State) -> Job | None:
    """The job that this agent works on, which must be unfinished; None for people."""
    if not caller.agent:
        return None
    own = state.jobs.get(caller.job) if caller.job is not None else None
    if own is None:
        message = f"{_who(caller)} may not submit: it belongs to no running job"
        raise Forbidden(message)
    return own


def may_submit(
    caller: Caller,
    spec: Spec,
    terms: Terms,
    limits: Limits,
    state: State,
    ancestors: tuple[int, ...],
    tree_sizes: dict[int, int],
) -> None:
    """Nothing for people; for a job's agent: source, parent, agent, depth and number.

    Its cwd is checked where files are.
    """
    own = require_running(caller, state)
    if own is None:
        return
    _asks_nothing_of_people(caller, terms, ancestors)
    _only_listed(
        own, terms.agent, limits, programs=spec.command is not None or spec.verify is not None or bool(spec.env)
    )
    if len(ancestors) > limits.max_depth:
        message = f"this would be {len(ancestors)} deep and max_depth is {limits.max_depth}"
        raise QuotaExceeded(message, quota="max_depth", limit=limits.max_depth, retry_after=None)
    root = ancestors[0]
    size = state.tree_sizes.setdefault(root, tree_sizes.get(root, len(state.descendants.get(root, ()))))
    if size >= limits.max_children:
        message = f"{size} jobs descend from job {root} and max_children is {limits.max_children}"
        raise QuotaExceeded(message, quota="max_children", limit=limits.max_children, retry_after=None)


def may_edit(caller: Caller, agent: str, state: State, *, command: bool) -> None:
    """What a job's agent may not submit, it may not make of a job by an update either."""
    own = require_running(caller, state)
    if own is not None:
        _only_listed(own, agent, state.limits, programs=command)


def _only_listed(own: Job, agent: str, limits: Limits, *, programs: bool) -> None:
    allowed = limits.agents[own.terms.agent].may_submit if own.terms.agent in limits.agents else ()
    if agent not in allowed:
        listed = ", ".join(allowed) or "no agent"
        message = f"jobs of agent {own.terms.agent} may submit to {listed}, not to {agent} (may_submit)"
        raise Forbidden(message, agent=agent)
    if programs and "exec" not in allowed:
        message = "command, verify and env are refused from a job's agent unless its agent's may_submit lists exec"
        raise Forbidden(message)


def _asks_nothing_of_people(caller: Caller, terms: Terms, ancestors: tuple[int, ...]) -> None:
    """Source agent, its own job as parent, neither interactive nor critical."""
    wrong = None
    if terms.source != "agent":
        wrong = f"source {terms.source}"
    elif terms.interactive:
        wrong = "interactive"
    elif terms.tier.word == "critical":
        wrong = "critical"
    elif not ancestors or ancestors[-1] != caller.job:
        wrong = "another parent than its own job"
    if wrong is not None:
        message = f"{_who(caller)} may not submit with {wrong}"
        raise Forbidden(message)


def _who(caller: Caller) -> str:
    return f"the agent of job {caller.job}" if caller.job is not None else "an agent that belongs to no running job"
