"""What is counted beside the registry is what a restart would count."""

from opusd.core.job import Attempt
from opusd.core.lifecycle import Status
from opusd.dispatcher.tally import Tally
from opusd.store.base import Batch
from opusd.store.memory import MemoryStore
from opusd.testing.records import START, born, job, run

AGENTS = ("exec", "claude")


async def empty():
    store = MemoryStore()
    await store.open()
    return store


def ended(number):
    """A job of one attempt, which failed where the number is odd; 1 and 2 are of one agent, 3 and 4 of the other."""
    after = job(number, Status.FAILED if number % 2 else Status.COMPLETED, completed_at=START + number)
    failure = "agent_error" if number % 2 else None
    attempt = Attempt(job=number, agent=AGENTS[number // 3], run=run(), ended_at=START, failure=failure)
    return born(after, attempt=attempt)


def counts(tally):
    return +tally.finals, +tally.attempts, +tally.succeeded, [tally.success_rate(agent) for agent in AGENTS]


async def test_what_is_forgotten_is_counted_no_more_with_its_attempts_before_a_restart_as_after_it():
    store = await empty()
    tally, changes = Tally(await store.load_active()), [ended(number) for number in (1, 2, 3, 4)]
    await store.commit(Batch(changes=changes))
    tally.released(changes)
    assert tally.attempts == {"exec": 2, "claude": 2}
    await store.commit(Batch(pruned=[(1, True), (2, True), (3, True)]))
    while gone := await store.forget(START * 2, 2):
        tally.forgotten(gone)
    assert counts(tally) == counts(Tally(await store.load_active()))
    assert tally.success_rate("exec") is None
    assert (tally.attempts["claude"], tally.success_rate("claude")) == (1, 1.0)
