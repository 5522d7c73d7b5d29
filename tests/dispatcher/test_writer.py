"""Group commit, with a real registry whose commits wait, or fail, when the test says so."""

import asyncio
import random

import pytest

from opusd.core import commands
from opusd.core.errors import Conflict, InternalError, NotFound, ShuttingDown, StorageUnavailable
from opusd.core.lifecycle import Status
from opusd.dispatcher.writer import MAX_ROWS
from opusd.store.base import CommitFailed, CommitRefused, OutcomeUnknown
from opusd.testing.shape import shape_of
from tests.dispatcher.bench import BOUND, cancelling, noting, submitting, turns

DISK_FULL = CommitFailed("database or disk is full")
WRONG = CommitRefused("a constraint did not hold")


async def bounded(awaitable):
    async with asyncio.timeout(BOUND):
        return await awaitable


async def failing(bench):
    """A writer whose next commit fails, held at the door with one job in it; its future."""
    bench.run()
    bench.store.hold()
    flying = bench.submit()
    await bench.store.came(1)
    bench.store.fail_next = [DISK_FULL]
    return flying


# --- groups ---------------------------------------------------------------------------------------


async def test_what_arrives_while_a_commit_is_under_way_goes_into_the_next_together(bench):
    bench.run()
    bench.store.hold()
    first = bench.submit()
    await bench.store.came(1)
    others = [bench.submit() for _ in range(5)]
    bench.store.open_door()
    await bounded(asyncio.gather(first, *others))
    assert [len(batch.changes) for batch in bench.store.batches] == [1, 5]
    await bench.is_as_rebuilt()


async def test_those_who_are_answered_together_ask_again_together_and_are_written_together(bench):
    async def client(number):
        for _ in range(10):
            await turns(number % 5)  # until its reply came to it, and its next request here
            await bench.submit()

    bench.run()
    await bounded(asyncio.gather(*(client(number) for number in range(10))))
    sizes = [len(batch.changes) for batch in bench.store.batches]
    assert sum(sizes) == 100
    assert len(sizes) < 15, sizes


async def test_nobody_is_waited_for_who_does_not_come_back(bench):
    bench.run()
    bench.store.hold()
    futures = [bench.submit() for _ in range(3)]
    await bench.store.came(1)
    bench.store.open_door()
    await bounded(asyncio.gather(*futures))
    before = len(bench.store.batches)
    await bounded(bench.submit())  # of three that were there
    assert [len(batch.changes) for batch in bench.store.batches[before:]] == [1]


