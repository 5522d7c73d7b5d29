"""Thousands of random steps: memory stays equal to a rebuild, and the contract's sections 3 and 4 hold."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from opusd.core import commands, dependencies, explain, leases, scheduler
from opusd.core.access import Caller
from opusd.core.errors import LeaseLost, OpusError
from opusd.core.job import EdgeState, Ending, IfUnmet, On, Source, Tier
from opusd.core.lifecycle import ALIVE, Status
from opusd.core.limits import Agent, Limits, Quota
from opusd.core.order import job_of
from opusd.core.retry import PRESETS
from opusd.testing.shape import shape_of
from tests.core import oracle
from tests.core.world import HOUR, MINUTE, SECOND, Shifts, World, depends, submission

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opusd.core.admission import Submission
    from opusd.core.decision import Decision
    from opusd.core.job import Change, Job

T = TypeVar("T")

RULES = Limits(
    agents={
        "exec": Agent("exec", slots=2, retry=PRESETS["none"]),
        "claude": Agent("claude", slots=2, retry=PRESETS["default"], may_submit=("claude",)),
        "codex": Agent("codex", slots=1, retry=PRESETS["fast"], needs=(("gpu", 1),)),
        "pull": Agent("pull", slots=0),
    },
    default_agent="claude",
    max_concurrent=3,
    max_queued=40,
    capacities={"gpu": 2, "disk": 3},
    groups={"small": Quota(max_running=1), "large": Quota(max_running=2, max_queued=6)},
    submitter=Quota(max_running=4, max_queued=30),
    sources={"automated": Quota(max_running=1, max_queued=4), "agent": Quota(max_running=1)},
    max_submissions_per_minute=3,
    hours={"agent:codex": Shifts(20 * MINUTE, HOUR), "group:free": Shifts(2 * HOUR, 3 * HOUR)},
)
ENDINGS = (None, None, None, "agent_error", "lost", "auth", "verify_failed")
JUMPS = (0, 1, SECOND, 20 * SECOND, 4 * MINUTE, 11 * MINUTE, HOUR, 5 * HOUR)


class Driver:
    """Takes a step when told to, chosen by `pick`, and judges the world after it."""

    def __init__(self, pick: Callable[[Sequence[Any]], Any]) -> None:
        self.pick = pick
        self.world = World(RULES, autocommit=False)
        self.world.watchers.append(self._judge_change)
        self.attempt: dict[int, int] = {}
        self.on_disk_attempt: dict[int, int] = {}
        self.names = 0
        self.tokens: list[tuple[int, bytes]] = []
        self.restarted = 0
        self.first: tuple[int, int] | None = None
        self.holder: int | None = None

    # --- steps ------------------------------------------------------------------------------------

    def submit(self) -> None:
        self._try(lambda: self.world.admit([self._submission([])]))

    def submit_batch(self) -> None:
        keys = [f"b{self.names}-{index}" for index in range(self.pick((2, 3, 5)))]
        self.names += 1
        self._try(lambda: self.world.admit([self._submission(keys, key) for key in keys]))

    def submit_key_again(self) -> None:
        key = self.pick(("same", "other"))
        self._try(lambda: self.world.admit([submission("again", key=key, digest=self.pick((b"a", b"a", b"b")))]))

    def spawn(self) -> None:
        """A job's agent submits."""
        running = [job for job in self.world.state.running.values() if job.terms.agent == "claude"]
        if running:
            job = self.pick(running)
            caller = Caller(agent=True, job=job.id, attempt=job.attempts)
            jobs = [submission("spawned", group=self.pick((None, "large"))) for _ in range(self.pick((1, 1, 2, 4)))]
            self._try(lambda: self.world.admit(jobs, caller=caller))

    def _submission(self, batch: list[str], key: str | None = None) -> Submission:
        pick = self.pick
        agent = pick((None, "claude", "codex", "exec", "pull"))
        refs: list[int | str] = [*batch, *list(self.world.known)[-8:]]
        edges = [
            depends(
                pick(refs), pick(("success", "success", "failure", "any")), pick((None, None, "block", "cancel", "run"))
            )
            for _ in range(pick((0, 0, 1, 1, 2, 3)) if refs else 0)
        ]
        interactive = pick((False,) * 5 + (True,))
        return submission(
            command=["true"] if agent == "exec" else None,
            agent=agent,
            tier=pick(tuple(Tier)),
            boost=pick((0, 0, -49, 7, 49)),
            source=Source.USER if interactive else pick((Source.USER, Source.USER, Source.AUTOMATED)),
            group=pick((None, None, "small", "large", "free")),
            interactive=interactive,
            needs=pick(({}, {}, {"gpu": 1}, {"gpu": 2}, {"disk": 2, "gpu": 1}, {"repo": 1}, {"disk": 1})),
            timeout=pick((None, None, 30 * SECOND)),
            expires_in=pick((None, None, HOUR)),
            max_retries=pick((None, None, 2)),
            run_at=pick((None, None, None, self.world.now + 90 * SECOND)),
            held=pick((False,) * 5 + (True,)),
            parent=pick((None, None, *list(self.world.known)[-5:])),
            key=key,
            depends=tuple(edges),
        )

    def tick(self) -> None:
        world = self.world
        world.now += self.pick(JUMPS)
        before = dict(world.known)
        due = {job.id for job in before.values() if (at := world.state.due(job)) is not None and at <= world.now}
        busy = world.state.pool_busy()
        plan = world.tick()
        self._judge_order(before, world.open[-1].changes)
        assert plan.wake_at is None or plan.wake_at > world.now
        for number in due:
            job = world.known[number]
            moment = world.state.due(job)
            assert job.final or moment is None or moment > world.now, "what was due was not done"
        for job in plan.stop:
            assert job.run is not None
            assert job.run.ending is Ending.TIMEOUT
        if any(job.run and not job.run.over for job in plan.start):
            assert world.state.pool_busy() <= world.state.max_concurrent
        else:
            assert world.state.pool_busy() <= max(busy, world.state.max_concurrent)
        self._judge_limits(plan.start)
        self._judge_rest()

    def jump(self) -> None:
        """Somebody sets the clock: as is seen at the next decision, since when who is first moves with it."""
        state, before = self.world.state, self.world.state.timeline.skew
        self.world.jump(self.pick((-5 * HOUR, -MINUTE, SECOND // 2, MINUTE, 72 * HOUR)))
        self.world.decide(lambda _: None)
        if self.first is not None:
            self.first = (self.first[0], self.first[1] + state.timeline.skew - before)

    def end(self) -> None:
        number = self._running()
        if number is not None:
            failure = self.pick(ENDINGS)
            self.world.state.lent.discard(number)
            self.world.end(number, failure, first=self.pick((True, False)), never_ran=self.pick((False,) * 4 + (True,)))

    def end_twice(self) -> None:
        number = self._running()
        if number is not None:
            job = self.world.known[number]
            assert self.world.end(job, attempt=job.attempts - 1) is job
            self.world.open.pop()

    def claim(self) -> None:
        """A worker takes what it wants: the first in order that a search through all finds."""
        world, tier = self.world, self.pick((Tier.LOW, Tier.LOW, Tier.URGENT))
        group = self.pick((None, None, "large"))
        wanted = leases.Wanted(group=group, min_tier=tier)
        key = scheduler.reservation(world.state, world.now)
        unfinished = {job.id: job for job in world.known.values() if not job.final}
        expected = oracle.next_claim(
            world.state, unfinished, world.now, None if key is None else job_of(key),
            lambda job: job.terms.tier >= tier and group in (None, job.terms.group),
        )  # fmt: skip
        claimed = world.decide(lambda decision: leases.claim(decision, "w", wanted, 1, MINUTE, world.mint))
        assert [job.id for job in claimed] == ([] if expected is None else [expected])
        self.tokens += [(job.id, job.run.token_hash) for job in claimed if job.run is not None]
        self._judge_limits(claimed)

    def report(self) -> None:
        """A worker comes with a token, which may be an old one: then it changes nothing."""
        world, state = self.world, self.world.state
        if not self.tokens:
            return
        number, token = self.pick(self.tokens[-6:])
        job = state.jobs.get(number)
        run = None if job is None else job.run
        good = run is not None and run.token_hash == token and (run.lease_until or 0) > world.now
        before = dict(world.known)
        try:
            held = leases.holder(state, number, token, world.now)
        except LeaseLost:
            assert not good
            assert world.known == before
            return
        assert good
        if self.pick((False, True)):
            renewed = world.decide(lambda decision: leases.renew(decision, held, None))
            assert renewed.run is not None
            assert renewed.run.ending is not None or renewed.run.lease_until == world.now + MINUTE
        else:
            world.end(held, self.pick(ENDINGS))

    def lend(self) -> None:
        number = self._running()
        if number is not None:
            state = self.world.state
            if number in state.lent:
                state.lent.discard(number)
            else:
                state.lend(number)

    def cancel(self) -> None:
        number = self._any()
        if number is not None:
            self._try(lambda: self.world.cancel(number, cascade=self.pick((False, True))))

    def hold(self) -> None:
        number = self._any()
        if number is not None:
            self._try(lambda: self.world.hold(number, stop=self.pick((False, True))))

    def release(self) -> None:
        number = self._any()
        if number is not None:
            self._try(lambda: self.world.release(number))

    def retry(self) -> None:
        number = self._any()
        if number is not None:
            self._try(lambda: self.world.retry(number))

    def update(self) -> None:
        number = self._any()
        if number is not None:
            fields = self.pick(
                (
                    {"title": "other"},
                    {"tier": self.pick(tuple(Tier))},
                    {"boost": self.pick((-20, 20))},
                    {"needs": self.pick(({}, {"gpu": 2}, {"disk": 1}, {"repo": 1}))},
                    {"agent": self.pick(("claude", "codex"))},
                    {"timeout": self.pick((None, SECOND, HOUR))},
                    {"run_at": self.pick((None, self.world.now + MINUTE))},
                    {"expires_in": self.pick((None, MINUTE))},
                    {"max_retries": self.pick((0, 5))},
                    {"depends": tuple(depends(self.pick(list(self.world.known))) for _ in range(self.pick((0, 1, 2))))},
                )
            )
            version = self.pick((None, self.world.known[number].version, 1))
            self._try(lambda: self.world.update(number, version=version, **fields))

    def refuse_half_way(self) -> None:
        """A decision that has changed a lot and is refused in the end leaves no trace."""
        numbers = [self._any() for _ in range(3)]

        def verb(decision: Decision) -> None:
            for number in numbers:
                job = decision.state.jobs.get(number or 0)
                if job is not None:
                    _cancel_all(decision, job)
            scheduler.tick(decision, self.world.mint)
            raise OpusError("refused")

        with pytest.raises(OpusError, match="refused"):
            self.world.decide(verb)
        state = self.world.state
        self.first = state.first
        self.holder = None if state.reserved is None else state.reserved[0] & ((1 << 40) - 1)

    def pause(self) -> None:
        self.world.pause(self._pausable())

    def resume(self) -> None:
        self.world.resume(self.pick(sorted(self.world.state.pauses.names) or ["*"]))

    def _pausable(self) -> str:
        return self.pick(("*", "agent:claude", "agent:codex", "group:small", "group:free"))

    def resize(self) -> None:
        agent = self.pick((None, "claude", "codex"))
        self.world.resize(self.pick((1, 2, 3, 5) if agent is None else (0, 1, 2, 3)), agent)

    def commit(self) -> None:
        self.world.commit()
        self.on_disk_attempt = dict(self.attempt)

    def fail_to_commit(self) -> None:
        self.world.fail()
        self.world.decide(lambda _: None)  # a jump that was undone is seen again
        self.attempt = dict(self.on_disk_attempt)
        self.world.state.lent &= self.world.state.running.keys()

    def restart(self) -> None:
        self.world.restart()
        self.world.decide(lambda _: None)
        self.first = self.holder = None
        self.restarted = self.world.now
        self.attempt = dict(self.on_disk_attempt)

    def _any(self) -> int | None:
        known = self.world.known
        return self.pick(list(known)[-25:]) if known else None

    def _running(self) -> int | None:
        running = self.world.running()
        return self.pick(running) if running else None

    def _try(self, verb: Callable[[], object]) -> None:
        """Refusals are fine, and change nothing: `judge` sees to that."""
        before = dict(self.world.known)
        try:
            verb()
        except OpusError:
            assert self.world.known == before

    # --- judging ----------------------------------------------------------------------------------

    def judge(self) -> None:
        """What is true after every step."""
        world, state = self.world, self.world.state
        fresh = world.rebuilt()
        assert shape_of(state) == shape_of(fresh)
        unfinished = {job.id: job for job in world.known.values() if not job.final}
        assert state.jobs == unfinished
        self._judge_lanes()
        for job in unfinished.values():
            if job.status is not Status.RUNNING:
                assert explain.reason(state, job, world.now)
            self._judge_edges(job)
        assert {job.id for job in unfinished.values() if job.run} == set(state.running)

    def _judge_lanes(self) -> None:
        world, state = self.world, self.world.state
        expected = oracle.in_order(state, state.jobs, world.now)
        for agent in RULES.agents:
            ids = [number for number in expected if state.jobs[number].terms.agent == agent]
            lane = state.lane(agent)
            assert [key & ((1 << 40) - 1) for key in lane.order] == ids
            for place, number in enumerate(ids, 1):
                assert state.position(state.jobs[number]) == (place, expected.index(number))

    def _judge_edges(self, job: Job) -> None:
        known = self.world.known
        for edge in job.edges:
            if edge.state is EdgeState.PENDING:
                assert not known[edge.upstream].final, f"job {job.id} waits for {edge.upstream}, which ended"
            elif edge.state is EdgeState.UNMET:
                assert known[edge.upstream].final
                assert edge.if_unmet is not IfUnmet.RUN
        unsatisfied = any(edge.state is not EdgeState.SATISFIED for edge in job.edges)
        assert not unsatisfied or job.status in (Status.BLOCKED, Status.HELD)
        assert job.status is not Status.BLOCKED or unsatisfied
        assert not _waits_for_itself(job, self.world.state.jobs)

    def _judge_change(self, change: Change) -> None:
        before, after = change.before, change.after
        if before is None:
            assert after.id not in self.world.known
            assert after.version == 1
            self._judge_submitted(after)
        else:
            assert self.world.known[after.id] == before
            assert after.version == before.version + 1
            assert after.status == before.status or after.status.value in oracle.CONTRACT[before.status.value]
        if after.status is Status.RUNNING and (before is None or before.status is not Status.RUNNING):
            assert before is not None
            assert before.run is None, "two attempts at once"
            assert after.run is not None
            assert after.run.attempt == self.attempt.get(after.id, 0) + 1
            self.attempt[after.id] = after.run.attempt
            assert all(edge.state is EdgeState.SATISFIED for edge in after.edges), "started before its dependencies"
            assert after.run_at is None or after.run_at <= self.world.now
        self._judge_satisfied(before, after)

    def _judge_submitted(self, job: Job) -> None:
        """Nothing comes in past the limits on what is queued, and on what a tree's agents submit in a minute."""
        others = list(self.world.known.values())
        if job.status is Status.QUEUED and not job.terms.interactive:
            for quota, holds in oracle.quotas(RULES, job):
                queued = [other for other in others if other.status is Status.QUEUED and holds(other)]
                assert len(queued) < quota.max_queued
        if job.terms.submitted_by.startswith("job:"):
            since = job.created_at - MINUTE
            by_agents = [
                other
                for other in others
                if other.root == job.root and other.terms.submitted_by.startswith("job:") and other.created_at > since
            ]
            assert self.restarted > since or len(by_agents) < (RULES.max_submissions_per_minute or 0)

    def _judge_satisfied(self, before: Job | None, after: Job) -> None:
        old = {(e.upstream, e.on, e.if_unmet): e.state for e in before.edges} if before else {}
        for edge in after.edges:
            was = old.get((edge.upstream, edge.on, edge.if_unmet))
            if edge.state is EdgeState.SATISFIED and was is not EdgeState.SATISFIED:
                ended = self.world.known[edge.upstream]
                assert ended.final
                met = {
                    On.SUCCESS: ended.status is Status.COMPLETED,
                    On.FAILURE: ended.status is Status.FAILED,
                    On.ANY: True,
                }[edge.on]
                assert met or edge.if_unmet is IfUnmet.RUN
            assert was is not EdgeState.SATISFIED or edge.state is EdgeState.SATISFIED, "satisfied stays so"

    def _judge_order(self, before: dict[int, Job], changes: list[Change]) -> None:
        """The starts of a tick are those that a search through all queued jobs finds, one after the other."""
        world, jobs = self.world, dict(before)
        starts = [c for c in changes if c.event is not None and c.event.kind == "job.started"]
        for change in changes:
            if change not in starts:
                jobs[change.after.id] = change.after
        for change in [*starts, None]:
            unfinished = {number: job for number, job in jobs.items() if not job.final}
            self._reserve(unfinished)
            expected = oracle.next_start(world.state, unfinished, world.now, self.holder)
            if change is None:
                assert expected is None, f"job {expected} could start and was left"
            else:
                assert change.after.run is not None
                assert expected == (change.after.id, change.after.run.over)
                jobs[change.after.id] = change.after

    def _reserve(self, jobs: dict[int, Job]) -> None:
        """Who was first in order for ten minutes, of those that nobody paused, reserves until it starts."""
        state, now = self.world.state, self.world.now
        if self.holder is not None and not oracle.stands_in_line(state, jobs.get(self.holder), now):
            self.holder = None
        if self.holder is None:
            line = [job for job in oracle.in_order(state, jobs, now) if oracle.stands_in_line(state, jobs[job], now)]
            if not line or self.first is None or self.first[0] != line[0]:
                self.first = (line[0], now) if line else None
            if self.first is not None and now - self.first[1] >= RULES.reserve_after:
                self.holder = self.first[0]

    def _judge_limits(self, started: list[Job]) -> None:
        state = self.world.state
        running = [job for job in state.jobs.values() if job.status in ALIVE]
        for job in started:
            terms = job.terms
            assert job.run is not None
            for name in (f"agent:{terms.agent}", f"group:{terms.group}"):
                assert terms.interactive or name not in RULES.hours or RULES.hours[name].at(self.world.now)[0]
            if job.run.worker is not None:
                assert not RULES.agents[terms.agent].slots
            elif not job.run.over:
                mine = [
                    o for o in running if o.terms.agent == terms.agent and not o.run.over and o.id not in state.lent
                ]
                assert len(mine) <= state.slots[terms.agent]
            else:
                assert terms.interactive
                assert sum(1 for o in running if o.run.over and o.id not in state.lent) <= RULES.interactive_slots
            for quota, holds in oracle.quotas(state.limits, job):
                mine = [other for other in running if holds(other) and other.id not in state.lent]
                assert len(mine) <= quota.max_running
        for name in ("gpu", "disk", "repo"):
            held = sum(dict(job.terms.needs).get(name, 0) for job in running)
            assert held <= RULES.capacity(name)
        slots = [job.run.slot for job in running if job.run.worker is None]
        assert len(set(slots)) == len(slots)

    def _judge_rest(self) -> None:
        """After a tick every job that is still queued is kept by something that can be named."""
        state = self.world.state
        for job in state.jobs.values():
            if job.status is Status.QUEUED:
                assert explain.constraints(state, job, self.world.now), f"job {job.id} should have started"


def _cancel_all(decision: Decision, job: Job) -> None:
    with suppress(OpusError):
        commands.cancel(decision, job, reason=None, grace=0, cascade=True)


def _waits_for_itself(job: Job, jobs: dict[int, Job]) -> bool:
    todo, seen = [job.id], set()
    while todo:
        current = jobs.get(todo.pop())
        for edge in current.edges if current is not None else ():
            if edge.state is EdgeState.SATISFIED:
                continue
            if edge.upstream == job.id:
                return True
            if edge.upstream not in seen:
                seen.add(edge.upstream)
                todo.append(edge.upstream)
    return False


STEPS = {
    "submit": 8, "submit_batch": 2, "spawn": 4, "submit_key_again": 1, "tick": 9, "end": 6, "end_twice": 1, "jump": 1,
    "lend": 2, "cancel": 2, "hold": 2, "release": 2, "retry": 2, "update": 4, "refuse_half_way": 1, "pause": 1,
    "claim": 4, "report": 4, "resume": 2, "resize": 1, "commit": 4, "fail_to_commit": 1, "restart": 1,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_hundreds_of_random_steps_keep_every_promise(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(dependencies, "_FEW", 1)  # what is kept for crowds of dependents serves few as well
    chance = random.Random(seed)
    driver = Driver(chance.choice)
    names, weights = list(STEPS), list(STEPS.values())
    taken = []
    for _ in range(400):
        name = chance.choices(names, weights)[0]
        taken.append(name)
        getattr(driver, name)()
        driver.judge()


class Machine(RuleBasedStateMachine):
    """The same steps, chosen and shrunk by Hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(lambda choices: choices[0])

    def _step(self, name: str, data: st.DataObject) -> None:
        self.driver.pick = lambda choices: data.draw(st.sampled_from(list(choices)))
        getattr(self.driver, name)()

    @invariant()
    def every_promise_holds(self) -> None:
        self.driver.judge()


def _add_rule(name: str) -> None:
    def step(self: Machine, data: st.DataObject) -> None:
        self._step(name, data)

    step.__name__ = name
    setattr(Machine, name, rule(data=st.data())(step))


for _name in STEPS:
    _add_rule(_name)

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[phase for phase in Phase if phase is not Phase.shrink],  # minutes; take it out to see a smaller example
)
