"""A week of one house on a fake clock: programs that end in every way, workers, restarts, and a clock that people set.

Time jumps from one event to the next: what people and programs do, and the moment that the scheduler asked to be woken
at. A moment that it forgot to name is one at which nothing happens. All chance comes from the seed.
"""

from __future__ import annotations

import random
from contextlib import suppress
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from opusd.core import attempts
from opusd.core.access import Caller
from opusd.core.admission import Facts
from opusd.core.attempts import End
from opusd.core.errors import OpusError
from opusd.core.job import Ending, Outcome
from opusd.core.lifecycle import ALIVE, Status
from opusd.core.retry import FailureClass
from opusd.testing.shape import shape_of
from tests.core.world import HOUR, MINUTE, SECOND, World, submission
from tests.simulation.ledger import Ledger
from tests.simulation.rules import DAY, LIMITED, RULES, WEEK, Provider
from tests.simulation.starts import Starts, waits_for_a_person
from tests.simulation.workers import Crew

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.job import Change, Job
    from opusd.core.state import State

NATURES = {
    "good": 74, "clumsy": 10, "hopeless": 4, "forbidden": 1, "losing": 2, "slow": 3, "silent": 2, "curious": 5,
    "parent": 6, "shy": 1,
}  # fmt: skip
"""What the programs of a job are like, for all its attempts."""


class Registry(World):
    """A World whose facts are kept instead of gathered: thousands of submissions ask for them."""

    def __init__(self) -> None:
        self.kept = Facts()
        super().__init__(RULES)
        self.watchers.append(self._keep)

    def _keep(self, change: Change) -> None:
        job = change.after
        if job.final:
            self.kept.finals[job.id] = (job.status, job.ancestors)
        else:
            self.kept.finals.pop(job.id, None)
        if job.extra is not None and job.extra.escalated_to is not None:
            self.kept.links[job.id] = job.extra.escalated_to
        if change.before is None and job.key is not None and change.spec is not None:
            self.kept.keys[job.key] = (job.id, change.spec.digest)

    def facts(self) -> Facts:
        return self.kept


