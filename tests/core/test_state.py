"""The cache of the registry: what a new configuration changes in it, and what a wrong change does not."""

import gc
import weakref

import pytest

from opusd.core import state as state_module
from opusd.core.job import Job, Terms, Tier
from opusd.core.lifecycle import Status
from opusd.core.limits import Agent, Quota
from opusd.core.order import Points
from opusd.core.state import State
from opusd.testing.shape import shape_of
from tests.core import oracle
from tests.core.world import AGENTS, HOUR, MINUTE, START, World, depends, limits


def test_a_new_configuration_reorders_and_keeps_the_sizes_that_people_set() -> None:
    world = World(max_concurrent=2)
    old = world.submit(agent="claude", tier=Tier.LOW)
    world.now += HOUR
    world.submit(agent="claude", tier=Tier.NORMAL)
    gone = world.submit(agent="codex")
    world.submit(agent="claude", tier=Tier.URGENT, depends=(depends(gone.id),))
    world.resize(1)
    world.resize(7, "claude")
    agents = {"claude": AGENTS["claude"], "exec": Agent("exec", slots=9)}
    new = limits(agents=agents, max_concurrent=2, points=Points(low=0, normal=10, urgent=20))
    world.state.relimit(new)
    state = world.state
    assert (state.max_concurrent, state.slots) == (1, {"claude": 7, "exec": 9})
    order = oracle.in_order(state, state.jobs, world.now)
    assert order[0] == old.id
    fresh = State(new)
    fresh.timeline = state.timeline
    fresh.load(state.jobs.values())
    assert shape_of(fresh) == {**shape_of(state), "pauses": set()}
    assert world.started() == [old.id]
    assert state.position(world[gone])[0] == 1


def test_jobs_that_are_told_apart_as_alike_make_the_same_state() -> None:
    world = World(max_concurrent=0)
    for number in range(60):
        group, expires_in = ("mission" if number % 5 == 0 else None), (HOUR if number % 7 == 0 else None)
        agent, tier = ("claude", "codex")[number % 2], (Tier.LOW, Tier.URGENT)[number % 3 == 0]
        world.submit(agent=agent, tier=tier, group=group, expires_in=expires_in)
    first = world.submit(key="a-key")
    world.submit(depends=(depends(first.id),))
    every = list(world.state.jobs.values())
    alike: dict[Terms, list[Job]] = {}
    for job in every:
        if job.status is Status.QUEUED and job.key is None:
            alike.setdefault(job.terms, []).append(job)
    told = [part for jobs in alike.values() for part in (jobs[:2], jobs[2:]) if part]
    state, whole = State(world.limits), State(world.limits)
    state.timeline = whole.timeline = world.state.timeline
    state.load([job for job in every if job.status is not Status.QUEUED or job.key is not None], told)
    whole.load(every)
    assert len(told) > 8
    assert shape_of(state) == shape_of(whole) == shape_of(world.state)


def test_a_size_in_the_configuration_that_changed_wins() -> None:
    world = World(max_concurrent=2)
    world.resize(1)
    world.resize(7, "codex")
    world.state.relimit(limits(max_concurrent=5, agents={**AGENTS, "codex": Agent("codex", slots=2)}))
    assert (world.state.max_concurrent, world.state.slots["codex"]) == (5, 2)


def test_positions_count_over_the_lane_and_over_all() -> None:
    world = World(max_concurrent=0)
    jobs = [world.submit(agent=agent) for agent in ("claude", "codex", "claude", "codex", "claude")]
    assert [world.state.position(job) for job in jobs] == [(1, 0), (1, 1), (2, 2), (2, 3), (3, 4)]


def test_the_smallest_free_slot_number_is_given_out() -> None:
    world = World(max_concurrent=3)
    jobs = [world.submit(command=["ls"]) for _ in range(4)]
    world.started()
    world.end(jobs[1])
    world.started()
    assert world[jobs[3]].run.slot == 2


def test_a_removal_of_what_is_not_in_line_is_an_error_and_not_silent() -> None:
    state = State(limits())
    job = Job(id=1, status=Status.QUEUED, terms=Terms(agent="claude"), created_at=START, queued_at=START)
    state.apply(None, job)
    state.apply(job, None)
    with pytest.raises(AssertionError, match="not what this change begins with"):
        state.apply(job, None)


def test_a_moment_that_was_another_ones_before_is_told_once() -> None:
    world = World()
    job = world.submit(run_at=world.now + MINUTE, expires_in=MINUTE)
    world.update(job, run_at=None)
    assert shape_of(world.state)["timers"] == [(world.now + MINUTE, job.id)]


def test_the_lanes_that_a_new_configuration_replaces_leave_no_cycle_for_a_collector_that_looks_at_them_no_more() -> (
    None
):
    world = World(max_concurrent=0)
    for agent in ("claude", "codex"):
        world.submit(agent=agent)
    world.tick()
    lanes = [weakref.ref(lane) for lane in world.state.lanes.values()]
    gc.disable()
    try:
        world.state.relimit(world.limits)
        assert [lane() for lane in lanes] == [None, None]
    finally:
        gc.enable()


def test_what_jobs_of_the_same_terms_want_is_looked_up_anew_with_a_new_configuration() -> None:
    world = World(max_concurrent=0)
    job = world.submit(agent="claude", group="small", labels=["a"])
    plain = world.state.signature(job)
    agents = {**AGENTS, "claude": Agent("claude", slots=0)}
    claimed = limits(agents=agents, groups={"small": Quota(max_running=1)})
    world.state.relimit(claimed)
    fresh = State(claimed)
    fresh.load(world.state.jobs.values())
    assert world.state.signature(job) == fresh.signature(job) != plain
    assert world.state.signature(job).quotas == ("group:small",)
    world.state.relimit(world.limits)
    assert world.state.signature(job) == plain


def test_more_terms_than_are_remembered_still_have_each_their_own_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_MOST_SIGNED", 3)
    world = World(max_concurrent=0)
    jobs = [world.submit(group=f"group {number % 7}", boost=number) for number in range(20)]
    assert [world.state.signature(job).group for job in jobs] == [job.terms.group for job in jobs]
    for job in jobs:
        world.cancel(job)
    assert not world.state.jobs
