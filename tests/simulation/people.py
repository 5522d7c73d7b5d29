"""What people, triggers and operators do in a week: they submit, change their minds, answer or do not, and pause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opusd.core.errors import OpusError
from opusd.core.job import Source, Tier
from opusd.core.lifecycle import Status
from tests.core.world import HOUR, MINUTE, SECOND, depends, submission
from tests.simulation.rules import DAY, RULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.admission import Submission
    from opusd.core.job import Change
    from tests.simulation.week import Week

AGENTS = ("claude", "claude", "codex", "aider", "opencode", "gemini", "exec", "exec", "pull", None)
PAUSES = ("*", "agent:claude", "agent:codex", "group:small", "group:night")


class People:
    """`often`: what each of them does, and how long they let pass between, on average."""

    def __init__(self, week: Week) -> None:
        self.week, self.world, self.chance = week, week.world, week.chance
        self.keys = 0
        self.world.watchers.append(self.questions)
        often: dict[Callable[[], None], int] = {
            self.submit: 9 * MINUTE, self.message: 50 * MINUTE, self.schedule: HOUR, self.plan: 3 * HOUR,
            self.crowd: 20 * HOUR, self.again: 6 * HOUR,
            self.cancel: 80 * MINUTE, self.hold: 2 * HOUR, self.release: 80 * MINUTE, self.retry: 2 * HOUR,
            self.update: HOUR, self.pause: 9 * HOUR, self.resize: 15 * HOUR, self.reopen: 30 * HOUR,
            week.jump: 7 * HOUR, week.crash: 11 * HOUR,
        }  # fmt: skip
        for act, mean in often.items():
            self.every(mean, act)
        week.after(week.length, self.leave)

    def every(self, mean: int, act: Callable[[], None]) -> None:
        def now() -> None:
            if self.week.steady < self.week.length:
                if not self.week.down:
                    act()
                self.every(mean, act)

        self.week.after(self.chance.expovariate(1 / mean), now)

    def leave(self) -> None:
        """Input stops; what was paused goes on."""
        if self.week.down:
            self.week.after(MINUTE, self.leave)
            return
        for name in sorted(self.week.starts.paused):
            self.resume(name)
        self.size(RULES.max_concurrent)

    def attempt(self, verb: Callable[[], object]) -> None:
        """A refusal changes nothing."""
        before = len(self.world.known), self.week.ledger.cursor
        try:
            verb()
        except OpusError as error:
            assert (len(self.world.known), self.week.ledger.cursor) == before
            self.week.seen[f"refused: {error.name}"] += 1

    # --- jobs -------------------------------------------------------------------------------------

    def submission(self, **fixed: Any) -> Submission:
        pick = self.chance.choice
        agent = pick(AGENTS)
        recent = list(self.world.known)[-30:]
        edges = [
            depends(
                pick(recent),
                pick(("success", "success", "failure", "any")),
                pick((None, None, "block", "cancel", "run")),
            )
            for _ in range(pick((0, 0, 0, 0, 1, 2)) if recent else 0)
        ]
        fields: dict[str, Any] = {
            "tier": pick((Tier.LOW, Tier.LOW, *(Tier.NORMAL,) * 5, Tier.URGENT, Tier.CRITICAL)),
            "boost": pick((0, 0, 0, -49, 16, 49)),
            "group": pick((None, None, None, "small", "large", "night", "free")),
            "needs": pick(({}, {}, {}, {"gpu": 1}, {"gpu": 2}, {"disk": 2}, {"repo": 1}, {"disk": 1, "gpu": 1})),
            "timeout": pick((None, 20 * MINUTE, 2 * HOUR)),
            "expires_in": pick((None,) * 5 + (HOUR, 6 * HOUR)),
            "max_retries": pick((None, None, None, 0, 2)),
            "run_at": pick((None,) * 5 + (self.world.now + self.week.between(SECOND, 10 * HOUR),)),
            "held": self.chance.random() < 0.03,
            "depends": tuple(edges),
            "labels": pick(([], ["for:ana"])),
            "payload": {"n": self.chance.random()},
            "metadata": {"m": self.chance.random()},
            "worktree": pick((None, None, True)),
            "verify": pick((None, None, ["make", "test"])),
            **fixed,
        }
        agent = fields.pop("agent", agent)
        return submission(command=["true"] if agent == "exec" else None, agent=agent, **fields)

    def submit(self) -> None:
        self.attempt(lambda: self.world.admit([self.submission()]))

    def message(self) -> None:
        """A human is waiting."""
        agent = self.chance.choice(("claude", "codex", "gemini"))
        fixed: dict[str, Any] = {
            "agent": agent, "interactive": True, "depends": (), "held": False, "run_at": None, "needs": {},
        }  # fmt: skip
        self.attempt(lambda: self.world.admit([self.submission(**fixed)]))

    def schedule(self) -> None:
        tier = self.chance.choice((Tier.LOW, Tier.NORMAL))
        self.attempt(lambda: self.world.admit([self.submission(source=Source.AUTOMATED, tier=tier)]))

    def plan(self) -> None:
        """A batch whose jobs wait for each other."""
        keys = [f"plan-{self.keys}-{index}" for index in range(self.chance.randint(2, 6))]
        self.keys += 1
        jobs = [
            self.submission(key=key, depends=tuple(depends(one) for one in keys[:index][-2:]))
            for index, key in enumerate(keys)
        ]
        self.chance.shuffle(jobs)
        self.attempt(lambda: self.world.admit(jobs))

    def crowd(self) -> None:
        """Many alike at once: they wait for half a day and more."""
        agent = self.chance.choice(("claude", "codex", "exec"))
        fixed: dict[str, Any] = {"agent": agent, "tier": Tier.LOW, "depends": (), "expires_in": None, "boost": -49}
        group = self.chance.choice((None, "large"))
        jobs = [self.submission(group=group, **fixed) for _ in range(self.chance.randint(40, 80))]
        self.attempt(lambda: self.world.admit(jobs))

    def again(self) -> None:
        """A key that is known is the job that has it."""
        known = [job for job in list(self.world.known.values())[-40:] if job.key is not None]
        if known:
            job = self.chance.choice(known)
            found = self.world.admit([submission("other text", key=job.key)])
            assert found == [(job.id, False)]
            self.week.seen["key known"] += 1

    # --- second thoughts ----------------------------------------------------------------------------

    def some(self, *statuses: Status) -> int | None:
        found = [job.id for job in self.world.known.values() if job.status in statuses and not job.escalated]
        return self.chance.choice(found) if found else None

    def cancel(self) -> None:
        number = self.some(Status.QUEUED, Status.RUNNING, Status.BLOCKED, Status.RETRYING, Status.CANCELLING)
        if number is not None:
            self.attempt(lambda: self.ended(self.world.cancel(number, cascade=self.chance.random() < 0.2).id))

    def hold(self) -> None:
        number = self.some(Status.QUEUED, Status.RUNNING, Status.BLOCKED, Status.RETRYING, Status.SCHEDULED)
        if number is not None:
            self.attempt(lambda: self.ended(self.world.hold(number, stop=True).id))

    def ended(self, number: int) -> None:
        """Whatever runs of those that a person ends is told so."""
        for job in [*self.world.state.running.values()]:
            if job.status is Status.CANCELLING and job.run is not None:
                self.week.stop(job)
        self.week.seen[f"by a person: {self.world.known[number].status}"] += 1

    def release(self) -> None:
        number = self.some(Status.HELD)
        if number is not None:
            self.attempt(lambda: self.world.release(number))

    def retry(self) -> None:
        number = self.some(Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.RETRYING)
        if number is not None:
            self.week.ledger.person = True
            self.attempt(lambda: self.world.retry(number))
            self.week.ledger.person = False

    def update(self) -> None:
        number = self.some(Status.QUEUED, Status.BLOCKED, Status.HELD, Status.SCHEDULED, Status.RETRYING)
        if number is None:
            return
        pick = self.chance.choice
        fields: dict[str, Any] = pick((
            {"tier": pick(tuple(Tier))}, {"boost": pick((-49, 0, 49))}, {"needs": pick(({}, {"gpu": 1}, {"disk": 3}))},
            {"agent": pick(("claude", "codex", "gemini"))}, {"timeout": pick((None, HOUR))},
            {"expires_in": pick((None, HOUR, DAY))}, {"max_retries": pick((0, 3))},
        ))  # fmt: skip
        self.attempt(lambda: self.world.update(number, **fields))

    def questions(self, change: Change) -> None:
        """Most questions are answered within hours, some never. And some clocks are set just when a retry waits."""
        job = change.after
        if job.status is Status.RETRYING and self.chance.random() < 0.05:
            self.week.after(self.week.between(0, 20 * SECOND), self.week.jump)
        if job.status is not Status.NEEDS_INPUT or job.extra is None or job.extra.question is None:
            return
        if self.chance.random() < 0.2 or (change.before is not None and change.before.status is Status.NEEDS_INPUT):
            return
        number, question = job.id, job.extra.question.id
        text = self.chance.choice(("continue", "continue", "stop"))
        self.week.after(self.chance.expovariate(1 / (2 * HOUR)), lambda: self.answer(number, question, text))

    def answer(self, number: int, question: int, text: str) -> None:
        if self.week.down:
            self.week.after(MINUTE, lambda: self.answer(number, question, text))
        else:
            self.attempt(lambda: self.world.answer(number, question, text))

    # --- operators ----------------------------------------------------------------------------------

    def pause(self) -> None:
        name = self.chance.choice(PAUSES)
        self.world.pause(name)
        self.week.starts.paused.add(name)
        self.week.after(self.week.between(MINUTE, 2 * HOUR), lambda: self.resume(name))

    def resume(self, name: str) -> None:
        if self.week.down:
            self.week.after(MINUTE, lambda: self.resume(name))
            return
        self.world.resume(name)
        self.week.starts.paused.discard(name)
        self.week.starts.closed.pop(name.removeprefix("agent:"), None)

    def reopen(self) -> None:
        """A person knows better than a cool-down."""
        closed = sorted(self.week.starts.closed)
        if closed:
            self.resume(f"agent:{self.chance.choice(closed)}")

    def resize(self) -> None:
        self.size(self.chance.choice((1, 3, 5, 6)))
        self.week.after(self.week.between(MINUTE, 5 * HOUR), lambda: self.size(RULES.max_concurrent))

    def size(self, to: int) -> None:
        if self.week.down:
            self.week.after(MINUTE, lambda: self.size(to))
            return
        self.world.resize(to)
        self.week.starts.pool = to
