"""What people and agents do to jobs that exist: hold, release, cancel, retry, update, pause, resize.

Each function decides one command on a Decision; a refusal is raised before or in the middle, and the
caller undoes the Decision. Ids are those of unfinished jobs in memory unless a `Record` is passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from opusd.core import budgets, cooling
from opusd.core.admission import EXEC, Facts, Ref, checked_needs, kept_labels, make_edges, refuse_cycle
from opusd.core.decision import PLACED, judged, placement
from opusd.core.errors import Conflict, Escalated, InvalidParams
from opusd.core.job import Edge, EdgeState, Ending, IfUnmet, Job, On, Run, Spec, Terms, Tier, default_title, intern
from opusd.core.lifecycle import ALIVE, FINAL, WAITING, Status, Step, advance
from opusd.core.limits import Agent
from opusd.core.pauses import Pauses
from opusd.core.retry import with_retries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.core.decision import Decision
    from opusd.core.limits import Limits
    from opusd.core.state import State


def hold(decision: Decision, job: Job, *, stop: bool, grace: int) -> Job:
    """Put aside; with `stop` a running attempt is ended and the job then held, at no cost."""
    if job.status is Status.HELD:
        return job
    if job.status in ALIVE:
        run = _run(job)
        if run.ending is Ending.HOLD:
            return _hasten(decision, job, grace)
        if job.status is Status.CANCELLING or not stop:
            message = f"job {job.id} is {job.status}: hold it with stop, or cancel it"
            raise Conflict(message, status=job.status)
        return _end(decision, job, Ending.HOLD, grace, None)
    return decision.put(job, decision.step(job, Step.HOLD, queued_at=None, due_at=None), "held")


def release(decision: Decision, job: Job) -> Job:
    """Set a held job free; a job that is under way or finished can't be, one that already waits is left as it is."""
    if job.status is Status.HELD:
        return decision.place(job, job, "released")
    if job.status in WAITING or job.status is Status.RETRYING:
        return job
    message = f"job {job.id} is {job.status}: only a held job can be released"
    raise Conflict(message, status=job.status)


def cancel(decision: Decision, job: Job, *, reason: str | None, grace: int, cascade: bool) -> Job:
    """Cancelled at once when nothing runs, else cancelling; with `cascade` its dependents and spawned jobs too."""
    family = family_of(decision.state, job.id) if cascade else []
    after = _cancel(decision, job, reason, grace)
    for number in family:
        relative = decision.state.jobs.get(number)
        if relative is not None:
            _cancel(decision, relative, reason or f"job {job.id} was cancelled", grace)
    return decision.state.jobs.get(after.id, after)


def family_of(state: State, number: int) -> list[int]:
    """The unfinished jobs that wait for this one or were spawned by it, in any number of steps."""
    found: dict[int, None] = {}
    todo = [number]
    while todo:
        current = todo.pop()
        for relative in (*state.dependents.get(current, ()), *state.descendants.get(current, ())):
            if relative not in found and relative != number:
                found[relative] = None
                todo.append(relative)
    return sorted(found)


def _cancel(decision: Decision, job: Job, reason: str | None, grace: int) -> Job:
    if job.status is Status.CANCELLED:
        return job
    refuse_escalated(job)
    if job.status in ALIVE:
        run = _run(job)
        if run.ending is Ending.CANCEL:
            return _hasten(decision, job, grace)
        return _end(decision, job, Ending.CANCEL, grace, reason)
    detail = {"reason": reason} if reason else None
    after = decision.put(
        job, decision.step(job, Step.CANCEL, completed_at=decision.now, run=None), "cancelled", detail=detail
    )
    decision.settle(after)
    return after


def _end(decision: Decision, job: Job, ending: Ending, grace: int, reason: str | None) -> Job:
    """A person wants the attempt ended: the intent and its deadline are on disk before the first signal."""
    run, kill_at = _run(job), decision.now + grace
    if run.kill_at is not None:
        kill_at = min(kill_at, run.kill_at)  # whoever asks again may shorten the grace, never extend it
    run = replace(run, ending=ending, kill_at=kill_at, ending_by=decision.actor, ending_reason=reason)
    status = job.status if job.status is Status.CANCELLING else advance(job.status, Step.STOP, job.id)
    detail: dict[str, Any] = {
        "for": ending.value,
        "grace_seconds": grace / 1e6,
        **({"reason": reason} if reason else {}),
    }
    return decision.put(job, replace(job, status=status, run=run), "cancelling", detail=detail)