class Week:
    def __init__(self, seed: int, length: int = WEEK) -> None:
        self.chance = random.Random(seed)
        self.length = length
        self.steady = 0
        self.steps = 0
        self.world = Registry()
        self.ledger = Ledger(self.world, RULES, lambda: self.steady)
        self.starts = Starts(self.ledger)
        self.world.watchers[:0] = [self.ledger.watch, self.starts.watch]
        self.seen = self.ledger.seen
        lasting = self.chance.choice(("claude", "codex", "gemini"))
        self.providers = {name: Provider(self.chance, lasting=name == lasting) for name in LIMITED}
        self.natures: dict[int, str] = {}
        self.waits: dict[int, tuple[int, int, int]] = {}  # job -> (attempt, until when, how its attempt ends)
        self.children: dict[int, list[int]] = {}
        self.late: list[Callable[[], None]] = []  # what happened while no daemon ran
        self.down = False
        self.crew = Crew(self)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._wake_at: int | None = None

    # --- time -------------------------------------------------------------------------------------

    def after(self, delay: float, event: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._events, (self.steady + max(1, int(delay)), self._serial, event))

    def between(self, low: float, high: float) -> int:
        return int(self.chance.uniform(low, high))

    def run(self) -> None:
        """Until nothing is left to happen. What then is not over waits for a person."""
        self.tick()
        while self._events or not self.is_over():
            moments = [self._events[0][0]] if self._events else []
            if self._wake_at is not None and not self.down:
                moments.append(self.steady + self._wake_at - self.world.now)
            assert moments, f"nothing is to happen any more, and yet {self.left()}"
            self.steps += 1
            self.pass_time(max(0, min(moments) - self.steady))
            assert self.steady < self.length + 3 * WEEK, f"it does not drain: {self.left()}"
            if self._events and self._events[0][0] <= self.steady:
                heappop(self._events)[2]()
            if not self.down:
                self.tick()
        self.settle()

    def pass_time(self, passed: int) -> None:
        """Just before the next moment nothing could start: else time alone had let it, and nobody was woken."""
        for part in (passed - 1, 1) if passed > 1 else (passed,):
            self.steady += part
            self.world.now += part
            if part > 1 and not self.down:
                self.starts.rest(idle=self.crew.idle())

    def is_over(self) -> bool:
        return all(waits_for_a_person(self.ledger, job) for job in self.world.state.jobs.values())

    def left(self) -> list[str]:
        return [f"job {job.id} is {job.status}" for job in self.world.state.jobs.values()][:5]

    def settle(self) -> None:
        self.seen["left to a person"] += len(self.world.state.jobs)
        self.seen["jobs"] += len(self.world.known)
        assert sorted(self.world.known) == list(range(1, len(self.world.known) + 1)), "a job was lost"
        assert shape(self.world.state) == shape(self.world.rebuilt())

    def tick(self) -> None:
        plan = self.world.tick()
        assert plan.wake_at is None or plan.wake_at > self.world.now
        self._wake_at = plan.wake_at
        for job in plan.start:
            self.launch(job)
        for job in plan.stop:
            self.stop(job)
        for job in plan.lapsed:
            self.crew.lapse(job)
            self.report(job.id, job.attempts, End(failure=FailureClass.LOST, first=False))
        if plan.lapsed:
            self.tick()
        else:
            self.crew.claim()
            self.starts.rest(idle=self.crew.idle())

    # --- attempts that the daemon runs ----------------------------------------------------------------

    def launch(self, job: Job) -> None:
        """Decide how this attempt goes: a closed provider refuses it, else it is as its job is."""
        number, attempt, agent = job.id, job.attempts, job.terms.agent
        provider = self.providers.get(agent)
        window = provider.closed(self.steady) if provider else None
        if window is not None:
            wait = self.chance.choice((1, 5, 20, 50, 75)) * SECOND + self.between(0, SECOND)
            self.after(wait, lambda: self.refuse(number, attempt))
            return
        length = int(min(self.chance.expovariate(1 / (9 * MINUTE)), 3 * HOUR)) + SECOND
        closes = provider.closes(self.steady, self.steady + length) if provider else None
        if closes is not None and self.chance.random() < 0.8:
            self.after(closes.begin - self.steady + self.between(0, 30 * SECOND), lambda: self.refuse(number, attempt))
            return
        nature = self.natures.get(number)
        if nature is None:
            nature = self.natures[number] = self.chance.choices(list(NATURES), list(NATURES.values()))[0]
        self.go(job, nature, length)

    def go(self, job: Job, nature: str, length: int) -> None:
        number, attempt, pick = job.id, job.attempts, self.chance.random()
        failure: str | None = None
        match nature:
            case "clumsy":
                failure = self.chance.choice(("agent_error", "oom", "verify_failed", "spawn")) if pick < 0.6 else None
            case "hopeless":
                failure = self.chance.choice(("agent_error", "agent_error", "oom", "timeout"))
            case "forbidden":
                failure = self.chance.choice(("auth", "config"))
            case "losing":
                failure = "lost" if pick < 0.8 else None
            case "slow":
                length = 30 * HOUR if job.terms.timeout is not None else 4 * HOUR
            case "silent" if pick < 0.7:
                self.after(length, lambda: self.stall(number, attempt))
                return
            case "curious" if pick < 0.6:
                self.after(length, lambda: self.ask(number, attempt))
                return
            case "parent":
                self.after(length // 2, lambda: self.spawn(number, attempt))
                return
            case "shy" if pick < 0.8:
                self.after(
                    SECOND, lambda: self.finish(number, attempt, End(failure=FailureClass.SPAWN, never_ran=True))
                )
                return
        self.after(length, lambda: self.finish(number, attempt, self.end(failure)))

    def end(self, failure: str | None, **fields: Any) -> End:
        usage = {"input_tokens": self.between(1_000, 90_000), "output_tokens": 0}
        kind = None if failure is None else FailureClass(failure)
        return End(failure=kind, message=failure, chance=self.chance.random(), usage=usage, **fields)

    def refuse(self, number: int, attempt: int) -> None:
        """The provider says "not now", sometimes until when, which is not always true."""
        agent = self.world.known[number].terms.agent
        window = self.providers[agent].closed(self.steady)
        until = None
        if window is not None and window.names:
            right = window.end - self.steady + self.world.now + self.between(0, 20 * SECOND)
            until = self.chance.choices(
                (right, self.world.now + 5 * MINUTE, self.world.now - HOUR, self.world.now + 40 * DAY), (16, 2, 1, 1)
            )[0]
        self.finish(number, attempt, self.end("rate_limited", limited_until=until))

    def finish(self, number: int, attempt: int, end: End) -> None:
        """The program ended by itself; while no daemon runs its shim remembers."""
        if self.down:
            self.late.append(lambda: self.report(number, attempt, end))
        else:
            self.report(number, attempt, end)

    def report(self, number: int, attempt: int, end: End) -> None:
        world = self.world
        job = world.known[number]
        if job.run is None or job.run.attempt != attempt:
            return
        self.wake(number)
        self.ledger.report = end
        outcome, spec = world.outcomes.get(number, Outcome()), world.specs[number]
        world.decide(lambda decision: attempts.end(decision, world[number], attempt, end, outcome, spec), "scheduler")
        self.ledger.report = None
        self.crew.free(number)
        again = world.decide(lambda decision: attempts.end(decision, world[number], attempt, end, outcome, spec))
        assert again is world[number], "an end that is told twice counts twice"

    def stop(self, job: Job) -> None:
        """The daemon ends an attempt: some programs take their time, some had their result already."""
        number, attempt, run = job.id, job.attempts, job.run
        assert run is not None
        if run.worker is not None and run.ending is not Ending.TIMEOUT:
            return  # it hears of it at its next heartbeat
        first = self.chance.random() < 0.1
        failure = None if first else "agent_error"
        self.after(self.between(1, 10 * SECOND), lambda: self.finish(number, attempt, self.end(failure, first=first)))

    def stall(self, number: int, attempt: int) -> None:
        if (job := self.present(number, attempt)) is not None:
            self.stop(self.world.decide(lambda decision: attempts.stall(decision, job, RULES.grace)))

    def ask(self, number: int, attempt: int) -> None:
        if (job := self.present(number, attempt)) is None:
            return
        if self.chance.random() < 0.5:
            self.stop(self.world.decide(lambda decision: attempts.ask(decision, job, "which?", (), RULES.grace)))
        else:
            self.report(number, attempt, self.end(None, question=("which?", ("a", "b"))))

    def present(self, number: int, attempt: int) -> Job | None:
        """The job while this attempt of it runs and nobody ends it; what it says to no daemon is said to the next."""
        if self.down:
            self.late.append(lambda: self.finish(number, attempt, self.end("agent_error")))
            return None
        job = self.world.known[number]
        run = job.run
        good = run is not None and run.attempt == attempt and run.ending is None and job.status is Status.RUNNING
        return job if good else None

    # --- agents that wait for their own jobs ------------------------------------------------------------

    def spawn(self, number: int, attempt: int) -> None:
        job = self.present(number, attempt)
        if job is None:
            return
        caller = Caller(agent=True, job=number, attempt=attempt)
        made: list[int] = []
        for _ in range(self.chance.randint(1, 4)):
            agent = self.chance.choice((None, "codex", job.terms.agent))
            fields: dict[str, Any] = {"agent": agent, "group": job.terms.group, "boost": self.chance.choice((0, 10))}
            with suppress(OpusError):
                made += [one for one, _ in self.world.admit([submission("spawned", **fields)], caller=caller)]
        self.children[number] = made
        self.waits[number] = attempt, self.steady + 5 * HOUR, self.between(SECOND, 5 * MINUTE)
        self.starts.lent.add(number)
        self.world.state.lend(number)
        self.seen["lent"] += bool(made)
        self.look(number)

    def look(self, number: int) -> None:
        """What is waited for is over, or has taken too long: the agent goes on."""
        if number not in self.waits:
            return
        attempt, until, rest = self.waits[number]
        known = self.world.known
        done = all(known[self.ledger.last_link(one)].final for one in self.children[number])
        if self.down or not (done or self.steady >= until):
            self.after(2 * MINUTE, lambda: self.look(number))
            return
        self.wake(number)
        self.after(rest, lambda: self.finish(number, attempt, self.end(None)))

    def wake(self, number: int) -> None:
        self.waits.pop(number, None)
        self.starts.lent.discard(number)
        self.world.state.lent.discard(number)

    # --- what happens to the daemon and the clock ---------------------------------------------------------

    def crash(self) -> None:
        """kill -9, and a new daemon after a while; after a loss of power nothing of the attempts is left."""
        if self.down:
            return
        self.down = True
        power = self.chance.random() < 0.3
        self.after(self.between(SECOND, 20 * MINUTE if power else 3 * MINUTE), lambda: self.start(power=power))

    def start(self, *, power: bool) -> None:
        world = self.world
        before = shape(world.state)
        world.restart(seen=world.now)
        world.state.last_event = self.ledger.cursor
        if power:
            world.boot = f"boot-{self.steps}"
            world.offset += self.between(0, HOUR)
        else:
            assert shape(world.state) == before, "a restart finds another state"
        self.down = False
        self.ledger.up_since = self.steady
        self.starts.last = {}
        world.decide(lambda _: None)
        for number in sorted(self.waits):
            world.state.lend(number)
        late, self.late = self.late, []
        for event in late:
            event()
        if power:
            for number in [job.id for job in world.known.values() if job.status in ALIVE]:
                run = world.known[number].run
                if run is not None and run.worker is None:
                    self.report(number, run.attempt, End(failure=FailureClass.LOST, first=False))
        self.seen["power lost" if power else "killed"] += 1

    def jump(self) -> None:
        """Somebody sets the clock."""
        if not self.down:
            by = self.chance.choice((-5 * HOUR, -20 * MINUTE, -3 * SECOND, 2 * SECOND, 7 * MINUTE, 2 * HOUR, 4 * HOUR))
            self.world.jump(by)
            self.world.decide(lambda _: None)
            self.seen["clock set"] += 1


def shape(state: State) -> dict[str, object]:
    """What a restart must find again; when the registry was written last is no part of it."""
    return {**shape_of(state), "timeline": None}
