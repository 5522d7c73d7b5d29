"""What the pool and agents hold: the configuration's word, and a person's."""

import pytest
from msgspec.structs import asdict, replace

from opusd.core import sizes
from opusd.core.errors import InvalidParams
from opusd.core.limits import Agent
from opusd.core.sizes import Size
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


BOXED = {**AGENTS, "boxed": Agent("boxed", slots=0, starts=False)}


@pytest.mark.parametrize("slots", [0, 3])
def test_an_agent_of_which_nothing_can_be_started_is_given_no_slots(slots):
    world = World(agents=BOXED)
    with pytest.raises(InvalidParams, match="workers claim the jobs of agent boxed, and it has no argv") as refused:
        world.resize(slots, "boxed")
    assert refused.value.data["path"] == "$.agent"
    assert world.state.slots["boxed"] == 0
    assert "slots:boxed" not in world.settings


def test_slots_that_such_an_agent_was_given_once_do_not_hold_and_are_forgotten():
    kept = {"slots:boxed": asdict(Size(3, 0)), "slots:codex": asdict(Size(7, 1))}
    world = World(agents=BOXED)
    sizes.restore(world.state, kept)
    assert (world.state.slots["boxed"], world.state.slots["codex"]) == (0, 7)
    world.decide(sizes.forget)
    assert world.settings == world.settings | {"slots:boxed": None}
    assert list(world.state.sized) == ["slots:codex"]


def test_an_agent_that_loses_its_argv_loses_the_slots_that_it_was_given():
    started = {**AGENTS, "boxed": Agent("boxed", slots=0)}
    world = World(agents=started)
    world.resize(2, "boxed")
    assert world.state.slots["boxed"] == 2
    reloaded(world, agents=BOXED)
    assert world.state.slots["boxed"] == 0
    reloaded(world, agents=started)
    assert world.state.slots["boxed"] == 0
