"""Claims that wait, and what one commit holds: a job and the worker it came to, an end and the next claim."""

import asyncio
import os

import pytest
from msgspec import UNSET

from opusd.agents.kernel import parent_and_start
from opusd.api import params as p
from opusd.core.access import Caller
from opusd.core.errors import Forbidden, LeaseLost
from opusd.core.lifecycle import Status
from opusd.dispatcher.answers import AnswerVerbs
from opusd.dispatcher.feed import Feed
from opusd.dispatcher.hearing import Hearing
from opusd.dispatcher.roll import Roll
from opusd.dispatcher.workers import WorkerVerbs
from opusd.store.base import CommitFailed
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, turns


class Session:
    def __init__(self, caller=PERSON):
        self.caller = caller
        self.turn = asyncio.Lock()
        self.gone = False


@pytest.fixture
def roll(engines):
    return Roll(engines.state)


@pytest.fixture
async def workers(engines, roll):
    engines.watchers.append(lambda changes, _: roll.released(changes))
    workers = WorkerVerbs(engines.desk, Hearing(engines.desk, Feed(0)), roll)
    await engines.begin()
    return workers


def caller_of(pid):
    known = parent_and_start(pid)
    assert known is not None
    return Caller(uid=os.getuid(), pid=pid, start=known[1])


async def bounded(awaitable):
    async with asyncio.timeout(BOUND):
        return await awaitable


async def claims(workers, session=None, **fields):
    found = await bounded(workers.worker_claim(session or Session(), p.WorkerClaim(**{"worker": "w", **fields})))
    return found.claims


def waiting(workers, session=None, **fields):
    params = p.WorkerClaim(**{"worker": "w", "wait": 60, **fields})
    return asyncio.create_task(workers.worker_claim(session or Session(), params))


def kinds(batch):
    return [change.event.kind for change in batch.changes if change.event is not None]


async def test_a_job_and_the_worker_that_waited_for_it_are_one_commit(engines, workers):
    claim = waiting(workers)
    await turns(20)
    written = len(engines.store.written)
    await engines.submit(agent="pull")
    [held] = (await bounded(claim)).claims
    [batch] = engines.store.written[written:]
    assert kinds(batch) == ["job.submitted", "job.started"]
    assert (held.job.id, held.job.status) == (1, "running")


async def test_a_job_that_came_to_the_worker_that_waited_for_it_is_not_read_from_the_registry(engines, workers):
    claim = waiting(workers)
    await turns(20)
    engines.store.pause_reading()
    await engines.submit(agent="pull")
    [held] = (await bounded(claim)).claims
    assert (held.job.id, held.job.status) == (1, "running")


async def test_an_end_and_the_next_claim_are_one_commit(engines, workers):
    for _ in range(2):
        await engines.submit(agent="pull")
    [held] = await claims(workers)
    written = len(engines.store.written)
    params = p.WorkerComplete(id=1, token=held.token, result="done", claim=p.WorkerClaim(worker="w"))
    done = await bounded(workers.worker_complete(Session(), params))
    [batch] = engines.store.written[written:]
    assert kinds(batch) == ["job.completed", "job.started"]
    assert (done.job.status, [one.job.id for one in done.claims]) == ("completed", [2])
    assert {change.event.actor for change in batch.changes} == {"worker:w"}


async def test_who_waits_longest_is_served_first_whatever_others_ask_for(engines, workers):
    first, second = waiting(workers, types=["bug", "task"]), waiting(workers)
    third = waiting(workers, types=["bug", "task"])
    await turns(20)
    got = []
    for claim in (first, second, third):
        await engines.submit(agent="pull")
        got += [one.job.id for one in (await bounded(claim)).claims]
    assert got == [1, 2, 3]


async def test_what_does_not_fit_the_first_goes_to_the_next(engines, workers):
    first, second = waiting(workers, types=["bug"]), waiting(workers)
    await turns(20)
    await engines.submit(agent="pull")
    assert [one.job.id for one in (await bounded(second)).claims] == [1]
    assert not first.done()
    first.cancel()


