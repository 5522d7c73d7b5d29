"""A crowd that becomes ready at once is launched in turns; what ends before its turn is never launched."""

import asyncio
import threading
from itertools import pairwise

import pytest
from msgspec.structs import replace

from opusd.core import commands
from opusd.core.admission import Facts
from opusd.core.lifecycle import Status
from opusd.core.scheduler import MAX_STARTS
from opusd.store.base import CommitFailed
from tests.core.world import AGENTS, PERSON, limits, submission
from tests.dispatcher.bench import BOUND, EngineBench, turns

CROWD = MAX_STARTS


def agents(slots):
    return {**AGENTS, "claude": replace(AGENTS["claude"], slots=slots)}


@pytest.fixture
async def crowd(store):
    """So many jobs that all may run, and nothing that looks at them yet."""
    bench = EngineBench(store, max_concurrent=CROWD, agents=agents(CROWD))
    await bench.begin(dispatch=False)
    for number in range(CROWD):
        await bench.submit(boost=number % 3)
    yield bench
    await bench.stop()


def picked(bench):
    """The jobs that were started, in the order of the decision."""
    return [event.job for event in bench.events if event.kind == "job.started"]


def launched(bench):
    return [launch.job for launch in bench.pool.launches]


async def launches(bench, count):
    """How many there were after each turn of the loop, until so many were."""
    return await each_turn(lambda: len(bench.pool.launches), count)


async def each_turn(number, count):
    """What `number` gives before, and after each turn of the loop, until that is `count`."""
    loop, seen = asyncio.get_running_loop(), [number()]
    done = loop.create_future()

    def look():
        nonlocal turning
        seen.append(number())
        if seen[-1] >= count:
            done.set_result(None)
        else:
            turning = loop.call_soon(look)

    turning = loop.call_soon(look)
    try:
        await asyncio.wait_for(done, BOUND)
    finally:
        turning.cancel()
    return seen


