"""What room the machine has: read while jobs wait, not too often, and dispatch goes on when there is enough again."""

import asyncio

import pytest

from opusd.core.room import Room
from tests.dispatcher.bench import BOUND, EngineBench, turns


@pytest.fixture
async def bench(store):
    bench = EngineBench(store, min_free_memory=1000)
    yield bench
    await bench.stop()


async def pass_time(bench, seconds):
    async with asyncio.timeout(BOUND):
        await bench.clock.until_waiting()
    bench.clock.advance(seconds)
    await turns(20)


async def test_it_is_read_only_while_jobs_wait_and_at_most_once_a_second(bench):
    bench.room = Room(free_memory=10)
    await bench.begin()
    await turns(20)
    assert bench.looks == 0
    for _ in range(5):
        await bench.submit()
    await turns(20)
    assert bench.looks == 1
    assert bench.pool.launches == []


async def test_it_is_read_again_by_itself_and_dispatch_goes_on(bench):
    bench.room = Room(free_memory=10)
    await bench.begin()
    await bench.submit()
    await turns(20)
    await pass_time(bench, 1.9)
    assert bench.looks == 1
    await pass_time(bench, 0.2)
    assert bench.looks == 2
    bench.room = Room(free_memory=1000)
    await pass_time(bench, 2.1)
    await bench.launched(1)
    assert [kind for kind in await bench.kinds() if kind.startswith("machine.")] == ["machine.short", "machine.ready"]


async def test_a_machine_that_can_not_be_read_holds_nothing_back(bench):
    await bench.begin()
    await bench.submit()
    await bench.launched(1)