def _hasten(decision: Decision, job: Job, grace: int) -> Job:
    run = _run(job)
    kill_at = decision.now + grace
    if run.kill_at is not None and run.kill_at <= kill_at:
        return job
    return decision.put(
        job, replace(job, run=replace(run, kill_at=kill_at)), "cancelling", detail={"grace_seconds": grace / 1e6}
    )


def answer(decision: Decision, job: Job, spec: Spec, question: int | str, text: str) -> Job:
    """A person answers: the job goes back to its place, and is critical until its next attempt starts."""
    asked = None if job.extra is None else job.extra.question
    if job.status is not Status.NEEDS_INPUT or asked is None:
        message = f"job {job.id} is {job.status}: it asks nothing"
        raise Conflict(message, status=job.status)
    if str(asked.id) != str(question):
        message = f"job {job.id} asks question {asked.id}, not {question}: {asked.text[:200]}"
        raise Conflict(message, question=asked.id)
    if asked.budget is not None and text.strip().lower() == budgets.STOP:
        detail = {"question": asked.id, "reason": f"stopped at its {asked.budget}"}
        after = decision.step(job.with_extra(question=None), Step.CANCEL, completed_at=decision.now)
        after = decision.put(job, after, "cancelled", detail=detail)
        decision.settle(after)
        return after
    after = decision.step(job, Step.QUEUE, queued_at=job.queued_at or decision.now)
    after = after.with_extra(question=None, answered=True)
    if asked.budget is not None:
        after = budgets.granted(after, asked.budget)
    told = replace(spec, answers=[*spec.answers, {"question": asked.text, "answer": text}])
    return decision.put(job, after, "answered", spec=told, detail={"question": asked.id})


def refuse_escalated(job: Job) -> None:
    """A link of a chain is neither retried nor cancelled: its successor is the job now."""
    if job.extra is not None and job.extra.escalated_to is not None:
        raise Escalated(job.id, job.extra.escalated_to)


def retry(decision: Decision, job: Job, *, fresh: bool, facts: Facts | None = None) -> Job:
    """A finished or backing-off job goes again; `job` may come from the registry.

    Its edges keep what was satisfied; the others are judged anew, by `facts` where the upstream is finished.
    """
    if job.status is Status.RETRYING:
        after = decision.step(job, Step.QUEUE, due_at=None, retries=0, losses=0)
        after = _anew(after.with_extra(limits=0, failures=0), fresh=fresh)
        return decision.put(
            job, replace(after, queued_at=job.queued_at or decision.now), "queued", detail={"fresh": fresh}
        )
    refuse_escalated(job)
    if job.status not in FINAL or job.status is Status.COMPLETED:
        if job.status in (Status.QUEUED, Status.BLOCKED, Status.SCHEDULED):
            return job
        message = f"job {job.id} is {job.status}: only failed, cancelled, expired and retrying jobs can be retried"
        raise Conflict(message, status=job.status)
    edges = _judged_anew(decision.state, job, facts or Facts())
    refuse_cycle(decision.state, job.id, edges)
    again = replace(
        job, edges=edges, completed_at=None, started_at=None, queued_at=None, retries=0, losses=0, run=None, due_at=None
    )
    again = _anew(again.with_extra(limits=0, failures=0, question=None), fresh=fresh)
    placed = decision.place(job, again, detail={"retry": True, "fresh": fresh})
    decision.reopen(placed)
    return placed


def _anew(job: Job, *, fresh: bool) -> Job:
    """A fresh start has neither the session nor the worktree of the attempts before; asked for twice, it is one."""
    pending = job.extra is not None and job.extra.fresh
    tree = job.next_tree if fresh and job.attempts and not pending else job.extra.tree if job.extra else ""
    return job.with_extra(fresh=fresh or pending, tree=tree)


def _judged_anew(state: State, job: Job, facts: Facts) -> tuple[Edge, ...]:
    """While a job is finished nobody judges its edges: its upstreams may have ended, or gone again, since then."""

    def anew(edge: Edge) -> Edge:
        if edge.state is EdgeState.SATISFIED:
            return edge
        if edge.upstream in state.jobs:
            return replace(edge, state=EdgeState.PENDING)
        return judged(edge, facts.finals[edge.upstream][0]) if edge.upstream in facts.finals else edge

    return tuple(map(anew, job.edges))


