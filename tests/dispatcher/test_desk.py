"""What verbs find of a job that moves on while they look at the registry."""

import asyncio

import pytest

from opusd.api import params as p
from opusd.core.errors import Conflict
from opusd.dispatcher.answers import AnswerVerbs
from opusd.dispatcher.intake import Intake
from opusd.dispatcher.jobs import JobVerbs
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, cancelling


class Session:
    def __init__(self):
        self.caller = PERSON
        self.turn = asyncio.Lock()


@pytest.fixture
def late(engines, monkeypatch):
    """`begun` is set when records have been read, and nobody hears of the first before `heard` is."""
    begun, heard, find = asyncio.Event(), asyncio.Event(), engines.store.records

    async def records(ids):
        found = await find(ids)
        begun.set()
        await heard.wait()
        return found

    monkeypatch.setattr(engines.store, "records", records)
    return begun, heard


async def cancelled_meanwhile(engines, late, call):
    """The answer to a call during whose look at the registry job 1 ends."""
    begun, heard = late
    asked = asyncio.create_task(call)
    async with asyncio.timeout(BOUND):
        await begun.wait()
        await engines.writer.command(cancelling(1), PERSON.actor)
        heard.set()
        return await asked


async def test_a_job_that_ends_while_its_update_reads_is_updated_as_it_is_then(engines, late):
    await engines.begin(dispatch=False)
    await engines.submit()
    jobs = JobVerbs(engines.desk, Intake(policies={}, env_secret=(), home="/"))
    job = await cancelled_meanwhile(engines, late, jobs.job_update(Session(), p.JobUpdate(id=1, title="new")))
    assert (job.status, job.title) == ("cancelled", "new")


async def test_a_job_that_ends_while_its_answer_reads_asks_nothing_any_more(engines, late):
    await engines.begin(dispatch=False)
    await engines.submit()
    answer = AnswerVerbs(engines.desk).job_answer(Session(), p.JobAnswer(id=1, question=1, text="yes"))
    with pytest.raises(Conflict, match="cancelled"):
        await cancelled_meanwhile(engines, late, answer)
