"""From decisions to attempts and back: what is launched when, and what becomes of what the pool reports."""

import asyncio
import errno
from functools import partial

import pytest
from msgspec.structs import replace

from opusd.agents.spec import Unknown
from opusd.agents.traces import named
from opusd.core import admission, commands, scheduler, sizes
from opusd.core.admission import Facts
from opusd.core.attempts import MAX_LOSSES
from opusd.core.errors import InvalidParams, StorageUnavailable
from opusd.core.explain import reason
from opusd.core.lifecycle import Status
from opusd.dispatcher.tokens import Attempts
from opusd.store.base import CommitFailed
from opusd.store.sqlite import SqliteStore
from opusd.testing.pool import ScriptedPool
from opusd.testing.shape import shape_of
from tests.core.world import AGENTS, PERSON, limits, submission
from tests.dispatcher.bench import BOUND, EngineBench, Paced, paced, turns

DISK_FULL = CommitFailed("database or disk is full")


def started(bench):
    return [(launch.job, launch.attempt) for launch in bench.pool.launches]


def status_of(bench, number):
    job = bench.state.jobs.get(number)
    return None if job is None else job.status


async def record(bench, number):
    return (await bench.store.records([number]))[0]


def cancel_after(bench, number, grace=10.0):
    """Cancel a job as the dispatcher's verb does: its attempt is stopped when that is on disk."""

    def decide(decision):
        job = decision.state.jobs[number]
        after = commands.cancel(decision, job, reason=None, grace=int(grace * 1e6), cascade=False)
        bench.engine.stop_after(decision, after)
        return after

    return bench.writer.command(decide, PERSON.actor)


# --- launching ------------------------------------------------------------------------------------


async def test_nothing_is_launched_before_its_start_is_on_disk(engines):
    await engines.begin()
    engines.store.hold()
    submitted = asyncio.create_task(engines.submit())
    await engines.store.came(1)
    engines.store.let()
    await submitted
    await engines.store.came(2)
    assert status_of(engines, 1) is Status.RUNNING  # decided, and on its way
    assert engines.pool.launches == []
    engines.store.let()
    await engines.launched(1)
    assert (await record(engines, 1)).job.status is Status.RUNNING
    assert engines.pool.launches[0].attempt_id == engines.state.jobs[1].run.attempt_id


async def test_of_a_crowd_that_is_due_at_once_some_have_their_moment_in_each_turn_of_the_loop(engines, monkeypatch):
    monkeypatch.setattr(scheduler, "MAX_DUE", 5)
    await engines.begin()
    at = engines.clock.now() + 1_000_000
    crowd = [submission(agent="pull", run_at=at)] * 20
    await engines.writer.command(lambda decision: len(admission.submit(decision, crowd, Facts(), PERSON)), PERSON.actor)
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(1.0)
    left = [20]
    while left[-1]:
        await turns()
        left.append(engines.state.statuses[Status.SCHEDULED])
    assert len(set(left)) > 2, "all of them in one turn"


async def test_an_agent_that_is_configured_without_slots_and_was_given_one_starts_its_jobs_as_they_come(engines):
    await engines.begin()
    await engines.writer.command(partial(sizes.resize, max_concurrent=1, agent="pull"), PERSON.actor)
    await turns(20)
    await engines.submit(agent="pull")
    await engines.launched(1)


async def test_a_commit_that_fails_launches_nothing_and_the_job_starts_when_there_is_room(engines):
    await engines.begin(dispatch=False)
    await engines.submit()
    engines.store.fail_next = [DISK_FULL]
    engines.engine.tick()
    assert status_of(engines, 1) is Status.RUNNING
    await engines.said("storage.unavailable")
    assert engines.pool.launches == []
    assert status_of(engines, 1) is Status.QUEUED
    assert engines.engine.tick() is None  # nothing is dispatched meanwhile
    assert status_of(engines, 1) is Status.QUEUED
    await engines.recovers(0.25)
    await engines.launched(1)
    assert started(engines) == [(1, 1)]
    assert ("storage.available", {"facts": 1}) in engines.log  # the tick that failed, and none for those since
    await engines.is_as_rebuilt()


