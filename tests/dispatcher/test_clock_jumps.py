"""The wall's clock jumps under a living engine: it is seen before anything is decided, told once, and ends nothing."""

from __future__ import annotations

from functools import partial

import pytest

from opusd.core import commands, timekeeping
from opusd.core.errors import Conflict
from opusd.core.job import Job
from opusd.store.base import CommitFailed
from tests.core.world import HOUR, MINUTE, PERSON
from tests.dispatcher.bench import EngineBench, turns

DAYS = 3 * 24 * 3600.0


async def running(engines: EngineBench, *, timeout: int = HOUR) -> Job:
    await engines.begin()
    job = await engines.submit(agent="exec", command=["sleep"], timeout=timeout)
    await engines.launched(1)
    return engines.state.jobs[job.id]


@pytest.mark.parametrize("seconds", [DAYS, -DAYS])
async def test_an_attempt_has_its_time_on_the_monotonic_clock(engines: EngineBench, seconds: float) -> None:
    job = await running(engines)
    engines.clock.advance(1800)
    engines.clock.jump(seconds)
    engines.engine.poke()
    await engines.said("clock.jumped")
    assert engines.state.jobs[job.id].run.timeout_at == engines.clock.now() + HOUR // 2
    assert engines.pool.stops == []
    engines.clock.advance(1799)
    engines.engine.poke()
    await turns(10)
    await engines.desk.settled()
    assert engines.pool.stops == []
    engines.clock.advance(2)
    engines.engine.poke()
    await engines.pool.until(lambda: engines.pool.stops, 5)
    assert [fields["seconds"] for name, fields in engines.log if name == "clock.jumped"] == [seconds]


async def test_what_a_command_decides_right_after_a_jump_counts_in_the_new_time(engines: EngineBench) -> None:
    await engines.begin(dispatch=False)
    before = await engines.submit(agent="pull", expires_in=HOUR)
    engines.clock.jump(-DAYS)
    after = await engines.submit(agent="pull", expires_in=HOUR)
    expires = [engines.state.expires_at(engines.state.jobs[job.id]) for job in (before, after)]
    assert expires == [engines.clock.now() + HOUR] * 2
    assert engines.state.position(engines.state.jobs[before.id])[0] == 1
    await engines.desk.settled()
    await engines.is_as_rebuilt()


async def test_a_refused_command_leaves_the_jump_to_the_next_decision(engines: EngineBench) -> None:
    job = await running(engines)
    engines.clock.jump(DAYS)
    with pytest.raises(Conflict):
        engines.writer.command(partial(commands.release, job=job), PERSON.actor)
    assert engines.state.jobs[job.id].run.timeout_at == job.run.timeout_at
    engines.writer.fact(lambda _: None)
    assert engines.state.jobs[job.id].run.timeout_at == job.run.timeout_at + int(DAYS * 1e6)


async def test_a_jump_that_could_not_be_written_is_seen_again(engines: EngineBench) -> None:
    job = await running(engines)
    await engines.desk.settled()
    engines.store.fail_next.append(CommitFailed("disk full"))
    engines.clock.jump(DAYS)
    engines.engine.poke()
    await engines.said("storage.unavailable")
    assert engines.state.jobs[job.id].run.timeout_at == job.run.timeout_at
    await engines.recovers(0.25)
    await engines.said("clock.jumped")
    assert engines.state.jobs[job.id].run.timeout_at == job.run.timeout_at + int(DAYS * 1e6)
    await engines.is_as_rebuilt()


async def test_the_grace_of_an_end_is_what_it_was_though_the_clock_jumps_before_the_commit(
    engines: EngineBench,
) -> None:
    job = await running(engines)
    await engines.desk.settled()
    engines.store.hold()

    def cancel(decision):
        after = commands.cancel(decision, decision.latest(job), reason=None, grace=10_000_000, cascade=False)
        engines.engine.stop_after(decision, after)

    cancelled = engines.writer.command(cancel, PERSON.actor)
    engines.clock.jump(DAYS)
    engines.store.open_door()
    await cancelled
    assert engines.pool.stops == [(job.id, 1, 10.0)]


async def test_a_daemon_that_starts_after_a_jump_adopts_with_the_time_that_is_left(engines: EngineBench) -> None:
    job = await running(engines)
    engines.clock.advance(600)
    await engines.stop()
    engines.turning = None
    again = EngineBench(engines.store)
    kept = await engines.store.load_active()
    again.state.load(kept.jobs)
    again.state.last_job, again.state.last_event = kept.last_job, kept.last_event
    again.pool.survivors.add((job.id, 1))
    again.clock.advance(600)
    again.clock.jump(DAYS)
    await again.begin(dispatch=False)
    assert again.pool.deadlines == {(job.id, 1): 3000.0}
    assert again.state.jobs[job.id].run.timeout_at == again.clock.now() + 50 * MINUTE
    await again.desk.settled()
    await again.is_as_rebuilt()
    await again.stop()


async def test_what_is_below_the_tolerance_is_no_jump(engines: EngineBench) -> None:
    job = await running(engines)
    engines.clock.jump(timekeeping.TOLERANCE / 1e6)
    engines.writer.fact(lambda _: None)
    assert engines.state.jobs[job.id] is job
