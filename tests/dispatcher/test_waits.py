"""Calls that wait: they end when what they wait for is on disk, when their time is over, or when it can't be."""

import asyncio

import pytest

from opusd.api import params as p
from opusd.core.access import Caller
from opusd.core.errors import Conflict, NotFound, StorageUnavailable
from opusd.core.lifecycle import Status
from opusd.dispatcher.waits import Waits
from opusd.store.base import CommitFailed
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, cancelling, turns


class Session:
    def __init__(self, caller=PERSON):
        self.caller = caller
        self.turn = asyncio.Lock()


@pytest.fixture
async def waits(engines):
    waits = Waits()
    waits.attach(engines.desk)
    engines.watchers.append(lambda changes, _: waits.released(changes))
    await engines.begin()
    return waits


@pytest.fixture
def ask(waits):
    """ask(caller, **params): a job.wait under way, and past its first look."""
    asked = []

    async def begin(caller=PERSON, **params):
        task = asyncio.create_task(waits.job_wait(Session(caller), p.JobWait(**params)))
        asked.append(task)
        await turns(10)
        return task

    yield begin
    for task in asked:
        task.cancel()


async def bounded(awaitable):
    async with asyncio.timeout(BOUND):
        return await awaitable


async def two_running(engines):
    for number in (1, 2):
        await engines.submit(agent="exec", command=["true"])
        await engines.launched(number)


async def test_a_wait_ends_when_the_end_is_on_disk_and_not_before(engines, ask):
    await two_running(engines)
    waiting = await ask(ids=[1])
    engines.store.hold()
    engines.pool.end(1)
    await engines.store.came(len(engines.store.written) + 1)
    await turns(50)
    assert engines.state.jobs.get(1) is None  # memory knows
    assert not waiting.done()
    engines.store.open_door()
    found = await bounded(waiting)
    assert (found.done, [job.status for job in found.jobs]) == (True, ["completed"])


async def test_a_wait_is_not_ended_by_an_end_that_a_failed_commit_took_back(engines, ask):
    await two_running(engines)
    waiting = await ask(ids=[1])
    engines.store.fail_next = [CommitFailed("full")]
    engines.pool.end(1)
    await engines.said("storage.unavailable")
    await turns(50)
    assert engines.state.jobs[1].status is Status.RUNNING
    assert not waiting.done()
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting(2)
    engines.clock.advance(0.25)
    assert (await bounded(waiting)).done


async def test_all_or_any_of_several_and_until_their_start_alone(engines, ask):
    await two_running(engines)
    held = await engines.submit(held=True)
    everything, anything = await ask(ids=[1, 2]), await ask(ids=[1, 2], any=True)
    assert (await bounded(await ask(ids=[1, 2], until="started"))).done
    started = await ask(ids=[1, held.id], until="started")
    engines.pool.end(2)
    assert (await bounded(anything)).done
    assert not everything.done()
    engines.pool.end(1)
    assert (await bounded(everything)).done
    assert not started.done()
    with pytest.raises(NotFound):
        await bounded(await ask(ids=[99]))


async def test_a_wait_whose_time_is_over_shows_how_things_stand(engines, ask):
    await two_running(engines)
    waiting = await ask(ids=[1, 2], timeout="10s")
    engines.pool.end(2)
    await engines.until(lambda: 2 not in engines.state.jobs)
    engines.clock.advance(9.9)
    await turns(20)
    assert not waiting.done()
    engines.clock.advance(0.2)
    found = await bounded(waiting)
    assert (found.done, [job.status for job in found.jobs]) == (False, ["running", "completed"])


async def test_what_ended_before_is_answered_at_once(engines, ask):
    await two_running(engines)
    engines.pool.end(1)
    await engines.until(lambda: 1 not in engines.state.jobs)
    assert (await bounded(await ask(ids=[1]))).done


async def test_a_wait_that_is_cancelled_or_over_leaves_nothing_behind(engines, waits, ask):
    await two_running(engines)
    gone, other = await ask(ids=[1, 2]), await ask(ids=[1])
    gone.cancel()
    await turns(5)
    engines.pool.end(1)
    await bounded(other)
    assert waits._by_job == {}


async def test_an_agent_lends_its_slot_for_as_long_as_it_waits_for_its_own_tree(engines, ask):
    await engines.submit()
    await engines.launched(1)
    agent = Caller(uid=1000, agent=True, job=1)
    waiting = await ask(agent, ids=[(await engines.submit(parent=1, held=True)).id])
    assert engines.state.lent == {1}
    other = await engines.submit(held=True)
    await ask(agent, ids=[other.id])
    assert engines.state.lent == {1}
    waiting.cancel()
    await turns(5)
    assert engines.state.lent == set()  # of the other it is no ancestor


async def test_a_wait_for_oneself_or_for_who_waits_for_oneself_is_a_conflict(engines, ask):
    await engines.submit()
    await engines.launched(1)
    agent = Caller(uid=1000, agent=True, job=1)
    with pytest.raises(Conflict):
        await bounded(await ask(agent, ids=[1]))


async def test_queue_drain_waits_until_nothing_runs(engines, waits):
    await two_running(engines)
    draining = asyncio.create_task(waits.idle(None))
    short = asyncio.create_task(waits.idle(1.0))
    await turns(5)
    engines.pool.end(1)
    await engines.until(lambda: 1 not in engines.state.jobs)
    engines.clock.advance(1)
    assert await bounded(short) is False
    engines.pool.end(2)
    assert await bounded(draining) is True


async def test_a_cancel_that_is_refused_for_want_of_room_ends_no_wait(engines, ask):
    held = await engines.submit(held=True)
    waiting = await ask(ids=[held.id])
    engines.store.fail_next = [CommitFailed("full")]
    with pytest.raises(StorageUnavailable):
        await bounded(engines.writer.command(cancelling(held.id), PERSON.actor))
    await turns(20)
    assert not waiting.done()