class Edit(Struct, frozen=True, kw_only=True):
    """job.update, read: what is UNSET stays as it is; a title or max_retries of None is as if never said."""

    title: str | UnsetType | None = UNSET
    labels: list[str] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    timeout: int | UnsetType | None = UNSET
    tier: Tier | UnsetType = UNSET
    boost: int | UnsetType = UNSET
    needs: dict[str, int] | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    command: list[str] | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    expires_in: int | UnsetType | None = UNSET
    max_retries: int | UnsetType | None = UNSET
    run_at: int | UnsetType | None = UNSET
    depends: tuple[tuple[Ref, On, IfUnmet], ...] | UnsetType = UNSET

    def given(self) -> set[str]:
        return {name for name in self.__struct_fields__ if getattr(self, name) is not UNSET}


_ALWAYS = {"title", "labels", "metadata"}
_RUNNING = {*_ALWAYS, "timeout"}
_PLACED = {"run_at", "depends"}


def update(decision: Decision, job: Job, spec: Spec, edit: Edit, facts: Facts, version: int | None) -> Job:
    """Change what the job's status allows; a stale `version` is Conflict. What says nothing new changes nothing."""
    if version is not None and version != job.version:
        message = f"job {job.id} has version {job.version}, not {version}: read it again"
        raise Conflict(message, version=job.version)
    given = edit.given()
    allowed = _ALWAYS if job.final else _RUNNING if job.status in ALIVE else set(edit.__struct_fields__)
    if job.status not in WAITING:
        allowed = allowed - _PLACED
    refused = sorted(given - allowed)
    if refused:
        message = f"job {job.id} is {job.status}: {', '.join(refused)} can't be changed any more"
        raise Conflict(message, status=job.status, fields=refused)
    after = _edited(decision.state, job, spec, edit, facts)
    changed = _edited_spec(job, after.terms.agent, spec, edit)
    if after == job and changed == spec:
        return job
    extra: dict[str, Any] = {"spec": changed if changed != spec else None, "detail": {"fields": sorted(given)}}
    if not given & _PLACED:
        return decision.put(job, after, "updated", **extra)
    moved = _move(decision, job, after, extra)
    return moved if edit.depends is UNSET else decision.cancel_unmet(moved)


def _edited(state: State, job: Job, spec: Spec, edit: Edit, facts: Facts) -> Job:
    after = replace(job, terms=_edited_terms(state, job, spec, edit))
    if edit.timeout is not UNSET and job.run is not None:
        jumped = state.timeline.skew - job.run.skew
        limit = None if edit.timeout is None else job.run.started_at + jumped + edit.timeout
        after = replace(after, run=replace(job.run, timeout_at=limit))
    if edit.run_at is not UNSET:
        after = replace(after, run_at=edit.run_at)
    if edit.depends is not UNSET:
        edges = make_edges(state, job.id, edit.depends, facts)
        refuse_cycle(state, job.id, edges)
        after = replace(after, edges=edges)
    return after


def _move(decision: Decision, job: Job, after: Job, extra: dict[str, Any]) -> Job:
    """run_at or depends_on changed: the job may belong elsewhere now."""
    if job.status is Status.HELD:
        return decision.put(job, after, "updated", **extra)
    where = placement(after.edges, after.run_at, decision.now)
    status = PLACED[where]
    if status is job.status:
        return decision.put(job, after, "updated", **extra)
    after = decision.step(after, where, queued_at=decision.now if status is Status.QUEUED else None)
    return decision.put(job, after, "updated", **extra)


def _edited_spec(job: Job, agent: str, spec: Spec, edit: Edit) -> Spec:
    """The spec as it is to be for this agent."""
    names = ("labels", "metadata", "prompt", "command")
    changed = replace(spec, **{name: value for name in names if (value := getattr(edit, name)) is not UNSET})
    if edit.given() & {"agent", "prompt", "command"}:
        changed = _runnable(job, agent, changed, edit)
    if isinstance(edit.title, UnsetType):
        return changed
    return replace(changed, title=edit.title or default_title(changed.prompt, changed.command, job.terms.type))


def _runnable(job: Job, agent: str, changed: Spec, edit: Edit) -> Spec:
    """The agent exec has a command, the others have a prompt; what the job had for an agent of the other kind goes."""
    field, message = None, ""
    if agent == EXEC and edit.prompt is not UNSET:
        field, message = "prompt", f"job {job.id} runs a command, not a prompt: name another agent with it"
    elif agent == EXEC and changed.command is None:
        field, message = "agent", f"job {job.id} has no command for the agent exec: give one with it"
    elif agent != EXEC and edit.command is not UNSET:
        field, message = "command", f"job {job.id} is for the agent {agent}: name exec with a command"
    elif job.terms.agent == EXEC != agent and changed.prompt is None:
        field, message = "agent", f"job {job.id} has no prompt for the agent {agent}: give one with it"
    if field is not None:
        raise InvalidParams(message, path=f"$.{field}")
    if (agent == EXEC) is (job.terms.agent == EXEC):
        return changed
    return replace(changed, prompt=None) if agent == EXEC else replace(changed, command=None)