async def test_what_a_failed_commit_was_to_start_is_started_once_when_dispatch_goes_on(engines):
    await engines.begin()
    engines.store.hold()
    submitted = asyncio.create_task(engines.submit())
    await engines.store.came(1)
    engines.store.let()
    await submitted
    await engines.store.came(2)
    engines.store.fail_next = [DISK_FULL]
    engines.store.open_door()
    await engines.said("storage.unavailable")
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting(2)  # the writer and the loop
    engines.clock.advance(0.25)
    await engines.launched(1)
    await turns(20)
    assert started(engines) == [(1, 1)]
    await engines.is_as_rebuilt()


async def test_a_job_that_is_cancelled_between_the_commit_of_its_start_and_its_launch_is_never_launched(engines):
    await engines.begin(dispatch=False)
    engines.store.pause_reading()
    await engines.submit()
    engines.dispatch()
    await engines.until(lambda: any(event.kind == "job.started" for event in engines.events))
    await cancel_after(engines, 1)
    engines.store.resume_reading()
    await engines.until(lambda: status_of(engines, 1) is None)
    assert (engines.pool.launches, engines.pool.stops) == ([], [])
    found = await record(engines, 1)
    assert found.job.status is Status.CANCELLED
    assert found.outcome.error["class"] == "cancelled"


async def test_the_launch_of_a_job_whose_cancel_is_not_on_disk_yet_does_not_happen_either(engines):
    await engines.begin(dispatch=False)
    engines.store.pause_reading()
    await engines.submit()
    engines.dispatch()
    await engines.until(lambda: any(event.kind == "job.started" for event in engines.events))
    engines.store.hold()
    cancelled = cancel_after(engines, 1)
    engines.store.resume_reading()
    await engines.store.came(len(engines.store.written) + 1)
    await turns(20)
    engines.store.open_door()
    assert (await cancelled).status is Status.CANCELLING
    await engines.until(lambda: status_of(engines, 1) is None)
    assert engines.pool.launches == []


async def test_a_start_whose_cancel_fails_to_reach_the_disk_goes_back_into_the_line_or_runs_but_is_not_lost(engines):
    await engines.begin(dispatch=False)
    engines.store.pause_reading()
    await engines.submit()
    engines.dispatch()
    await engines.until(lambda: any(event.kind == "job.started" for event in engines.events))
    engines.store.hold()
    cancelled = cancel_after(engines, 1)
    await engines.store.came(len(engines.store.written) + 1)
    engines.store.resume_reading()
    await turns(20)
    engines.store.fail_next = [DISK_FULL]
    engines.store.open_door()
    with pytest.raises(StorageUnavailable):
        await cancelled
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting(2)
    engines.clock.advance(2)
    await engines.launched(1)
    assert status_of(engines, 1) is Status.RUNNING
    assert engines.state.jobs[1].losses == 0
    await engines.is_as_rebuilt()