async def test_a_group_holds_4000_rows_at_most_unless_one_decision_has_more(bench):
    def many(decision):
        for _ in range(MAX_ROWS + 1):
            decision.note("x")

    def half(decision):
        for _ in range(MAX_ROWS // 2):
            decision.note("x")

    futures = [bench.writer.fact(decide) for decide in (half, half, half, many, noting("x"))]
    bench.run()
    await bounded(asyncio.gather(*futures))
    assert [len(batch.events) for batch in bench.store.batches] == [MAX_ROWS, MAX_ROWS // 2, MAX_ROWS + 1, 1]


async def test_nothing_is_answered_told_or_done_before_it_is_on_disk(bench):
    done = []

    def decide(decision):
        job = submitting()(decision)
        decision.effects.append(lambda: done.append("effect"))
        return job

    bench.run()
    bench.store.hold()
    future = bench.writer.command(decide, "user:1000")
    await bench.store.came(1)
    assert (future.done(), done, bench.events, bench.decided) == (False, [], [], 1)
    bench.store.let()
    job = await bounded(future)
    assert (await bench.store.records([job.id]))[0].job == job
    assert done == ["effect"]
    assert [event.kind for event in bench.events] == ["job.submitted"]


async def test_replies_events_and_effects_leave_in_the_order_of_decision(bench):
    order = []
    bench.watchers.append(lambda _, events: order.extend(("event", event.cursor) for event in events))

    def decide_on(number):
        def decide(decision):
            decision.note("first")
            decision.effects.append(lambda: order.append(("effect", number)))
            submitting()(decision)
            decision.note("last")
            return number

        return decide

    futures = [bench.writer.fact(decide_on(number)) for number in range(4)]
    replies = []
    for future in futures:
        future.add_done_callback(lambda done: replies.append(done.result()))
    bench.run()
    await bounded(asyncio.gather(*futures))
    assert replies == [0, 1, 2, 3]
    assert order == [("event", cursor) for cursor in range(1, 13)] + [("effect", number) for number in range(4)]


async def test_what_decides_nothing_is_answered_at_once_when_nothing_is_under_way_and_else_in_its_turn(bench):
    assert bench.writer.command(lambda _: "at once", "user:1000").result() == "at once"
    bench.run()
    bench.store.hold()
    first = bench.submit()
    await bench.store.came(1)
    second = bench.writer.command(lambda _: "in turn", "user:1000")
    assert not second.done()
    bench.store.open_door()
    await bounded(first)
    assert await bounded(second) == "in turn"


async def test_a_refusal_is_raised_at_once_and_leaves_no_trace(bench):
    def decide(decision):
        submitting()(decision)
        raise Conflict("no")

    bench.run()
    await bounded(bench.submit())
    with pytest.raises(Conflict):
        bench.writer.command(decide, "user:1000")
    assert (bench.state.last_job, bench.state.last_event) == (1, 1)
    assert bench.writer.settled().close() is None
    assert (await bounded(bench.submit())).id == 2
    await bench.is_as_rebuilt()


async def test_a_caller_that_has_gone_does_not_stop_the_writer(bench):
    bench.run()
    bench.store.hold()
    gone, other = bench.submit(), bench.submit()
    await bench.store.came(1)
    gone.cancel()
    bench.store.open_door()
    assert (await bounded(other)).id == 2
    await bench.is_as_rebuilt()


# --- a commit that fails ----------------------------------------------------------------------------


async def test_a_failed_commit_undoes_what_is_open_and_then_what_was_in_flight(bench):
    bench.run()
    kept = await bounded(bench.submit(group="g"))
    before = shape_of(bench.state)
    bench.store.hold()
    flying = [bench.submit(group="g"), bench.writer.command(cancelling(kept.id), "user:1000")]
    await bench.store.came(2)
    bench.store.fail_next = [DISK_FULL]
    opened = [bench.submit(group="g"), bench.writer.command(cancelling(2), "user:1000"), bench.submit()]
    opened.append(bench.writer.command(lambda decision: commands.pause(decision, "*"), "user:1000"))
    bench.store.let()
    for future in (*flying, *opened):
        with pytest.raises(StorageUnavailable) as caught:
            await bounded(future)
        assert "disk is full" in caught.value.message
        assert caught.value.as_data()["retryable"] is True
    assert shape_of(bench.state) == before
    assert not bench.state.pauses.names
    await bench.is_as_rebuilt()
    assert [event.kind for event in bench.events] == ["job.submitted"]


async def test_while_the_registry_cannot_be_written_commands_are_refused_and_reads_go_on(bench):
    bench.run()
    await bounded(bench.submit())
    bench.store.fail_next = [DISK_FULL, DISK_FULL]
    with pytest.raises(StorageUnavailable):
        await bounded(bench.submit())
    assert "disk is full" in bench.writer.degraded
    with pytest.raises(StorageUnavailable):
        bench.submit()
    assert await bounded(bench.writer.read(lambda: sorted(bench.state.jobs))) == [1]
    await bench.recovers(0.25)
    await bench.clock.until_waiting()
    assert bench.writer.degraded is not None
    assert bench.log == [("storage.unavailable", {"message": "database or disk is full"})]
    await bench.recovers(0.5)
    await bench.said("storage.available")
    assert bench.writer.degraded is None
    assert (await bounded(bench.submit())).id == 2
    await bench.is_as_rebuilt()


async def test_it_is_tried_again_after_a_quarter_second_doubling_to_five(bench):
    bench.run()
    bench.store.fail_next = [DISK_FULL] * 8
    with pytest.raises(StorageUnavailable):
        await bounded(bench.submit())
    for wait in (0.25, 0.5, 1, 2, 4, 5, 5):
        tried = len(bench.store.batches)
        async with asyncio.timeout(BOUND):
            await bench.clock.until_waiting()
        bench.clock.advance(wait - 0.01)
        await turns(20)
        assert len(bench.store.batches) == tried, wait
        bench.clock.advance(0.01)
        await bench.store.came(tried + 1)
    assert bench.writer.degraded is not None
    await bench.recovers(5)
    await bench.said("storage.available")


async def test_facts_wait_for_the_registry_and_are_then_decided_in_the_order_in_which_they_happened(bench):
    flying = await failing(bench)
    facts = [bench.note("in.flight")]
    bench.store.let()
    with pytest.raises(StorageUnavailable):
        await bounded(flying)
    facts += [bench.note("while.degraded"), bench.note("later")]
    assert not any(fact.done() for fact in facts)
    assert bench.state.last_event == 0
    bench.store.open_door()
    decided = bench.decided
    await bench.recovers(0.25)
    assert await bounded(asyncio.gather(*facts)) == ["in.flight", "while.degraded", "later"]
    assert await bench.kinds() == ["in.flight", "while.degraded", "later"]
    assert [event.cursor for event in bench.events] == [1, 2, 3]
    assert bench.decided > decided  # dispatch looks again
    await bench.is_as_rebuilt()


async def test_a_fact_that_no_longer_holds_when_its_turn_comes_is_dropped_and_the_others_go_on(bench):
    flying = await failing(bench)
    stale = bench.writer.fact(cancelling(1))  # of the job that will never have been
    with_it = bench.note("x")
    bench.store.open_door()
    with pytest.raises(StorageUnavailable):
        await bounded(flying)

    def refuse(decision):
        decision.note("never")
        raise Conflict("it is not so any more")

    refused = bench.writer.fact(refuse)
    await bench.recovers(0.25)
    for gone, why in ((refused, Conflict), (stale, NotFound)):
        with pytest.raises(why):
            await bounded(gone)
    assert await bounded(with_it) == "x"
    assert await bench.kinds() == ["x"]


async def test_a_read_never_shows_what_did_not_reach_the_disk(bench):
    flying = await failing(bench)
    looks = []

    def look():
        looks.append(sorted(bench.state.jobs))
        return looks[-1]

    reading = asyncio.create_task(bench.writer.read(look))
    await turns()
    assert (looks, reading.done()) == ([[1]], False)
    bench.store.open_door()
    with pytest.raises(StorageUnavailable):
        await bounded(flying)
    assert await bounded(reading) == []
    assert looks == [[1], []]


async def test_a_read_waits_for_what_it_saw_and_for_nothing_that_came_after(bench):
    bench.run()
    bench.store.hold()
    bench.submit()
    await bench.store.came(1)
    reading = asyncio.create_task(bench.writer.read(lambda: sorted(bench.state.jobs)))
    await turns()
    bench.store.let()
    await bench.store.came(1)
    later = bench.submit()
    assert await bounded(reading) == [1]
    bench.store.open_door()
    await bounded(later)


async def test_an_undecided_outcome_ends_the_writer_and_answers_nobody(bench):
    running = bench.run()
    bench.store.hold()
    future = bench.submit()
    await bench.store.came(1)
    opened = bench.submit()
    bench.store.fail_next = [OutcomeUnknown("after an I/O error in COMMIT")]
    bench.store.open_door()
    with pytest.raises(OutcomeUnknown):
        await bounded(running)
    bench.running = None
    assert not future.done()
    assert not opened.done()
    assert bench.events == []


# --- a commit that is refused -------------------------------------------------------------------------


async def refusing(bench, entries):
    """The writer with `entries` in flight, whose commit is refused; one by one, the second of them is so again."""
    bench.run()
    bench.store.hold()
    first = bench.note("before")
    await bench.store.came(1)
    futures = [enter() for enter in entries]
    bench.store.let()
    await bench.store.came(2)
    bench.store.fail_next = [WRONG]
    bench.store.let()
    await bench.store.came(3)
    await bounded(first)
    return futures


async def test_of_a_refused_group_the_offender_alone_is_refused(bench):
    good, bad, other = await refusing(bench, [bench.submit] * 3)
    bench.store.let()
    await bench.store.came(4)
    bench.store.fail_next = [WRONG]
    bench.store.open_door()
    assert (await bounded(good)).id == 1
    with pytest.raises(InternalError) as caught:
        await bounded(bad)
    assert caught.value.code == -32603
    assert (await bounded(other)).id == 2  # the number that the offender had was never given out
    assert [name for name, _ in bench.log] == ["storage.refused", "decision.refused"]
    assert bench.writer.degraded is None
    await bench.is_as_rebuilt()


async def test_a_command_that_breaks_when_it_is_decided_again_breaks_alone(bench):
    times = iter([1, 0])

    def decide(decision):
        submitting()(decision)
        return 1 // next(times)

    good, bad, other = await refusing(
        bench, [bench.submit, lambda: bench.writer.command(decide, "user:1000"), bench.submit]
    )
    bench.store.open_door()
    assert (await bounded(good)).id == 1
    with pytest.raises(ZeroDivisionError):
        await bounded(bad)
    assert (await bounded(other)).id == 2
    await bench.is_as_rebuilt()


async def test_what_arrives_while_each_is_tried_alone_keeps_its_place_behind_them(bench):
    first, second = await refusing(bench, [bench.submit, bench.submit])
    meanwhile = [bench.submit(), bench.note("x")]
    reading = asyncio.create_task(bench.writer.read(lambda: sorted(bench.state.jobs)))
    await turns()
    last = bench.submit()
    bench.store.open_door()
    jobs = await bounded(asyncio.gather(first, second, meanwhile[0], last))
    assert [job.id for job in jobs] == [1, 2, 3, 4]
    assert await bounded(meanwhile[1]) == "x"
    seen = await bounded(reading)
    assert seen == sorted(seen)
    assert await bench.kinds() == ["before", "job.submitted", "job.submitted", "job.submitted", "x", "job.submitted"]
    await bench.is_as_rebuilt()


async def test_the_registry_may_fail_while_each_is_tried_alone(bench):
    command, fact, waiting = await refusing(bench, [bench.submit, lambda: bench.note("a"), bench.submit])
    bench.store.let()  # the command
    await bench.store.came(4)  # now the fact
    behind = [bench.note("b"), bench.submit()]
    bench.store.fail_next = [DISK_FULL]
    reading = asyncio.create_task(bench.writer.read(lambda: sorted(bench.state.jobs)))
    await turns()
    bench.store.open_door()
    assert (await bounded(command)).id == 1
    for refused in (waiting, behind[1]):
        with pytest.raises(StorageUnavailable):
            await bounded(refused)
    assert await bounded(reading) == [1]
    assert bench.writer.degraded is not None
    arrived = bench.note("c")
    await bench.recovers(0.25)
    assert await bounded(asyncio.gather(fact, behind[0], arrived)) == ["a", "b", "c"]
    assert await bench.kinds() == ["before", "job.submitted", "a", "b", "c"]
    await bench.is_as_rebuilt()


async def test_after_those_of_the_refused_group_the_others_go_together_again(bench):
    first, second = await refusing(bench, [bench.submit, bench.submit])
    meanwhile = [bench.submit() for _ in range(20)]
    before = len(bench.store.batches)
    bench.store.open_door()
    await bounded(asyncio.gather(first, second, *meanwhile))
    assert [len(batch.changes) for batch in bench.store.batches[before:]] == [1, 20]
    await bench.is_as_rebuilt()


# --- the end ------------------------------------------------------------------------------------------


async def test_closing_writes_what_is_there_and_takes_no_more_commands(bench):
    running = bench.run()
    bench.store.hold()
    flying = bench.submit()
    await bench.store.came(1)
    opened = bench.submit()
    bench.writer.close()
    with pytest.raises(ShuttingDown):
        bench.submit()
    last = bench.note("last")
    bench.store.open_door()
    await bounded(running)
    assert [flying.result().id, opened.result().id, last.result()] == [1, 2, "last"]
    await bench.is_as_rebuilt()


async def test_closing_does_not_wait_for_a_registry_that_cannot_be_written(bench):
    running = bench.run()
    bench.store.fail_next = [DISK_FULL] * 10
    with pytest.raises(StorageUnavailable):
        await bounded(bench.submit())
    bench.writer.close()
    await bounded(running)
    assert await bench.kinds() == []


# --- anything ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_fails_memory_is_what_a_start_would_make_and_answers_are_true(bench, seed):
    """Random commands, facts, reads, failures and refusals, all at once."""
    chance = random.Random(seed)
    bench.run()
    jobs, facts, told = {}, [], []

    async def ask():
        try:
            future = bench.submit() if chance.random() < 0.7 else bench.writer.command(cancelling(1), "user:1000")
            job = await future
        except (StorageUnavailable, InternalError, Conflict, NotFound):
            return
        jobs[job.id] = max(jobs.get(job.id, 0), job.version)

    async def look():
        seen = await bench.writer.read(lambda: {job.id: job.version for job in bench.state.jobs.values()})
        on_disk = {record.job.id: record.job.version for record in await bench.store.records(sorted(seen))}
        assert all(on_disk[number] >= version for number, version in seen.items())

    tasks = []
    for step in range(120):
        if chance.random() < 0.15:
            bench.store.fail_next.append(chance.choice([DISK_FULL, WRONG]))
        act = chance.random()
        if act < 0.5:
            tasks.append(asyncio.create_task(ask()))
        elif act < 0.7:
            tasks.append(asyncio.create_task(look()))
        else:
            facts.append(f"fact.{step}")
            told.append(bench.note(facts[-1]))
        await turns(chance.randrange(3))
        if bench.writer.degraded is not None and chance.random() < 0.5:
            bench.clock.advance(5)
    bench.store.fail_next = []
    async with asyncio.timeout(BOUND):
        while not all(task.done() for task in [*tasks, *told]):
            bench.clock.advance(5)
            await turns()
    await bounded(asyncio.gather(*tasks))
    refused = [fact for fact, future in zip(facts, told, strict=True) if future.exception() is not None]
    assert [kind for kind in await bench.kinds() if kind.startswith("fact.")] == [
        fact for fact in facts if fact not in refused
    ]
    assert [event.kind for event in bench.events] == await bench.kinds()
    records = {record.job.id: record.job for record in await bench.store.records(sorted(jobs))}
    assert all(records[number].version >= version for number, version in jobs.items())
    assert all(job.status in (Status.QUEUED, Status.CANCELLED) for job in records.values())
    await bench.is_as_rebuilt()