async def in_line(bench):
    """All are picked, and a part of them is launched."""
    bench.engine.tick()
    await launches(bench, CROWD // 4)
    assert len(bench.pool.launches) < CROWD // 2


def ending(bench, number, verb):
    """Decide an end of a job's attempt as the dispatcher's verbs do; `verb(decision, job)` is the core's."""

    def decide(decision):
        after = verb(decision, decision.state.jobs[number])
        bench.engine.stop_after(decision, after)

    return bench.writer.command(decide, PERSON.actor)


def editing(number, edit):
    def decide(decision):
        return commands.update(decision, decision.state.jobs[number], submission().spec, edit, Facts(), None)

    return decide


def cancel(decision, job):
    return commands.cancel(decision, job, reason=None, grace=0, cascade=False)


def hold(decision, job):
    return commands.hold(decision, job, stop=True, grace=0)


async def test_a_crowd_is_launched_one_in_a_turn_in_the_order_in_which_it_was_picked(crowd):
    crowd.engine.tick()
    seen = await launches(crowd, CROWD)
    assert {after - before for before, after in pairwise(seen)} <= {0, 1}
    assert launched(crowd) == picked(crowd)
    assert len(picked(crowd)) == CROWD


async def test_a_larger_crowd_is_picked_in_turns_of_the_loop_and_all_of_it_at_once_by_the_clock(store):
    slots = 3 * MAX_STARTS
    bench = EngineBench(store, max_concurrent=slots, agents=agents(slots))
    await bench.begin(dispatch=False)
    for _ in range(slots):
        await bench.submit()
    bench.dispatch()
    seen = await each_turn(lambda: len(bench.state.running), slots)
    assert max(after - before for before, after in pairwise(seen)) == MAX_STARTS
    await bench.stop()


async def test_the_loop_turns_for_others_between_two_launches(crowd):
    loop, order = asyncio.get_running_loop(), []
    crowd.pool.report = lambda _: loop.call_soon(order.append, "another")
    start = crowd.pool.start
    crowd.pool.start = lambda launch: (order.append("launch"), start(launch))
    crowd.engine.tick()
    await launches(crowd, CROWD)
    await turns()
    assert order == ["launch", "another"] * CROWD


@pytest.mark.parametrize(("verb", "status"), [(cancel, Status.CANCELLED), (hold, Status.HELD)])
async def test_what_is_to_end_while_it_stands_in_line_is_not_launched_and_ends_at_once(crowd, verb, status):
    await in_line(crowd)
    number = picked(crowd)[-1]
    await ending(crowd, number, verb)
    await launches(crowd, CROWD - 1)
    await crowd.until(lambda: number not in crowd.state.running)
    assert [record.job.status for record in await crowd.store.records([number])] == [status]
    assert (number in launched(crowd), crowd.pool.stops) == (False, [])


async def test_an_end_that_is_decided_but_not_on_disk_yet_counts(crowd):
    await in_line(crowd)
    crowd.store.hold()
    last = picked(crowd)[-1]
    asked = ending(crowd, last, cancel)
    await launches(crowd, CROWD - 1)
    await turns(20)
    assert last not in launched(crowd)
    crowd.store.open_door()
    await asyncio.wait_for(asked, BOUND)
    await crowd.until(lambda: last not in crowd.state.jobs)


async def test_at_a_shutdown_what_is_in_line_goes_back_to_its_place_at_no_cost(crowd):
    await in_line(crowd)
    begun = launched(crowd)
    crowd.state.draining = True
    await asyncio.wait_for(crowd.engine.drained(), BOUND)
    rest = picked(crowd)[len(begun) :]
    assert launched(crowd) == begun
    found = {record.job.id: record.job for record in await crowd.store.records(rest)}
    assert {job.status for job in found.values()} == {Status.QUEUED}
    assert {(job.losses, job.retries) for job in found.values()} == {(0, 0)}
    await crowd.is_as_rebuilt()


async def test_whoever_waits_for_a_launch_waits_while_it_is_in_line(crowd):
    await in_line(crowd)
    waiting = asyncio.create_task(crowd.engine.launched(picked(crowd)[-1], 1))
    await launches(crowd, CROWD - 1)
    assert not waiting.done()
    await asyncio.wait_for(waiting, BOUND)
    assert len(launched(crowd)) == CROWD


async def test_a_worktree_that_is_being_made_holds_up_nobody(crowd):
    making, go = threading.Event(), threading.Event()

    def make(name, cwd, place):
        making.set()
        assert go.wait(BOUND)

    crowd.worktrees.make = make
    first = await crowd.submit(worktree=True, boost=9)
    crowd.engine.tick()
    await launches(crowd, CROWD - 1)
    assert picked(crowd)[0] == first.id
    assert first.id not in launched(crowd)
    assert await asyncio.to_thread(making.wait, BOUND)
    go.set()
    await crowd.launched(CROWD)
    assert launched(crowd)[-1] == first.id


async def test_what_comes_into_line_while_a_read_fails_is_read_anew(crowd):
    crowd.store.pause_reading()
    crowd.engine.tick()
    while len(picked(crowd)) < CROWD:
        await turns()
    await turns(20)  # all wait for the read
    crowd.store.unreadable = 1
    late = await crowd.submit()
    crowd.state.relimit(limits(max_concurrent=CROWD + 1, agents=agents(CROWD + 1)))
    crowd.engine.tick()
    while len(picked(crowd)) < CROWD + 1:
        await turns()
    crowd.store.resume_reading()
    await launches(crowd, 1)
    assert launched(crowd) == [late.id]
    await crowd.said("launch.failed", CROWD)
    assert "task.failed" not in [name for name, _ in crowd.log]


@pytest.fixture
async def picked_at_once(store):
    """The next submission is picked before it is on disk, and the registry can't be read."""
    bench = EngineBench(store)
    await bench.begin(dispatch=False)
    bench.store.pause_reading()
    bench.store.hold()
    yield bench
    await bench.stop()


async def submitted_and_picked(bench):
    submitted = asyncio.create_task(bench.submit())
    await bench.store.came(1)
    bench.engine.tick()
    return submitted


async def test_what_is_picked_before_its_submission_is_on_disk_is_launched_without_a_look_at_the_registry(
    picked_at_once,
):
    await submitted_and_picked(picked_at_once)
    picked_at_once.store.open_door()
    await picked_at_once.launched(1)


async def test_what_was_picked_so_and_could_not_be_started_is_read_when_it_is_for_it_may_have_changed(picked_at_once):
    bench = picked_at_once
    await submitted_and_picked(bench)
    bench.store.let()
    await bench.store.came(2)
    bench.store.fail_next = [CommitFailed("database or disk is full")]
    bench.store.open_door()
    await bench.said("storage.unavailable")
    bench.state.draining = True
    await bench.recovers(0.25)
    await bench.said("storage.available")
    await bench.writer.command(editing(1, commands.Edit(title="another")), PERSON.actor)
    bench.state.draining = False
    bench.store.resume_reading()
    bench.engine.tick()
    await bench.launched(1)
    assert [spec.title for _, spec in bench.prepared] == ["another"]


async def test_a_fault_in_one_launch_leaves_those_behind_it_their_turn(crowd):
    start = crowd.pool.start

    def fails_once(launch):
        crowd.pool.start = start
        raise ZeroDivisionError

    crowd.pool.start = fails_once
    crowd.engine.tick()
    await launches(crowd, CROWD - 1)
    assert launched(crowd) == picked(crowd)[1:]
    await asyncio.wait_for(crowd.engine.launched(picked(crowd)[0], 1), BOUND)


async def test_what_the_pool_does_not_take_ends_with_the_words_of_the_fault_and_its_slot_is_free(crowd):
    def fails(launch):
        raise ValueError("unmarshallable object")

    start, crowd.pool.start = crowd.pool.start, fails
    crowd.engine.tick()
    await crowd.until(lambda: not crowd.state.running)
    assert not crowd.state.pool_busy()
    [first, *_] = records = await crowd.store.records(picked(crowd))
    assert {record.job.status for record in records} == {Status.RETRYING}
    assert first.outcome.error["class"] == "spawn"
    assert first.outcome.error["message"] == "cannot start: ValueError: unmarshallable object"
    [said, *_] = [fields for name, fields in crowd.log if name == "launch.failed"]
    assert (said["job"], said["attempt"], said["level"]) == (picked(crowd)[0], 1, "error")
    crowd.pool.start = start
    another = await crowd.submit()
    crowd.engine.tick()
    await crowd.launched(1)
    assert launched(crowd) == [another.id]


async def test_a_fault_after_the_pool_took_an_attempt_does_not_end_it(crowd):
    start = crowd.pool.start

    def fails_late(launch):
        start(launch)
        raise ZeroDivisionError

    crowd.pool.start = fails_late
    crowd.engine.tick()
    await launches(crowd, CROWD)
    await crowd.said("task.failed", CROWD)
    assert len(crowd.state.running) == CROWD


async def test_the_text_that_a_fault_is_about_is_not_logged(crowd):
    def fails(launch):
        "a secret \ud800".encode()

    crowd.pool.start = fails
    crowd.engine.tick()
    await crowd.said("launch.failed", CROWD)
    assert "secret" not in str(crowd.log)


def moving(bench, number, timeout):
    """Decide a new timeout of a running job as the dispatcher does."""

    def decide(decision):
        bench.engine.deadline_after(decision, editing(number, commands.Edit(timeout=timeout))(decision))

    return bench.writer.command(decide, PERSON.actor)


async def test_the_timeout_of_a_job_that_was_changed_while_it_stood_in_line_is_the_new_one(crowd):
    crowd.store.pause_reading()
    crowd.engine.tick()
    await crowd.until(lambda: len(picked(crowd)) == CROWD)
    number = picked(crowd)[-1]
    await moving(crowd, number, 7_000_000)
    crowd.store.resume_reading()
    await launches(crowd, CROWD)
    job, _ = crowd.prepared[-1]
    assert (job.id, job.terms.timeout) == (number, 7_000_000)
    assert crowd.pool.deadlines == {}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_timeout_that_is_not_on_disk_yet_is_not_launched_and_told_when_it_is(crowd, fails):
    await in_line(crowd)
    number = picked(crowd)[-1]
    crowd.store.hold()
    crowd.store.fail_next = [CommitFailed("disk full")] if fails else []
    before = crowd.state.jobs[number].terms.timeout
    moved = moving(crowd, number, 7_000_000)
    await launches(crowd, CROWD)
    job, _ = crowd.prepared[-1]
    assert (job.id, job.terms.timeout) == (number, before)
    crowd.store.open_door()
    await asyncio.wait([moved], timeout=BOUND)
    assert list(crowd.pool.deadlines) == ([] if fails else [(number, 1)])
    moved.exception()


async def test_an_end_that_cannot_be_decided_leaves_nobody_waiting_for_the_launch(crowd, monkeypatch):
    async def fails(self, job, attempt, end):
        raise LookupError(job)

    monkeypatch.setattr("opusd.dispatcher.endings.Endings.commit", fails)
    await in_line(crowd)
    number = picked(crowd)[-1]
    await ending(crowd, number, cancel)
    await asyncio.wait_for(crowd.engine.launched(number, 1), BOUND)
    await crowd.said("task.failed")
