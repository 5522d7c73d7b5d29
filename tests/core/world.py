"""A core with a disk: decisions are applied at once and written later, or lost. Its only clock is `now`."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from opusd.api.types import KindWord
from opusd.core import admission, attempts, budgets, commands, cooling, scheduler, sizes, timekeeping
from opusd.core.access import Caller
from opusd.core.admission import Facts, Submission
from opusd.core.attempts import End
from opusd.core.commands import Edit
from opusd.core.decision import Decision
from opusd.core.job import IfUnmet, Job, On, Outcome, Spec
from opusd.core.limits import Agent, Limits
from opusd.core.pauses import Pauses
from opusd.core.retry import PRESETS, FailureClass
from opusd.core.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opusd.core.job import Change
    from opusd.core.scheduler import Plan

T = TypeVar("T")
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
START = 1_750_000_000 * SECOND
PERSON = Caller(uid=1000)
KINDS = frozenset(get_args(KindWord))

AGENTS = {
    "exec": Agent("exec", slots=3, retry=PRESETS["none"], may_submit=("exec",)),
    "claude": Agent("claude", slots=2, may_submit=("claude",)),
    "codex": Agent("codex", slots=1, retry=PRESETS["none"], may_submit=("codex", "exec")),
    "pull": Agent("pull", slots=0),
}


class Shifts(msgspec.Struct, frozen=True):
    """Hours that are open for the first part of each period, counted from 1970."""

    open: int
    period: int

    def __str__(self) -> str:
        return f"{self.open // SECOND} s of {self.period // SECOND} s"

    def at(self, now: int) -> tuple[bool, int]:
        begin = now - now % self.period
        is_open = now - begin < self.open
        return is_open, begin + (self.open if is_open else self.period)


def limits(**changed: Any) -> Limits:
    return Limits(**{"agents": AGENTS, "default_agent": "claude", **changed})


def depends(ref: int | str, on: str = "success", if_unmet: str | None = None) -> tuple[int | str, On, IfUnmet]:
    """As job.submit reads it: if_unmet is block for success, cancel for failure."""
    default = {"success": "block", "failure": "cancel", "any": "block"}[on]
    return ref, On(on), IfUnmet(if_unmet or default)


def submission(prompt: str | None = "do it", *, command: list[str] | None = None, **fields: Any) -> Submission:
    labels = fields.pop("labels", [])
    digest = fields.pop("digest", b"")
    extra = {name: fields.pop(name) for name in ("env", "payload", "metadata", "cwd") if name in fields}
    prompt = None if command else prompt
    spec = Spec(title=prompt or "job", prompt=prompt, command=command, labels=labels, digest=digest, **extra)
    return Submission(spec=spec, **fields)


class World:
    on_success = (On.SUCCESS, IfUnmet.BLOCK)
    """`known` is every job as memory's decisions left it, finished ones too; `disk` is what was committed of it."""

    def __init__(self, rules: Limits | None = None, *, autocommit: bool = True, **changed: Any) -> None:
        self.limits = rules or limits(**changed)
        self.state = State(self.limits)
        self.now = START
        self.offset = START  # the wall's clock less the monotonic one
        self.boot = "boot-1"
        self.autocommit = autocommit
        self.disk: dict[int, Job] = {}
        self.settings: dict[str, Any] = {}
        self.known: dict[int, Job] = {}
        self.specs: dict[int, Spec] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.open: list[Decision] = []
        self.watchers: list[Callable[[Change], None]] = []
        self._minted = count(1)
        self._look()
        self.commit()

    # --- deciding ---------------------------------------------------------------------------------

    def decide(self, verb: Callable[[Decision], T], actor: str = "user:1000") -> T:
        """What the dispatcher does: a refusal undoes the whole decision, else it joins the open batch."""
        self._look()
        decision = Decision(self.state, self.now, actor)
        try:
            value = verb(decision)
        except Exception:
            decision.undo()
            raise
        self._join(decision)
        return value

    def _look(self) -> None:
        """Whether the clock has jumped; here a decision of its own, so that `known` knows before the next."""
        decision = Decision(self.state, self.now, "scheduler")
        timekeeping.look(decision, self.boot, self.offset)
        if decision.settings:
            self._join(decision)

    def _join(self, decision: Decision) -> None:
        kinds = {event.kind for event in decision.events} | {
            change.event.kind for change in decision.changes if change.event
        }
        assert kinds <= KINDS
        for change in decision.changes:
            for watch in self.watchers:
                watch(change)
            self.known[change.after.id] = change.after
            if change.spec is not None:
                self.specs[change.after.id] = change.spec
            if change.outcome is not None:
                self.outcomes[change.after.id] = change.outcome
        self.open.append(decision)
        if self.autocommit:
            self.commit()

    def commit(self) -> None:
        for decision in self.open:
            self.disk.update({change.after.id: change.after for change in decision.changes})
            self.settings.update(decision.settings)
        self.open = []

    def fail(self) -> None:
        """A commit that fails: what is open is undone, the last first."""
        for decision in reversed(self.open):
            decision.undo()
        self.open = []
        self.known = dict(self.disk)

    def restart(self, *, seen: int = 0) -> None:
        """A new process: what was not on disk is lost, the rest is loaded. `seen`: when that was written last."""
        self.open = []
        self.known = dict(self.disk)
        self.state = self.rebuilt(seen)
        self.state.last_job = max(self.disk, default=0)

    def rebuilt(self, seen: int = 0) -> State:
        """What a start would make of `known`."""
        settings = {
            **self.settings,
            **{name: value for decision in self.open for name, value in decision.settings.items()},
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        state = State(self.limits)
        state.load(job for job in self.known.values() if not job.final)
        state.cooling = cooling.restore(settings)
        state.days = budgets.restore(settings)
        state.pauses = Pauses(settings.get("paused", ()))
        state.timeline = timekeeping.restore(settings, seen)
        sizes.restore(state, settings)
        return state

    def facts(self) -> Facts:
        """What the registry says; here of everything."""
        finals = {job.id: (job.status, job.ancestors) for job in self.known.values() if job.final}
        keys = {job.key: (job.id, self.specs[job.id].digest) for job in self.known.values() if job.key is not None}
        links = {job.id: job.extra.escalated_to for job in self.known.values() if job.escalated}
        return Facts(finals=finals, links=links, keys=keys)

    def jump(self, by: int) -> None:
        """The wall's clock is set, forth or back, and no time passes."""
        self.now += by
        self.offset += by

    # --- verbs ------------------------------------------------------------------------------------

    def submit(self, prompt: str | None = "do it", *, caller: Caller = PERSON, **fields: Any) -> Job:
        return self.submit_batch([submission(prompt, **fields)], caller=caller)[0]

    def submit_batch(self, submissions: Sequence[Submission], *, caller: Caller = PERSON) -> list[Job]:
        return [self.known[number] for number, _ in self.admit(submissions, caller=caller)]

    def admit(self, submissions: Sequence[Submission], *, caller: Caller = PERSON) -> list[tuple[int, bool]]:
        found = self.decide(
            lambda decision: admission.submit(decision, submissions, self.facts(), caller), caller.actor
        )
        return [(job if isinstance(job, int) else job.id, created) for job, created in found]

    def tick(self, later: int = 0) -> Plan:
        self.now += later
        return self.decide(lambda decision: scheduler.tick(decision, self.mint), "scheduler")

    def mint(self) -> tuple[str, bytes]:
        number = next(self._minted)
        return f"attempt{number}", number.to_bytes(32, "big")

    def end(self, job: Job | int, failure: str | None = None, *, attempt: int | None = None, **fields: Any) -> Job:
        now = self[job]
        ended = End(failure=None if failure is None else FailureClass(failure), **fields)
        number = now.attempts if attempt is None else attempt
        outcome = self.outcomes.get(now.id, Outcome())
        spec = self.specs[now.id]
        return self.decide(
            lambda decision: attempts.end(decision, self[job], number, ended, outcome, spec), "scheduler"
        )

    def hold(self, job: Job | int, *, stop: bool = False, grace: int = 10 * SECOND) -> Job:
        return self.decide(lambda decision: commands.hold(decision, self[job], stop=stop, grace=grace))

    def release(self, job: Job | int) -> Job:
        return self.decide(lambda decision: commands.release(decision, self[job]))

    def cancel(
        self, job: Job | int, *, cascade: bool = False, grace: int = 10 * SECOND, reason: str | None = None
    ) -> Job:
        return self.decide(
            lambda decision: commands.cancel(decision, self[job], reason=reason, grace=grace, cascade=cascade)
        )

    def retry(self, job: Job | int) -> Job:
        return self.decide(lambda decision: commands.retry(decision, self[job], fresh=False, facts=self.facts()))

    def answer(self, job: Job | int, question: int, text: str) -> Job:
        now = self[job]
        spec = self.specs[now.id]
        return self.decide(lambda decision: commands.answer(decision, self[job], spec, question, text))

    def update(self, job: Job | int, *, version: int | None = None, **fields: Any) -> Job:
        now = self[job]
        spec = self.specs[now.id]
        edit = Edit(**fields)
        return self.decide(lambda decision: commands.update(decision, self[job], spec, edit, self.facts(), version))

    def pause(self, name: str) -> None:
        self.decide(lambda decision: commands.pause(decision, name))

    def resume(self, name: str) -> None:
        self.decide(lambda decision: commands.resume(decision, name))

    def resize(self, to: int, agent: str | None = None) -> None:
        self.decide(lambda decision: sizes.resize(decision, to, agent))

    # --- looking ----------------------------------------------------------------------------------

    def __getitem__(self, job: Job | int) -> Job:
        """The present record, finished or not."""
        return self.known[job if isinstance(job, int) else job.id]

    def started(self, later: int = 0) -> list[int]:
        """The ids that a tick starts, in order."""
        return [job.id for job in self.tick(later).start]

    def running(self) -> list[int]:
        return sorted(self.state.running)
