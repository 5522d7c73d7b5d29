"""Which running attempts have been silent for too long, and when the next one would be."""

from msgspec.structs import replace

from opusd.core.job import Ending
from opusd.dispatcher.liveness import Liveness
from tests.core.world import AGENTS, World

STALLING = {**AGENTS, "claude": replace(AGENTS["claude"], stall_after=10_000_000)}


def running(count=1):
    world = World(agents=STALLING)
    jobs = [world.submit(agent="claude") for _ in range(count)]
    world.tick()
    return world, [world[job] for job in jobs]


def test_silence_as_long_as_the_agent_allows_is_a_stall():
    world, [job] = running()
    liveness = Liveness(world.state)
    liveness.heard((job.id, 1), 100.0)
    assert liveness.look(109.0) == ([], 1.0)
    assert liveness.look(110.0) == ([job], None)


def test_a_sign_of_life_begins_the_count_anew():
    world, [job] = running()
    liveness = Liveness(world.state)
    liveness.heard((job.id, 1), 100.0)
    liveness.heard((job.id, 1), 105.0)
    assert liveness.look(110.0) == ([], 5.0)


def test_who_waits_for_its_own_tree_is_not_silent():
    world, [job] = running()
    liveness = Liveness(world.state)
    liveness.heard((job.id, 1), 100.0)
    world.state.lent.add(job.id)
    assert liveness.look(200.0) == ([], 10.0)
    world.state.lent.clear()
    assert liveness.look(205.0) == ([], 5.0)


def test_an_attempt_that_is_being_ended_or_is_over_is_not_looked_at():
    world, [one, other] = running(2)
    liveness = Liveness(world.state)
    for job in (one, other):
        liveness.heard((job.id, 1), 100.0)
    world.cancel(one)
    assert world[one].run.ending is Ending.CANCEL
    world.end(other)
    assert liveness.look(500.0) == ([], None)
