import asyncio
import time

import pytest

from opusd.clock import Clock, SystemClock
from opusd.testing.clock import START, FakeClock


@pytest.fixture(params=[SystemClock, FakeClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    return request.param()


async def test_a_wait_ends_when_the_event_is_set_however_long_the_bound(clock: Clock) -> None:
    event = asyncio.Event()
    for bound in (3600, None):
        event.clear()
        asyncio.get_running_loop().call_soon(event.set)
        async with asyncio.timeout(5):
            assert await clock.wait(event, bound)


async def test_a_wait_for_nothing_returns_at_once(clock: Clock) -> None:
    event = asyncio.Event()
    assert not await clock.wait(event, 0)
    assert not await clock.wait(event, -1)
    event.set()
    assert await clock.wait(event, -1)
    assert await clock.wait(event, 3600)


async def test_a_cancelled_wait_is_cancelled_and_leaves_no_task(clock: Clock) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 3600))
    asyncio.get_running_loop().call_soon(waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_system_clock_waits_as_long_as_it_says_and_tells_the_wall_time() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    assert not await clock.wait(asyncio.Event(), 0.05)
    assert 0.049 <= clock.monotonic() - before < 5
    assert abs(clock.now() - time.time() * 1e6) < 5e6  # noqa: TID251 - what is compared


async def test_the_fake_clock_wakes_whose_time_has_come_in_order_and_nobody_else() -> None:
    clock = FakeClock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        assert not await clock.wait(asyncio.Event(), seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sleep(seconds)) for seconds in (30, 10, 20, 60)]
        await clock.until_waiting(4)
        clock.advance(9.999999)
        assert clock.waiting == 4
        clock.advance(20.000001)
        await asyncio.wait(tasks[:3])
        assert woken == [10, 20, 30]
        assert clock.waiting == 1
        clock.advance(30)
    assert clock.now() == START + 60_000_000
    assert clock.monotonic() == 60


async def test_setting_the_wall_clock_moves_no_interval() -> None:
    clock = FakeClock()
    clock.set_wall(START - 3_600_000_000)
    assert clock.now() == START - 3_600_000_000
    assert clock.monotonic() == 0
    clock.advance(1)
    assert clock.now() == START - 3_599_000_000
