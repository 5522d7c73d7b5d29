"""Hours of agents and groups: outside them their jobs wait and say so, and humans go first all the same."""

from opusd.core import explain, scheduler
from opusd.core.explain import Constraint
from tests.core.world import HOUR, MINUTE, START, Shifts, World, limits

DAY = 24 * HOUR
HALF = Shifts(12 * HOUR, DAY)
MORNING = START - START % DAY + DAY
"""When it opens."""


def shut(**hours: Shifts) -> World:
    """At the moment in the evening when HALF shuts; a__b stands for a:b."""
    world = World(hours={name.replace("__", ":"): found for name, found in hours.items()})
    world.now = MORNING + 12 * HOUR
    return world


def test_jobs_of_an_agent_wait_for_its_hours_and_say_until_when() -> None:
    world = shut(agent__claude=HALF)
    job, other = world.submit(agent="claude"), world.submit(agent="codex")
    plan = world.tick()
    assert [one.id for one in plan.start] == [other.id]
    assert plan.wake_at == MORNING + DAY
    words = "agent claude runs 43200 s of 86400 s"
    assert explain.constraints(world.state, world[job], world.now) == [Constraint("window", words, MORNING + DAY)]
    assert explain.reason(world.state, world[job], world.now) == words
    assert world.started(12 * HOUR) == [job.id]


def test_what_runs_when_the_hours_end_goes_on() -> None:
    world = shut(agent__claude=HALF)
    world.now = MORNING
    job = world.submit(agent="claude")
    assert world.started() == [job.id]
    assert world.tick(12 * HOUR).stop == []
    assert world.running() == [job.id]


def test_a_group_has_hours_of_its_own_and_those_of_others_go_before_it() -> None:
    world = shut(group__night=HALF)
    job, other = world.submit(group="night"), world.submit(group="day")
    assert world.started() == [other.id]
    assert explain.reason(world.state, world[job], world.now) == "group night runs 43200 s of 86400 s"
    assert world.started(12 * HOUR - 1) == []
    assert world.started(1) == [job.id]


def test_a_humans_message_starts_at_any_hour_in_the_pool_or_above_it() -> None:
    world = shut(agent__codex=HALF, group__night=HALF)
    world.submit(agent="codex")
    first = world.submit(agent="codex", interactive=True)
    assert explain.constraints(world.state, world[first], world.now) == []
    assert world.started() == [first.id]
    assert not world[first].run.over  # type: ignore[union-attr]
    second = world.submit(agent="codex", interactive=True, group="night")
    assert world.started() == [second.id]
    assert world[second].run.over  # type: ignore[union-attr]


def test_a_job_outside_its_hours_reserves_nothing() -> None:
    world = World(hours={"agent:codex": HALF, "group:night": HALF}, capacities={"gpu": 2})
    world.now = MORNING + 12 * HOUR
    blocker = world.submit(command=["ls"], needs={"gpu": 1})
    world.started()
    world.submit(agent="codex", needs={"gpu": 2})
    world.submit(command=["ls"], needs={"gpu": 2}, group="night")
    world.tick()
    world.now += 11 * MINUTE
    small = world.submit(command=["ls"], needs={"gpu": 1})
    assert world.started() == [small.id]
    assert world.running() == [blocker.id, small.id]


def test_those_who_claim_are_told_by_the_same_functions() -> None:
    world = shut(agent__claude=HALF, group__night=HALF)
    state = world.state
    assert not scheduler.is_open(state, "claude", world.now)
    assert scheduler.is_open(state, "claude", world.now, interactive=True)
    assert scheduler.is_open(state, "codex", world.now)
    night, message = world.submit(group="night"), world.submit(group="night", interactive=True)
    assert scheduler.lacking(state, state.signature(night)) == "group:night"
    assert scheduler.lacking(state, state.signature(message)) is None
    assert scheduler.is_open(state, "claude", MORNING)


def test_hours_that_are_read_again_hold_at_once() -> None:
    world = shut(agent__claude=HALF)
    job = world.submit(agent="claude")
    assert world.started() == []
    world.state.relimit(limits())
    assert world.started() == [job.id]
    assert world.tick().wake_at is None
    world.submit(agent="claude")
    world.state.relimit(limits(hours={"agent:claude": HALF}))
    assert world.started() == []


def test_a_clock_that_is_set_back_opens_again() -> None:
    world = shut(agent__claude=HALF)
    job = world.submit(agent="claude")
    assert world.started() == []
    world.now -= HOUR
    assert world.started() == [job.id]
