"""queue.capacity is open where a submission would start at once, and nowhere else."""

import asyncio
from types import SimpleNamespace

import pytest

from opusd.api import params as p
from opusd.core import breather, cooling
from opusd.core.times import SECOND, from_rfc3339
from opusd.dispatcher.capacity import CapacityVerbs
from opusd.dispatcher.tally import Tally
from opusd.store.base import Snapshot
from tests.core.world import PERSON


@pytest.fixture
async def capacity(engines):
    await engines.begin()
    verbs = CapacityVerbs(engines.desk, Tally(Snapshot([], 0, 0, {})))

    async def ask(agent="exec"):
        session = SimpleNamespace(caller=PERSON, turn=asyncio.Lock())
        found = await verbs.queue_capacity(session, p.QueueCapacity(agent=agent))
        start = None if found.estimated_start is None else from_rfc3339(found.estimated_start)
        return found.state, None if start is None else (start - engines.clock.now()) / SECOND

    return ask


async def test_it_is_open_while_a_slot_is_free(capacity):
    assert await capacity() == ("open", 0)


async def test_it_is_busy_while_an_agent_cools_down_and_tells_until_when(engines, capacity):
    await engines.writer.fact(lambda decision: cooling.limited(decision, "exec", decision.now + 60 * SECOND, 0.0))
    state, wait = await capacity()
    assert state == "busy"
    assert wait == pytest.approx(60, abs=10)


async def test_it_is_busy_while_nothing_can_be_launched(engines, capacity):
    breather.take(engines.state, engines.clock.now(), "no space left")
    assert await capacity() == ("busy", 1)
    engines.clock.advance(1)
    assert (await capacity())[0] == "open"


async def test_it_is_busy_while_the_machine_has_too_little_room(engines, capacity):
    engines.state.short = ("less than 512 MiB are free",)
    assert (await capacity())[0] == "busy"