async def test_what_is_reported_once_the_engine_is_closed_is_left_to_the_next_start(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    async with asyncio.timeout(BOUND):
        await engines.engine.drained()
    engines.engine.close()
    await engines.store.close()
    engines.pool.end(1, 1)
    await turns(20)
    assert [event for event, _ in engines.log if event.startswith("storage.")] == []
    assert status_of(engines, 1) is Status.RUNNING


async def test_what_cannot_be_prepared_fails_the_job_with_class_config(engines):
    engines.refusal = InvalidParams("agent claude has no argv")
    await engines.begin()
    await engines.submit()
    await engines.until(lambda: status_of(engines, 1) is None)
    found = await record(engines, 1)
    assert (found.job.status, found.outcome.error["class"]) == (Status.FAILED, "config")
    assert "no argv" in found.outcome.error["message"]


async def test_a_launcher_that_ends_with_each_launch_is_not_asked_without_a_pause(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    engines.pool.never_ran(1, why="the launcher of agents ended")
    await engines.until(lambda: status_of(engines, 1) is Status.QUEUED)
    await turns(50)
    assert started(engines) == [(1, 1)]
    assert "the launcher of agents ended" in reason(engines.state, engines.state.jobs[1], engines.clock.now())
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(1)
    await engines.launched(2)
    assert started(engines) == [(1, 1), (1, 2)]
    assert (engines.state.jobs[1].losses, engines.state.jobs[1].retries) == (0, 0)
    assert engines.state.breather is not None
    engines.pool.end(1, 2)
    await engines.until(lambda: status_of(engines, 1) is None)
    assert engines.state.breather is None  # that went well


async def begins_a_second_later(bench):
    """The first launch failed for nothing that the job can help."""
    await bench.begin(dispatch=False)
    await bench.submit()
    bench.dispatch()
    await bench.until(lambda: status_of(bench, 1) is Status.QUEUED and bench.state.jobs[1].attempts == 1)
    await turns(50)
    assert bench.state.jobs[1].attempts == 1  # it does not go round and round
    assert ("launch.failed", "error") in [(name, fields.get("level")) for name, fields in bench.log]
    bench.refusal = None
    async with asyncio.timeout(BOUND):
        await bench.clock.until_waiting()
    bench.clock.advance(1)
    await bench.launched(1)
    assert started(bench) == [(1, 2)]
    assert (bench.state.jobs[1].losses, bench.state.jobs[1].retries) == (0, 0)


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
async def test_a_machine_without_room_while_preparing_puts_the_job_back_for_a_second_and_is_logged(engines, fault):
    engines.refusal = fault
    await begins_a_second_later(engines)


@pytest.mark.parametrize("fault", [OSError(errno.EACCES, "Permission denied"), ZeroDivisionError("ours")])
async def test_what_may_be_one_jobs_own_while_preparing_is_of_class_spawn_and_nobody_else_waits_for_it(engines, fault):
    await engines.begin()
    engines.refusal = fault
    await engines.submit(agent="exec", command=["true"])
    await engines.until(lambda: status_of(engines, 1) is None)
    error = (await record(engines, 1)).outcome.error
    assert (error["class"], error["message"]) == ("spawn", f"cannot start: {type(fault).__name__}: {fault}")
    assert "launch.failed" in [name for name, _ in engines.log]
    engines.refusal = None
    await engines.submit()
    await engines.launched(1)


async def test_a_registry_that_cannot_be_read_now_puts_the_job_back_for_a_second(engines):
    engines.store.unreadable = 1
    await begins_a_second_later(engines)


# --- the pool's reports -----------------------------------------------------------------------------


async def test_an_end_is_committed_once_however_often_it_is_reported(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    reports = []
    engines.pool.report = lambda report: (reports.append(report), engines.engine.report(report))
    engines.pool.end(1, code=0, output_tail="all done\n")
    engines.engine.report(reports[-1])
    await engines.until(lambda: status_of(engines, 1) is None)
    engines.engine.report(reports[-1])
    await asyncio.wait_for(engines.engine.drained(), BOUND)
    assert (await engines.kinds()).count("job.completed") == 1
    assert len(await engines.store.attempts(1)) == 1
    assert (await record(engines, 1)).outcome.result == {"summary": "all done", "data": None}
    assert not [name for name, _ in engines.log if name == "task.failed"]


async def test_an_end_while_the_registry_cannot_be_written_is_kept_and_committed_later(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    engines.store.fail_next = [DISK_FULL]
    engines.pool.end(1, code=3)
    await engines.said("storage.unavailable")
    assert status_of(engines, 1) is Status.RUNNING  # nobody sees an end that is not on disk
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting(2)
    engines.clock.advance(0.25)
    await engines.until(lambda: status_of(engines, 1) is not Status.RUNNING)
    assert [attempt.exit_code for attempt in await engines.store.attempts(1)] == [3]
    await engines.is_as_rebuilt()


async def test_a_slot_is_free_again_when_its_attempt_has_ended_and_the_next_in_line_takes_it(store):
    bench = EngineBench(store, max_concurrent=1)
    await bench.begin()
    for _ in range(3):
        await bench.submit()
    for number in (1, 2, 3):
        await bench.launched(number)
        assert bench.pool.running() == [(number, 1)]
        bench.pool.end(number)
    await bench.until(lambda: not bench.state.jobs)
    assert bench.pool.most == 1
    await bench.stop()


async def test_what_never_ran_is_put_back_at_no_cost_and_runs_again(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    queued_at = engines.state.jobs[1].queued_at
    engines.pool.never_ran(1)
    await engines.launched(2)
    job = engines.state.jobs[1]
    assert started(engines) == [(1, 1), (1, 2)]
    assert (job.losses, job.retries, job.queued_at) == (0, 0, queued_at)
    put_back = [event for event in engines.events if event.kind == "job.queued"]
    assert put_back[0].detail["put_back"] == "the attempt never began"


async def test_a_lost_attempt_counts_and_the_third_fails_the_job(engines):
    await engines.begin()
    await engines.submit()
    for attempt in range(1, MAX_LOSSES + 1):
        await engines.launched(attempt)
        assert engines.state.jobs[1].losses == attempt - 1
        engines.pool.lose(1, attempt)
    await engines.until(lambda: status_of(engines, 1) is None)
    assert (await record(engines, 1)).outcome.error["class"] == "lost"


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE])
async def test_after_a_spawn_for_which_the_machine_had_no_room_nothing_starts_for_a_second(engines, code):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    engines.pool.fail_to_spawn(1, errno=code, message="no process for it")
    await engines.until(lambda: status_of(engines, 1) is Status.QUEUED)
    await engines.submit()
    await turns(20)
    assert started(engines) == [(1, 1)]
    assert ("machine.full", "warning") in [(name, fields.get("level")) for name, fields in engines.log]
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(0.99)
    await turns(20)
    assert started(engines) == [(1, 1)]
    engines.clock.advance(0.02)
    await engines.launched(3)
    assert started(engines) == [(1, 1), (1, 2), (2, 1)]
    assert (engines.state.jobs[1].losses, engines.state.jobs[1].retries) == (0, 0)


FULL = "cannot start: its folder /runs/1/1 can't be made: No space left on device (ENOSPC)"


async def test_while_a_fault_of_the_machine_lasts_the_tries_back_off_and_the_job_says_what_it_is(engines):
    await engines.begin()
    await engines.submit()
    queued_at = engines.state.jobs[1].queued_at
    for attempt, pause in enumerate([1, 2, 4, 8, 16, 30, 30], start=1):
        await engines.launched(attempt)
        engines.pool.fail_to_spawn(1, attempt, errno=errno.ENOSPC, message=FULL)
        await engines.until(lambda: status_of(engines, 1) is Status.QUEUED)
        assert FULL in reason(engines.state, engines.state.jobs[1], engines.clock.now())
        assert engines.state.breather.until == engines.clock.now() + pause * 1_000_000
        async with asyncio.timeout(BOUND):
            await engines.clock.until_waiting()
        engines.clock.advance(pause)
    await engines.launched(8)
    job = engines.state.jobs[1]
    assert (job.losses, job.retries, job.queued_at) == (0, 0, queued_at)
    said = [fields["message"] for name, fields in engines.log if name == "machine.full"]
    assert said == [FULL] * 7
    put_back = [event for event in engines.events if event.kind == "job.queued"]
    assert {event.detail["put_back"] for event in put_back} == {FULL}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT])
async def test_a_folder_that_can_not_be_made_is_a_failure_of_class_spawn_with_its_path_and_retried_as_such(
    engines, code
):
    message = f"cannot start: its folder /runs/1/1 can't be made: {named(code)}"
    await engines.begin()
    await engines.submit(agent="exec", command=["true"])
    await engines.launched(1)
    engines.pool.fail_to_spawn(1, errno=code, message=message)
    await engines.until(lambda: status_of(engines, 1) is None)
    error = (await record(engines, 1)).outcome.error
    assert (error["class"], error["message"]) == ("spawn", message)
    assert engines.state.breather is None


async def test_what_would_hinder_every_job_is_no_failure_of_this_one(engines):
    await engines.begin()
    await engines.submit(max_retries=0)
    await engines.launched(1)
    engines.pool.fail_to_spawn(1, errno=errno.EACCES, machine=True, message="cannot start: runs is closed")
    await engines.until(lambda: status_of(engines, 1) is Status.QUEUED)
    job = engines.state.jobs[1]
    assert (job.losses, job.retries) == (0, 0)
    assert "runs is closed" in reason(engines.state, job, engines.clock.now())


async def test_a_program_that_is_not_there_is_the_jobs_own_failure(engines):
    await engines.begin()
    await engines.submit(agent="exec", command=["nowhere"])
    await engines.launched(1)
    engines.pool.fail_to_spawn(1, errno=errno.ENOENT, message="no such program: nowhere")
    await engines.until(lambda: status_of(engines, 1) is None)
    assert (await record(engines, 1)).outcome.error["class"] == "spawn"


async def test_a_cancel_stops_the_attempt_after_its_commit_and_its_end_is_then_a_cancel(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    engines.store.hold()
    cancelled = cancel_after(engines, 1, grace=4)
    await turns(20)
    assert engines.pool.stops == []
    engines.store.open_door()
    await asyncio.wait_for(cancelled, BOUND)
    assert engines.pool.stops == [(1, 1, 4.0)]
    engines.pool.end(1, signal=15)
    await engines.until(lambda: status_of(engines, 1) is None)
    assert (await record(engines, 1)).job.status is Status.CANCELLED


async def test_a_result_that_was_in_before_the_cancel_counts(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    engines.store.hold()
    cancelled = cancel_after(engines, 1)
    engines.pool.end(1, code=0)
    engines.store.open_door()
    assert (await asyncio.wait_for(cancelled, BOUND)).status is Status.CANCELLING
    await engines.until(lambda: status_of(engines, 1) is None)
    assert (await record(engines, 1)).job.status is Status.COMPLETED


async def test_an_agent_that_ends_well_because_it_was_told_to_end_is_cancelled_all_the_same(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    await asyncio.wait_for(cancel_after(engines, 1), BOUND)
    engines.pool.end(1, code=0)
    await engines.until(lambda: status_of(engines, 1) is None)
    assert (await record(engines, 1)).job.status is Status.CANCELLED


async def test_an_attempt_whose_time_is_up_is_stopped_at_that_moment(engines):
    await engines.begin()
    await engines.submit(timeout=30_000_000)
    await engines.launched(1)
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(29.9)
    await turns(20)
    assert engines.pool.stops == []
    engines.clock.advance(0.1)
    await engines.pool.until(lambda: bool(engines.pool.stops), BOUND)
    engines.pool.end(1, signal=15)
    await engines.until(lambda: status_of(engines, 1) is not Status.RUNNING)
    assert [attempt.failure for attempt in await engines.store.attempts(1)] == ["timeout"]


# --- restart -----------------------------------------------------------------------------------------


async def test_a_start_adopts_what_runs_learns_what_ended_and_puts_back_what_never_ran(store):
    first = EngineBench(store)
    await first.begin()
    for _ in range(3):
        await first.submit(agent="exec", command=["true"])
    await first.launched(3)
    ended = []
    await first.stop()
    first.engine.report = ended.append
    again = EngineBench(store)
    snapshot = await store.load_active()
    again.state.load(snapshot.others, snapshot.alike)
    again.state.last_job, again.state.last_event = snapshot.last_job, snapshot.last_event
    other = ScriptedPool(report=ended.append)
    other.start(first.pool.launches[1])
    other.end(2, code=9)
    again.pool.survivors = {(1, 1)}
    again.pool.ended = {(2, 1): ended[-1]}
    await again.begin()
    await again.until(lambda: any(event.kind == "job.started" and event.job == 3 for event in again.events))
    await again.launched(1)
    assert started(again) == [(3, 2)]
    assert status_of(again, 1) is Status.RUNNING
    assert [attempt.exit_code for attempt in await store.attempts(2)][:1] == [9]
    assert (again.state.jobs[1].attempts, again.state.jobs[3].losses) == (1, 0)
    await again.stop()


async def test_a_stop_that_was_under_way_is_asked_again_of_an_adopted_attempt(store):
    first = EngineBench(store)
    await first.begin()
    await first.submit()
    await first.launched(1)
    await cancel_after(first, 1, grace=10)
    await first.stop()
    again = EngineBench(store)
    again.clock.advance(4)
    snapshot = await store.load_active()
    again.state.load(snapshot.others, snapshot.alike)
    again.state.last_job, again.state.last_event = snapshot.last_job, snapshot.last_event
    again.pool.survivors = {(1, 1)}
    await again.begin()
    assert again.pool.stops == [(1, 1, 6.0)]
    again.pool.end(1, signal=15)
    await again.until(lambda: status_of(again, 1) is None)
    assert (await record(again, 1)).job.status is Status.CANCELLED
    await again.stop()


async def test_an_attempt_of_which_nothing_is_known_keeps_its_place_and_is_told_to_a_person(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    engines.engine.report(Unknown(job=1, attempt=1, message="nothing can be found out in runs/1/1"))
    await asyncio.wait_for(engines.engine.drained(), BOUND)
    assert status_of(engines, 1) is Status.RUNNING
    assert [fields["message"] for name, fields in engines.log if name == "attempt.unknown"] == [
        "nothing can be found out in runs/1/1"
    ]


async def test_only_the_token_of_a_running_attempt_is_known(engines):
    await engines.begin()
    await engines.submit()
    await engines.launched(1)
    token = engines.pool.launches[0].env["T"]
    assert Attempts(engines.state).by_token(token) == (1, 1)
    assert Attempts(engines.state).by_token("0" * 32) is None
    assert Attempts(engines.state).by_id(engines.pool.launches[0].attempt_id) == (1, 1)
    engines.pool.end(1)
    await engines.until(lambda: status_of(engines, 1) is None)
    assert Attempts(engines.state).by_token(token) is None


async def test_a_registry_reopened_after_failures_is_what_memory_was(tmp_path):
    async with paced(tmp_path) as store:
        bench = EngineBench(store)
        await bench.begin()
        for number in range(1, 6):
            if number % 2:
                store.fail_next = [DISK_FULL]
            try:
                await bench.submit()
            except StorageUnavailable:
                await bench.said("storage.unavailable", (number + 1) // 2)
                async with asyncio.timeout(BOUND):
                    while bench.writer.degraded is not None:
                        bench.clock.advance(1)
                        await turns(5)
        await bench.launched(2)
        shape = shape_of(bench.state)
        await bench.stop()
    again = Paced(SqliteStore(tmp_path / "opusd.db"))
    await again.open()
    other = EngineBench(again)
    other.state.load((await again.load_active()).jobs)
    assert shape_of(other.state) == shape
    await again.close()


async def test_the_silence_of_an_attempt_is_counted_from_its_launch_on_though_nothing_else_happens(store):
    agents = {**AGENTS, "claude": replace(AGENTS["claude"], stall_after=10_000_000)}
    bench = EngineBench(store, agents=agents)
    await bench.begin()
    await bench.submit()
    await bench.launched(1)
    await turns(50)
    bench.clock.advance(10)
    await bench.pool.until(lambda: bool(bench.pool.stops), BOUND)
    assert bench.pool.stops[0][:2] == (1, 1)
    bench.pool.end(1, signal=15)
    await bench.stop()


async def test_what_is_less_than_a_microsecond_away_is_waited_for(engines):
    engines.state.relimit(limits(agents={**AGENTS, "claude": replace(AGENTS["claude"], stall_after=10_000_000)}))
    await engines.begin(dispatch=False)
    await engines.submit(agent="claude")
    engines.engine.tick()
    await engines.launched(1)
    engines.engine.liveness.heard((1, 1), engines.clock.monotonic() - 10 + 1e-7)
    assert engines.engine.tick() == engines.clock.now() + 1