def _edited_terms(state: State, job: Job, spec: Spec, edit: Edit) -> Terms:
    terms, limits = job.terms, state.limits
    agents = {terms.agent: Agent(terms.agent), **limits.agents}  # its own may have left the configuration
    if edit.agent is not UNSET:
        if edit.agent not in limits.agents:
            message = f"agent {edit.agent!r} is not configured; there are: {', '.join(sorted(limits.agents))}"
            raise InvalidParams(message, path="$.agent")
        terms = _of_agent(limits, terms, edit.agent)
    if terms.interactive and (edit.tier not in (UNSET, Tier.CRITICAL) or edit.boost not in (UNSET, 0)):
        message = f"job {job.id} is interactive: it is critical, without a boost, and stays so"
        raise InvalidParams(message, path="$.boost" if edit.tier in (UNSET, Tier.CRITICAL) else "$.priority")
    if edit.tier is not UNSET:
        if edit.tier is Tier.CRITICAL and terms.source != "user":
            message = "critical is for source user alone"
            raise InvalidParams(message, path="$.priority")
        terms = replace(terms, tier=edit.tier)
    if edit.boost is not UNSET:
        terms = replace(terms, boost=edit.boost)
    if terms.tier is Tier.CRITICAL:
        terms = replace(terms, boost=0)
    if edit.needs is not UNSET:
        terms = replace(terms, needs=checked_needs(limits, agents[terms.agent], edit.needs))
    if edit.timeout is not UNSET:
        terms = replace(terms, timeout=edit.timeout)
    if edit.expires_in is not UNSET:
        terms = replace(terms, expires_in=edit.expires_in)
    if edit.max_retries is not UNSET:
        retry, policy = with_retries(terms.policy or terms.retry, edit.max_retries)
        if policy is None or retry != job.terms.retry:  # the number that it has already says nothing new
            terms = replace(terms, retry=retry, policy=policy)
    labels = spec.labels if edit.labels is UNSET else edit.labels
    return intern(replace(terms, labels=kept_labels(agents[terms.agent], labels)))


def _of_agent(limits: Limits, terms: Terms, name: str) -> Terms:
    """The terms with another agent: what came from the old one's defaults comes from the new one's now."""
    old, new = limits.agents.get(terms.agent), limits.agents[name]
    own = {need: amount for need, amount in terms.needs if old is None or (need, amount) not in old.needs}
    changed: dict[str, Any] = {"agent": name, "route": None, "needs": checked_needs(limits, new, own)}
    if old is not None and (terms.policy or terms.retry) == old.retry:
        number = None if terms.policy is None else terms.retry.max_retries
        changed["retry"], changed["policy"] = with_retries(new.retry, number)
    if old is not None and terms.timeout == (old.timeout or limits.timeout):
        changed["timeout"] = new.timeout or limits.timeout
    return replace(terms, **changed)


# --- the queue as a whole ----------------------------------------------------------------------------


def pause(decision: Decision, name: str) -> None:
    """`*`, `agent:NAME` or `group:NAME`; kept across restarts."""
    pauses = decision.state.pauses
    if name not in pauses.names:
        _set_pauses(decision, {*pauses.names, name})
        decision.note("queue.paused", detail=_pause_detail(name))


def resume(decision: Decision, name: str) -> None:
    """End a pause; an agent's cool-down too."""
    if name.startswith("agent:"):
        cooling.ready(decision, name.removeprefix("agent:"))
    pauses = decision.state.pauses
    if name in pauses.names:
        _set_pauses(decision, pauses.names - {name})
        decision.note("queue.resumed", detail=_pause_detail(name))


def _set_pauses(decision: Decision, names: Iterable[str]) -> None:
    state, old = decision.state, decision.state.pauses.names

    def use(names: Iterable[str]) -> None:
        gone = state.pauses.names - set(names)
        state.pauses = Pauses(names)
        for name in gone:
            state.wake(name)

    use(names)
    decision.keep("paused", sorted(names), lambda: use(old))


def _pause_detail(name: str) -> dict[str, str]:
    kind, _, what = name.partition(":")
    return {kind: what} if what else {}


def _run(job: Job) -> Run:
    assert job.run is not None
    return job.run
