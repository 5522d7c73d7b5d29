"""Retention beside a registry that can't be written, or read, for a while."""

import asyncio

import pytest

from opusd.api import params as p
from opusd.core.errors import StorageUnavailable
from opusd.dispatcher.upkeep import Upkeep
from opusd.store.base import CommitFailed
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, cancelling, turns

DAY = 86_400_000_000


class Session:
    def __init__(self):
        self.caller = PERSON
        self.turn = asyncio.Lock()


@pytest.fixture
async def upkeep(engines, tmp_path):
    await engines.begin(dispatch=False)
    upkeep = Upkeep(
        engines.desk, tmp_path / "runs", engines.workdirs, finished=DAY, history=DAY, every=60.0, log=engines.say
    )
    (tmp_path / "runs" / "1" / "1").mkdir(parents=True)
    running = asyncio.create_task(upkeep.run())
    yield upkeep
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def once_a_day_has_passed(engines):
    await engines.submit()
    await engines.writer.command(cancelling(1), PERSON.actor)
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(86_400 + 60)


async def test_retention_prunes_what_is_past_its_time_with_its_output(engines, upkeep, tmp_path):
    await once_a_day_has_passed(engines)
    await engines.said("retention.pruned")
    assert (await engines.kinds())[-1] == "job.pruned"
    assert not (tmp_path / "runs" / "1").exists()


@pytest.mark.parametrize("error", [CommitFailed("disk full"), StorageUnavailable("disk I/O error")])
@pytest.mark.parametrize("call", ["prunable", "forget"])
async def test_a_registry_that_fails_postpones_retention_and_does_not_end_it(engines, upkeep, call, error):
    works = getattr(engines.store, call)

    async def fails(*arguments):
        setattr(engines.store, call, works)
        raise error

    setattr(engines.store, call, fails)
    await once_a_day_has_passed(engines)
    await engines.said("retention.postponed")
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(60)
    await engines.said("retention.pruned")
    assert (await engines.store.records([1]))[:1] == [] or (await engines.store.records([1]))[0].pruned


async def test_retention_whose_commit_fails_is_a_fact_that_waits(engines, upkeep):
    await engines.submit()
    await engines.writer.command(cancelling(1), PERSON.actor)
    engines.store.fail_next = [CommitFailed("disk full")]
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(86_400 + 60)
    await engines.said("storage.unavailable")
    await turns(5)
    async with asyncio.timeout(BOUND):
        await engines.clock.until_waiting()
    engines.clock.advance(0.25)
    await engines.said("retention.pruned")


async def test_a_job_that_is_retried_while_it_is_looked_at_is_not_pruned_and_keeps_its_output(
    engines, upkeep, tmp_path
):
    await engines.submit()
    found = [[1], []]

    async def prunable(*_):
        return found.pop(0)

    engines.store.prunable = prunable
    await upkeep.once()
    assert (tmp_path / "runs" / "1" / "1").exists()
    assert not (await engines.store.records([1]))[0].pruned


async def test_the_first_thing_is_to_sweep_what_a_crash_left_of_pruned_jobs(engines, tmp_path):
    runs = tmp_path / "runs"
    await engines.begin(dispatch=False)
    for number in (1, 2, 3):
        await engines.submit()
        (runs / str(number) / "1").mkdir(parents=True)
    for other in ("4", "0", "01", "mine"):
        (runs / other).mkdir()
    await engines.writer.command(cancelling(1), PERSON.actor)
    await engines.writer.command(cancelling(2), PERSON.actor)
    upkeep = Upkeep(engines.desk, runs, engines.workdirs, finished=None, history=None, every=60.0, log=engines.say)
    await engines.writer.command(lambda decision: decision.pruned.append((1, False)), PERSON.actor)
    await upkeep.sweep()
    assert sorted(entry.name for entry in runs.iterdir()) == ["0", "01", "2", "3", "4", "mine"]


async def ended(engines, folder, count):
    """What prunes, and so many jobs that are cancelled."""
    for _ in range(count):
        await engines.submit()
        await engines.writer.command(cancelling(engines.state.last_job), PERSON.actor)
    return Upkeep(engines.desk, folder, engines.workdirs, finished=None, history=None, every=60.0, log=engines.say)


async def test_folders_that_can_not_be_listed_postpone_the_sweep_and_do_not_end_retention(engines, tmp_path):
    await engines.begin(dispatch=False)
    (tmp_path / "runs").write_text("a file where the folders of the attempts are to be")
    upkeep = Upkeep(
        engines.desk, tmp_path / "runs", engines.workdirs, finished=DAY, history=DAY, every=60.0, log=engines.say
    )
    running = asyncio.create_task(upkeep.run())
    await engines.said("retention.postponed")
    await once_a_day_has_passed(engines)
    await engines.said("retention.pruned")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_prune_that_fails_midway_says_what_was_pruned_and_the_rest_can_be_asked_for_again(
    engines, tmp_path, monkeypatch
):
    monkeypatch.setattr("opusd.dispatcher.upkeep._AT_ONCE", 2)
    await engines.begin(dispatch=False)
    upkeep = await ended(engines, tmp_path, 5)
    written = len(engines.store.written)
    engines.store.hold()
    pruning = asyncio.create_task(upkeep.job_prune(Session(), p.JobPrune(ids=[1, 2, 3, 4, 5])))
    engines.store.let()
    await engines.store.came(written + 2)
    engines.store.fail_next = [CommitFailed("disk full")]
    engines.store.open_door()
    with pytest.raises(StorageUnavailable, match="2 of 5 jobs are pruned; for the others: .*disk full") as refused:
        await pruning
    assert refused.value.data["pruned"] == 2
    assert await engines.store.unpruned([1, 2, 3, 4, 5]) == {3, 4, 5}
    await engines.recovers(0.25)
    await engines.said("storage.available")
    assert (await upkeep.job_prune(Session(), p.JobPrune(ids=[1, 2, 3, 4, 5]))).jobs == [1, 2, 3, 4, 5]
    assert await engines.store.unpruned([1, 2, 3, 4, 5]) == set()


async def test_a_prune_names_only_what_it_pruned_and_not_a_job_that_was_retried_meanwhile(engines, tmp_path):
    await engines.begin(dispatch=False)
    upkeep = await ended(engines, tmp_path, 2)
    await engines.submit()

    async def prunable(*_):
        return [1, 2, 3]

    engines.store.prunable = prunable
    pruned = await upkeep.job_prune(Session(), p.JobPrune(before="2100-01-01T00:00:00Z"))
    assert pruned.jobs == [1, 2]
    assert await engines.store.unpruned([1, 2, 3]) == {3}


async def test_a_prune_that_fails_at_once_says_that_nothing_was_changed(engines, tmp_path):
    await engines.begin(dispatch=False)
    upkeep = await ended(engines, tmp_path, 1)
    engines.store.fail_next = [CommitFailed("disk full")]
    with pytest.raises(StorageUnavailable, match=r"^the registry can't be written: disk full; nothing was changed"):
        await upkeep.job_prune(Session(), p.JobPrune(ids=[1]))


async def test_what_is_forgotten_is_told(engines, tmp_path):
    told = []
    await engines.begin(dispatch=False)
    for _ in range(2):
        await engines.submit()
        await engines.writer.command(cancelling(engines.state.last_job), PERSON.actor)
    upkeep = Upkeep(
        engines.desk,
        tmp_path,
        engines.workdirs,
        finished=0,
        history=0,
        every=60.0,
        log=engines.say,
        forgotten=told.append,
    )
    engines.clock.advance(1)
    await upkeep.once()
    assert told[0].finals == {"cancelled": 2}
