"""A registry that can't be read when a call is done: the answer may be late, and never says that nothing changed."""

import asyncio
from types import SimpleNamespace

import pytest

from opusd.api import params as p
from opusd.api.types import JobSpec
from opusd.dispatcher.feed import Feed
from opusd.dispatcher.hearing import Hearing
from opusd.dispatcher.intake import Intake
from opusd.dispatcher.jobs import JobVerbs
from opusd.dispatcher.reads import ReadVerbs
from opusd.dispatcher.roll import Roll
from opusd.dispatcher.steering import SteeringVerbs
from opusd.dispatcher.tally import Tally
from opusd.dispatcher.waits import Waits
from opusd.dispatcher.workers import WorkerVerbs
from opusd.store.base import Snapshot
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, turns


class Session:
    def __init__(self):
        self.caller = PERSON
        self.turn = asyncio.Lock()
        self.gone = False


@pytest.fixture
async def verbs(engines):
    desk, waits = engines.desk, Waits()
    waits.attach(desk)
    jobs = JobVerbs(desk, Intake(policies={}, env_secret=(), home="/"))
    reads = ReadVerbs(desk, Tally(Snapshot([], 0, 0, {})), engines.pool.read_output, waits.begun)
    workers = WorkerVerbs(desk, Hearing(desk, Feed(0)), Roll(engines.state))
    await engines.begin()
    return SimpleNamespace(jobs=jobs, workers=workers, queue=SteeringVerbs(desk, reads, waits))


async def answered(engines, call):
    """The answer to a call after whose commit the registry can't be read twice."""
    written = len(engines.store.written)

    def fail(changes, events):
        engines.store.unreadable = 2
        engines.watchers.remove(fail)

    engines.watchers.append(fail)
    asked = asyncio.create_task(call)
    async with asyncio.timeout(BOUND):
        await engines.store.wrote(written + 1)
        for left in (1, 0):
            while engines.store.unreadable != left or engines.clock.waiting < 2:  # the engine, and the call
                await turns()
            assert not asked.done()
            engines.clock.advance(1)
        return await asked


async def test_a_cancelled_job_is_shown_as_soon_as_it_can_be(engines, verbs):
    await engines.submit(held=True)
    job = await answered(engines, verbs.jobs.job_cancel(Session(), p.JobCancel(id=1)))
    assert (job.id, job.status) == (1, "cancelled")


async def test_an_update_a_retry_and_a_pause_are_answered_as_soon_as_they_can_be(engines, verbs):
    await engines.submit(agent="pull", held=True)  # so that no launch reads the registry, too
    updated = await answered(engines, verbs.jobs.job_update(Session(), p.JobUpdate(id=1, title="new")))
    assert updated.title == "new"
    await verbs.jobs.job_cancel(Session(), p.JobCancel(id=1))
    retried = await answered(engines, verbs.jobs.job_retry(Session(), p.JobRetry(ids=[1])))
    assert [job.id for job in retried.jobs] == [1]
    await engines.submit()
    await engines.launched(1)
    paused = await answered(engines, verbs.queue.queue_pause(Session(), p.QueuePause()))
    assert (paused.paused, [job.id for job in paused.running]) == (True, [2])


async def test_a_submission_beside_one_whose_key_is_known_is_shown_as_soon_as_it_can_be(engines, verbs):
    known, new = JobSpec(command=["true"], key="known", held=True), JobSpec(command=["true"], held=True)
    await verbs.jobs.job_submit_batch(Session(), p.JobSubmitBatch(jobs=[known]))
    both = await answered(engines, verbs.jobs.job_submit_batch(Session(), p.JobSubmitBatch(jobs=[known, new])))
    assert [(one.job.id, one.created) for one in both.jobs] == [(1, False), (2, True)]


async def test_an_end_and_the_next_claim_are_told_as_soon_as_they_can_be(engines, verbs):
    for _ in range(2):
        await engines.submit(agent="pull")
    [held] = (await verbs.workers.worker_claim(Session(), p.WorkerClaim(worker="w"))).claims
    params = p.WorkerComplete(id=1, token=held.token, result="done", claim=p.WorkerClaim(worker="w"))
    done = await answered(engines, verbs.workers.worker_complete(Session(), params))
    assert (done.job.status, [one.job.id for one in done.claims]) == ("completed", [2])
