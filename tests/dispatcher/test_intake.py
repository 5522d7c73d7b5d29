"""What a JobSpec that was sent means, and what is the same content of a key."""

import asyncio

import msgspec
import pytest

from opusd.api import params as p
from opusd.core.errors import Conflict
from opusd.core.job import Tier
from opusd.core.limits import Route
from opusd.dispatcher.intake import Intake
from opusd.dispatcher.jobs import JobVerbs
from tests.core.world import PERSON, limits
from tests.dispatcher.bench import BOUND

NONE_SENT = "a5ca5ae32d318c4371489371ab206f56b7ffdd9c090c3a22baed855a1e505eb4"
"""The digest of `{prompt: "x", key: "k"}` in the registries that there are, with `priority: "normal"` or without."""


class Session:
    def __init__(self):
        self.caller = PERSON
        self.turn = asyncio.Lock()


@pytest.fixture
def intake():
    return Intake(policies={}, env_secret=(), home="/")


@pytest.fixture
async def submit(engines, intake):
    """A submission through a route that has a priority for reviews."""
    review = Route("reviews", "claude", type="review", priority=(Tier.LOW, 3))
    engines.state.limits = limits(routes=(review,))
    await engines.begin(dispatch=False)
    jobs = JobVerbs(engines.desk, intake)

    async def submit(**sent):
        async with asyncio.timeout(BOUND):
            return await jobs.job_submit(Session(), msgspec.convert({"prompt": "x", **sent}, p.JobSubmit))

    return submit


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({}, ("low", 3)),
        ({"boost": 0}, ("low", 3)),
        ({"priority": "normal"}, ("normal", 0)),
        ({"priority": "normal", "boost": 0}, ("normal", 0)),
        ({"priority": 5}, ("normal", 0)),
        ({"priority": "urgent"}, ("urgent", 0)),
        ({"boost": 7}, ("normal", 7)),
    ],
)
async def test_the_priority_of_a_route_is_for_jobs_that_name_none(submit, sent, shown):
    job = (await submit(type="review", **sent)).job
    assert (job.route, (job.tier, job.boost)) == ("reviews", shown)


async def test_a_job_that_names_no_priority_is_normal_without_a_route_that_says_otherwise(submit):
    assert (await submit(agent="claude", type="review")).job.tier == "normal"


@pytest.mark.parametrize("sent", [{}, {"priority": "normal"}])
@pytest.mark.parametrize("kind", [p.JobSubmit, p.JobSpec])
def test_the_digest_of_a_submission_without_a_priority_or_with_the_default_is_what_it_always_was(intake, kind, sent):
    spec = msgspec.convert({"prompt": "x", "key": "k", **sent}, kind)
    assert intake.submission(spec, 0).spec.digest.hex() == NONE_SENT


async def test_a_key_finds_its_job_whether_or_not_the_default_priority_is_said(submit):
    made = await submit(key="k")
    again = await submit(key="k", priority="normal")
    assert (again.created, again.job.id) == (False, made.job.id)
    with pytest.raises(Conflict):
        await submit(key="k", priority=5)
