"""What the pool and agents hold: the configuration's word, and a person's."""

from msgspec.structs import replace

from opusd.core import sizes
from opusd.core.state import State
from tests.core.world import AGENTS, World, limits


def reloaded(world, **changed):
    """Another configuration is read, as the daemon does it."""
    rules = limits(**changed)
    world.state.relimit(rules)
    world.decide(sizes.forget)
    return rules


def test_a_size_of_the_configuration_that_changed_and_changed_back_wins_for_good():
    world = World(max_concurrent=4)
    world.resize(3)
    world.resize(7, "codex")
    reloaded(world, max_concurrent=2, agents={**AGENTS, "codex": replace(AGENTS["codex"], slots=2)})
    rules = reloaded(world, max_concurrent=4)
    assert (world.state.max_concurrent, world.state.slots["codex"]) == (4, 1)
    started = State(rules)
    sizes.restore(started, {name: value for name, value in world.settings.items() if value is not None})
    assert (started.max_concurrent, started.slots) == (world.state.max_concurrent, world.state.slots)


def test_a_size_that_still_holds_is_not_forgotten():
    world = World(max_concurrent=4)
    world.resize(3)
    reloaded(world, max_concurrent=4, max_queued=10)
    assert world.state.max_concurrent == 3
    assert world.settings["pool"] == {"value": 3, "configured": 4}


def test_a_resize_that_is_not_kept_gives_way_to_what_is_configured_by_then():
    world = World(max_concurrent=4, autocommit=False)
    world.resize(3)
    world.resize(7, "codex")
    agents = {name: agent for name, agent in AGENTS.items() if name != "codex"}
    world.state.relimit(limits(max_concurrent=2, agents=agents))
    world.fail()
    assert world.state.max_concurrent == 2
    assert set(world.state.slots) == set(agents)
