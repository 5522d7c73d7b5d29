"""The pause after a launch that failed for the machine: longer while it does not help, forgotten once it did."""

from itertools import pairwise

import pytest

from opusd.core import breather, explain, leases
from opusd.core.breather import FIRST
from opusd.core.explain import Constraint
from opusd.core.leases import Wanted
from opusd.core.state import State
from opusd.core.times import SECOND
from tests.core.world import HOUR, World, limits

WHY = "cannot start: its folder /runs/1/1 can't be made: No space left on device (ENOSPC)"


@pytest.fixture
def state():
    return State(limits())


def test_it_is_a_second_and_twice_as_long_each_time_that_it_did_not_help_up_to_a_bound(state):
    now, moments = 0, [0]
    for _ in range(8):
        breather.take(state, now, WHY)
        now = breather.until(state, now)
        moments.append(now)
        now += 1000  # until that is known to have failed too
    lengths = [round((after - before) / SECOND) for before, after in pairwise(moments)]
    assert lengths == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_crowd_that_fails_in_one_moment_makes_it_no_longer(state):
    for moment in range(20):
        breather.take(state, moment, WHY)
    assert breather.until(state, 20) == FIRST


def test_it_is_short_again_once_launches_went_well_for_a_while(state):
    breather.take(state, 0, WHY)
    breather.take(state, FIRST, WHY)
    assert state.breather.length == 2 * FIRST
    late = state.breather.until + 11 * SECOND
    assert breather.trouble(state, late) == []
    breather.take(state, late, WHY)
    assert (state.breather.length, breather.until(state, late)) == (FIRST, late + FIRST)
    assert breather.until(state, late + FIRST) is None


def test_it_is_short_again_after_something_was_launched_and_ran(state):
    breather.take(state, 0, WHY)
    breather.ran(state, FIRST - 1)  # begun before it
    breather.take(state, FIRST, WHY)
    assert state.breather.length == 2 * FIRST
    later = state.breather.until
    breather.ran(state, later)
    assert breather.trouble(state, later) == []
    breather.take(state, later, WHY)
    assert state.breather.length == FIRST


@pytest.mark.parametrize(
    ("lived", "next_length"), [(0, 2 * FIRST), (SECOND - 1, 2 * FIRST), (SECOND, FIRST), (2 * SECOND, FIRST)]
)
def test_what_was_launched_is_a_sign_once_it_has_lived_for_a_second(lived, next_length):
    world = World()
    world.submit()
    breather.take(world.state, world.now, WHY)
    assert len(world.tick(FIRST).start) == 1
    later = world.now + lived
    assert (breather.trouble(world.state, later) == []) == (next_length == FIRST)
    breather.take(world.state, later, WHY)
    assert world.state.breather.length == next_length


def test_what_was_launched_before_the_pause_or_was_claimed_is_no_sign():
    world = World()
    world.submit()
    world.tick()
    breather.take(world.state, world.now, WHY)
    world.submit(agent="pull")
    world.now += FIRST
    [claimed] = world.decide(lambda decision: leases.claim(decision, "w1", Wanted(), 1, HOUR, world.mint))
    assert claimed.run is not None
    breather.take(world.state, world.now + SECOND, WHY)
    assert world.state.breather.length == 2 * FIRST


def test_it_is_trouble_in_the_very_moment_of_a_try_too(state):
    breather.take(state, 0, WHY)
    assert breather.trouble(state, FIRST) == [f"nothing can be started now: {WHY}"]


def test_a_queued_job_says_what_the_machine_said_and_when_it_is_tried_again():
    world = World()
    pushed, pulled = world.submit(), world.submit(agent="pull")
    breather.take(world.state, world.now, WHY)
    told = Constraint("machine", f"nothing can be started now: {WHY}", world.now + FIRST)
    assert explain.constraints(world.state, world[pushed], world.now)[0] == told
    assert "machine" not in [one.kind for one in explain.constraints(world.state, world[pulled], world.now)]
    assert world.tick(0).wake_at == world.now + FIRST
    world.tick(FIRST)
    assert world[pushed].attempts == 1


def test_it_lasts_as_long_however_the_clock_jumps():
    world = World()
    breather.take(world.state, world.now, WHY)
    world.jump(HOUR)
    world.decide(lambda _: None)
    assert world.state.breather.until == world.now + FIRST
