"""What verbs find of a job that moves on while they look at the registry."""

import asyncio

import pytest

from opusd.api import params as p
from opusd.core.errors import Conflict, InternalError, NotFound
from opusd.dispatcher.answers import AnswerVerbs
from opusd.dispatcher.intake import Intake
from opusd.dispatcher.jobs import JobVerbs
from opusd.store.base import CommitRefused
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, cancelling, noting, submitting


class Session:
    def __init__(self):
        self.caller = PERSON
        self.turn = asyncio.Lock()


class Late:
    """Reads of records are made at once, and nobody hears of them before the test says so."""

    def __init__(self, store):
        self._find = store.records
        self._made = asyncio.Semaphore(0)
        self._heard = asyncio.Semaphore(0)
        self._find_details = store.details
        store.records, store.details = self._records, self._details

    async def _records(self, ids):
        return await self._later(await self._find(ids))

    async def _details(self, ids):
        return await self._later(await self._find_details(ids))

    async def _later(self, found):
        self._made.release()
        await self._heard.acquire()
        return found

    async def read(self):
        """Until another one is made."""
        async with asyncio.timeout(BOUND):
            await self._made.acquire()

    def heard(self, times=1):
        for _ in range(times):
            self._heard.release()


@pytest.fixture
async def late(engines):
    await engines.begin(dispatch=False)
    await engines.submit(held=True)
    return Late(engines.store)


@pytest.fixture
def jobs(engines):
    return JobVerbs(engines.desk, Intake(policies={}, env_secret=(), home="/"))


async def cancel(engines):
    return await engines.writer.command(cancelling(1), PERSON.actor)


async def test_a_job_that_ends_while_its_update_reads_is_updated_as_it_is_then(engines, late, jobs):
    asked = asyncio.create_task(jobs.job_update(Session(), p.JobUpdate(id=1, title="new")))
    await late.read()
    await cancel(engines)
    late.heard(10)
    job = await asked
    assert (job.status, job.title) == ("cancelled", "new")


async def test_a_job_that_ends_while_its_answer_reads_asks_nothing_any_more(engines, late):
    answer = AnswerVerbs(engines.desk).job_answer(Session(), p.JobAnswer(id=1, question=1, text="yes"))
    asked = asyncio.create_task(answer)
    await late.read()
    await cancel(engines)
    late.heard(10)
    with pytest.raises(Conflict, match="cancelled"):
        await asked


async def test_a_finished_job_that_is_pruned_while_its_retry_reads_is_a_conflict(engines, late, jobs):
    await cancel(engines)
    asked = asyncio.create_task(jobs.job_retry(Session(), p.JobRetry(ids=[1])))
    await late.read()  # it finds the job,
    late.heard()
    await late.read()  # and looks at how it ended

    def prune(decision):
        decision.pruned.append((1, False))
        decision.note("job.pruned", job=1)

    await engines.writer.command(prune, PERSON.actor)
    late.heard(10)
    with pytest.raises(Conflict, match="somebody else"):
        await asked
    await engines.is_as_rebuilt()


async def test_a_finished_job_that_is_changed_while_its_update_reads_is_a_conflict(engines, late, jobs):
    job = await cancel(engines)
    asked = asyncio.create_task(jobs.job_update(Session(), p.JobUpdate(id=1, title="new")))
    await late.read()
    late.heard()
    await late.read()
    await engines.writer.command(lambda decision: decision.put(job, job, "updated"), PERSON.actor)
    late.heard(10)
    with pytest.raises(Conflict, match="somebody else"):
        await asked


async def test_a_command_on_a_job_that_the_registry_then_refuses_finds_no_job(engines):
    await engines.begin(dispatch=False)
    engines.store.hold()
    first = engines.writer.fact(noting("job.noted"))
    await engines.store.came(1)
    made = engines.writer.command(submitting(key="k"), PERSON.actor)
    jobs = JobVerbs(engines.desk, Intake(policies={}, env_secret=(), home="/"))
    asked = asyncio.create_task(jobs.job_cancel(Session(), p.JobCancel(id="k")))
    engines.store.let()
    await engines.store.came(2)
    engines.store.fail_next = [CommitRefused("together"), CommitRefused("and alone")]
    engines.store.open_door()
    async with asyncio.timeout(BOUND):
        await first
        with pytest.raises(InternalError):
            await made
        with pytest.raises(NotFound, match="refused"):
            await asked
    assert (await engines.submit()).id == 1