async def test_a_wait_that_is_over_takes_nothing(engines, workers):
    claim = waiting(workers, wait=5)
    await engines.clock.until_waiting(2)
    engines.clock.advance(5)
    assert (await bounded(claim)).claims == []
    await engines.submit(agent="pull")
    assert engines.state.jobs[1].status is Status.QUEUED


async def test_a_claim_that_is_cancelled_while_its_commit_is_on_the_way_goes_back_at_no_cost(engines, workers):
    claim = waiting(workers)
    await turns(20)
    engines.store.hold()
    submitted = asyncio.create_task(engines.submit(agent="pull"))
    await engines.store.came(len(engines.store.written) + 1)
    await turns(20)
    claim.cancel()
    await turns(20)
    engines.store.open_door()
    await bounded(submitted)
    await engines.until(lambda: engines.state.jobs[1].status is Status.QUEUED and engines.state.jobs[1].attempts == 1)
    assert engines.state.jobs[1].losses == 0
    await engines.is_as_rebuilt()


async def test_a_commit_that_fails_leaves_the_claim_in_its_place_in_line(engines, workers):
    first, second = waiting(workers), waiting(workers)
    await turns(20)
    engines.store.fail_next = [CommitFailed("database or disk is full")]
    with pytest.raises(Exception, match="can't be written"):
        await engines.submit(agent="pull")
    await engines.recovers(0.25)
    await engines.said("storage.available")
    await engines.submit(agent="pull")
    assert [one.attempt for one in (await bounded(first)).claims] == [1]
    assert not second.done()
    second.cancel()
    await engines.is_as_rebuilt()


async def test_a_claim_whose_connection_is_gone_when_it_is_answered_is_released(engines, workers):
    session = Session()
    claim = waiting(workers, session)
    await turns(20)
    session.gone = True
    await engines.submit(agent="pull")
    assert (await bounded(claim)).claims == []
    await engines.until(lambda: engines.state.jobs[1].status is Status.QUEUED)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), OSError("the disk is gone")])
async def test_a_claim_whose_answer_cannot_be_read_goes_back_at_no_cost(error, engines, workers, monkeypatch):
    await engines.submit(agent="pull")

    async def records(ids):
        raise error

    monkeypatch.setattr(engines.desk.store, "records", records, raising=False)
    with pytest.raises(type(error)):
        await workers.worker_claim(Session(), p.WorkerClaim(worker="w"))
    monkeypatch.undo()
    await engines.until(lambda: engines.state.jobs[1].status is Status.QUEUED)
    assert (engines.state.jobs[1].attempts, engines.state.jobs[1].losses) == (1, 0)


async def test_claims_that_one_reply_cannot_hold_go_back_at_no_cost(engines, workers):
    for _ in range(5):
        await engines.submit(agent="pull", prompt="x" * (700 << 10))  # the title is as long
    held = await claims(workers, count=5)
    assert [one.job.id for one in held] == [1, 2]
    await engines.until(lambda: all(engines.state.jobs[n].status is Status.QUEUED for n in (3, 4, 5)))
    assert [engines.state.jobs[n].losses for n in (3, 4, 5)] == [0, 0, 0]


async def test_a_claim_names_the_attempt_and_says_what_was_answered(engines, workers):
    await engines.submit(agent="pull", prompt="paint it")
    [held] = await claims(workers)
    run = engines.state.jobs[1].run
    assert (held.attempt_id, held.prompt) == (run.attempt_id, UNSET)
    await workers.worker_ask(Session(), p.WorkerAsk(id=1, token=held.token, text="Which colour?"))
    question = engines.state.jobs[1].extra.question
    await AnswerVerbs(engines.desk).job_answer(Session(), p.JobAnswer(id=1, question=question.id, text="red"))
    [held] = await claims(workers)
    assert (held.attempt, held.job.prompt) == (2, "paint it")
    assert "paint it" in held.prompt
    assert "> Which colour?\n\nred" in held.prompt


async def test_a_lease_that_is_over_is_ended_by_the_daemon_and_its_token_is_dead(engines, workers):
    await engines.submit(agent="pull")
    [held] = await claims(workers, lease=10)
    await engines.clock.until_waiting()
    engines.clock.advance(10)
    await engines.until(lambda: engines.state.jobs[1].status is Status.QUEUED)
    assert engines.state.jobs[1].losses == 1
    with pytest.raises(LeaseLost):
        await workers.worker_complete(Session(), p.WorkerComplete(id=1, token=held.token))
    await engines.is_as_rebuilt()


async def test_a_lease_that_lapsed_just_before_a_crash_is_ended_by_the_next_daemon(engines, workers):
    await engines.submit(agent="pull")
    await claims(workers, lease=10)

    def lapse(decision):
        from opusd.core import attempts

        attempts.lapse(decision, decision.state.jobs[1])

    await engines.writer.fact(lapse)
    await engines.engine.recover(engines.pool)
    await engines.until(lambda: engines.state.jobs[1].status is Status.QUEUED)


async def test_agents_may_neither_claim_nor_end_what_workers_hold(engines, workers):
    await engines.submit(agent="pull")
    [held] = await claims(workers)
    agent = Session(Caller(agent=True, job=1, attempt=1))
    with pytest.raises(Forbidden):
        await workers.worker_claim(agent, p.WorkerClaim(worker="w"))
    with pytest.raises(Forbidden):
        await workers.worker_complete(agent, p.WorkerComplete(id=1, token=held.token))
    beat = await workers.worker_heartbeat(agent, p.WorkerHeartbeat(id=1, token=held.token))
    assert beat.expires_at is not None
    with pytest.raises(Forbidden):
        await workers.worker_release(agent, p.WorkerRelease(id=1, token=held.token))
    with pytest.raises(Forbidden):
        await workers.worker_ask(
            Session(Caller(agent=True, job=9, attempt=1)), p.WorkerAsk(id=1, token=held.token, text="?")
        )
    with pytest.raises(Forbidden):
        await workers.worker_heartbeat(
            Session(Caller(agent=True, job=9, attempt=1)), p.WorkerHeartbeat(id=1, token=held.token)
        )


async def test_what_a_workers_process_holds_is_known_until_the_attempt_is_over(engines, workers, roll):
    me = Session(caller_of(os.getpid()))
    for _ in range(2):
        await engines.submit(agent="pull")
    first, second = await claims(workers, me, count=2)
    assert roll.held_by(os.getpid()) == [(1, 1), (2, 1)]
    await workers.worker_complete(me, p.WorkerComplete(id=1, token=first.token))
    assert roll.held_by(os.getpid()) == [(2, 1)]
    other = Session(caller_of(os.getppid()))  # it passed the job on
    await workers.worker_heartbeat(other, p.WorkerHeartbeat(id=2, token=second.token))
    assert (roll.held_by(os.getpid()), roll.held_by(os.getppid())) == ([], [(2, 1)])
    await workers.worker_release(me, p.WorkerRelease(id=2, token=second.token))
    assert roll.held_by(os.getppid()) == []
    roll.holds(me.caller, engines.state.jobs[2])  # an answer that comes late: nobody holds it any more
    assert roll.held_by(os.getpid()) == []


async def test_a_later_process_with_the_pid_of_a_worker_holds_nothing_of_it(engines, workers, roll):
    await engines.submit(agent="pull")
    earlier = caller_of(os.getpid())
    await claims(workers, Session(Caller(uid=earlier.uid, pid=earlier.pid, start=earlier.start - 1)))
    assert roll.held_by(os.getpid()) == []


async def test_workers_are_listed_with_what_they_hold_and_did(engines, workers):
    for _ in range(3):
        await engines.submit(agent="pull")
    [one] = await claims(workers, worker="a")
    [two] = await claims(workers, worker="b")
    await workers.worker_complete(Session(), p.WorkerComplete(id=1, token=one.token))
    error = p.WorkerError(class_="auth")
    await workers.worker_fail(Session(), p.WorkerFail(id=2, token=two.token, error=error))
    await claims(workers, worker="b")
    listed = (await workers.worker_list(Session(), p.WorkerList())).workers
    assert [(one.worker, one.jobs, one.completed, one.failed) for one in listed] == [("a", [], 1, 0), ("b", [3], 0, 1)]
