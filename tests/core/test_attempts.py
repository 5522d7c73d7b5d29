"""How an attempt ends and what that makes of its job."""

import pytest

from opusd.core import attempts
from opusd.core.attempts import MAX_LOSSES
from opusd.core.job import Job, Outcome
from opusd.core.lifecycle import Status
from opusd.core.retry import PRESETS, Policy, Strategy
from tests.core.world import HOUR, MINUTE, SECOND, World, depends


def started(world: World, **fields: object) -> Job:
    job = world.submit(**{"agent": "claude", **fields})
    assert world.started() == [job.id]
    return world[job]


def test_a_start_is_one_change_with_the_row_of_its_attempt() -> None:
    world = World()
    world.submit(agent="claude", timeout=MINUTE)
    changes = []
    world.watchers.append(changes.append)
    world.started()
    (change,) = changes
    assert change.event.kind == "job.started"
    assert change.event.attempt == 1
    assert (change.event.before, change.event.after) == ("queued", "running")
    assert change.attempt.run is change.after.run
    assert change.attempt.ended_at is None
    assert change.after.run.timeout_at == world.now + MINUTE
    assert change.after.started_at == world.now


def test_success_completes_the_job_with_its_result() -> None:
    world = World()
    job = started(world)
    changes = []
    world.watchers.append(changes.append)
    world.now += SECOND
    done = world.end(job, result={"summary": "done"}, exit_code=0, log_bytes=7)
    assert done.status is Status.COMPLETED
    assert done.completed_at == world.now
    assert done.run is None
    assert world.outcomes[job.id].result == {"summary": "done"}
    assert changes[0].attempt.ended_at == world.now
    assert changes[0].attempt.log_bytes == 7
    assert changes[0].event.attempt == 1


def test_a_failure_without_retries_is_a_dead_letter_that_says_why() -> None:
    world = World()
    job = started(world, retry=PRESETS["none"])
    done = world.end(job, "agent_error", message="it broke", exit_code=3)
    assert done.status is Status.FAILED
    assert world.outcomes[job.id].error == {
        "class": "agent_error", "message": "it broke", "exit_code": 3, "signal": None,
    }  # fmt: skip


def test_a_failure_backs_off_and_goes_again_at_its_old_place() -> None:
    world = World()
    job = started(world)
    world.end(job, "agent_error", chance=0.5)
    waiting = world[job]
    assert waiting.status is Status.RETRYING
    assert waiting.due_at == world.now + SECOND * 105 // 100
    assert waiting.retries == 1
    assert world.tick().wake_at == waiting.due_at
    world.pause("*")
    world.tick(2 * SECOND)
    assert world[job].status is Status.QUEUED
    assert world[job].queued_at == job.queued_at
    world.resume("*")
    assert world.started() == [job.id]
    assert world[job].run.attempt == 2


def test_retries_run_out() -> None:
    world = World()
    job = started(world, retry=Policy(Strategy.LINEAR, base=SECOND, jitter=0.0, max_retries=2))
    for number in (1, 2):
        assert world.end(job, "agent_error").due_at == world.now + number * SECOND
        assert world.started(number * SECOND) == [job.id]
    assert world.end(job, "agent_error").status is Status.FAILED
    assert world[job].attempts == 3


@pytest.mark.parametrize("failure", ["auth", "config"])
def test_some_classes_are_never_retried(failure: str) -> None:
    world = World()
    assert world.end(started(world), failure).status is Status.FAILED


def test_three_losses_fail_the_job_and_each_before_costs_no_retry_and_no_place() -> None:
    world = World()
    job = started(world)
    for losses in range(1, MAX_LOSSES):
        lost = world.end(job, "lost")
        assert lost.status is Status.QUEUED
        assert (lost.losses, lost.retries, lost.queued_at) == (losses, 0, job.queued_at)
        assert world.started(MINUTE) == [job.id]
    failed = world.end(job, "lost")
    assert failed.status is Status.FAILED
    assert world.outcomes[job.id].error["class"] == "lost"


def test_a_persons_retry_forgives_losses_and_retries() -> None:
    world = World()
    job = started(world)
    for _ in range(MAX_LOSSES - 1):
        world.end(job, "lost")
        world.started()
    world.end(job, "auth")
    world.retry(job)
    assert (world[job].losses, world[job].retries, world[job].attempts) == (0, 0, MAX_LOSSES)
    world.started()
    assert world.end(job, "lost").status is Status.QUEUED


def test_an_attempt_that_never_began_is_put_back_and_counts_as_no_loss() -> None:
    world = World()
    job = started(world)
    back = world.end(job, "lost", never_ran=True)
    assert back.status is Status.QUEUED
    assert (back.losses, back.retries, back.queued_at) == (0, 0, job.queued_at)
    assert world.started() == [job.id]
    assert world[job].run.attempt == 2


def test_a_cancelled_attempt_makes_the_job_cancelled_by_the_one_who_asked() -> None:
    world = World()
    job = started(world)
    world.cancel(job, reason="enough")
    changes = []
    world.watchers.append(changes.append)
    world.end(job, "agent_error", first=False, signal=15)
    assert world[job].status is Status.CANCELLED
    assert changes[0].event.actor == "user:1000"
    assert changes[0].event.detail["reason"] == "enough"
    assert changes[0].attempt.failure == "cancelled"


def test_a_result_that_was_in_first_wins_over_a_cancel_and_a_stop() -> None:
    for ask in (lambda world, job: world.cancel(job), lambda world, job: world.hold(job, stop=True)):
        world = World()
        job = started(world)
        ask(world, job)
        assert world.end(job, result={"summary": "made it"}, first=True).status is Status.COMPLETED
        assert world.outcomes[job.id].error is None


def test_an_exit_without_error_after_the_signal_is_no_success() -> None:
    world = World()
    job = started(world)
    world.cancel(job)
    assert world.end(job, first=False, exit_code=0).status is Status.CANCELLED


def test_a_cancelled_attempt_that_is_lost_is_cancelled_all_the_same() -> None:
    world = World()
    job = started(world)
    world.cancel(job)
    assert world.end(job, "lost", first=False).status is Status.CANCELLED


def test_stop_holds_the_job_at_no_cost() -> None:
    world = World()
    job = started(world)
    world.hold(job, stop=True)
    assert world[job].status is Status.CANCELLING
    held = world.end(job, "agent_error", first=False)
    assert held.status is Status.HELD
    assert (held.retries, held.losses, held.queued_at) == (0, 0, None)
    world.now += HOUR
    assert world.release(job).queued_at == world.now
    assert world.started() == [job.id]


def test_a_timeout_is_judged_by_the_retry_policy() -> None:
    world = World()
    job = started(world, timeout=MINUTE)
    world.tick(MINUTE)
    waiting = world.end(job, "agent_error", first=False, signal=15)
    assert waiting.status is Status.RETRYING
    assert world.outcomes[job.id].error["class"] == "timeout"
    assert "60 s" in world.outcomes[job.id].error["message"]


def test_a_cancel_after_a_timeout_is_a_cancel_and_does_not_grant_more_time() -> None:
    world = World(grace=5 * SECOND)
    job = started(world, timeout=MINUTE)
    world.tick(MINUTE)
    kill_at = world[job].run.kill_at
    world.now += SECOND
    world.cancel(job, grace=HOUR)
    assert world[job].run.kill_at == kill_at
    assert world.end(job, "agent_error", first=False).status is Status.CANCELLED


def test_the_end_of_another_attempt_changes_nothing() -> None:
    world = World()
    job = started(world)
    world.end(job, "lost")
    world.started()
    before = world[job]
    assert world.end(job, attempt=1) is before
    assert world.end(job, attempt=3) is before
    assert world[job] is before
    world.end(job)
    assert world.end(world[job], attempt=2).status is Status.COMPLETED


def test_the_end_of_an_attempt_frees_its_dependents() -> None:
    world = World()
    job = started(world)
    after = world.submit(depends=(depends(job.id),))
    mourns = world.submit(depends=(depends(job.id, "failure"),))
    world.end(job)
    assert world[after].status is Status.QUEUED
    assert world[mourns].status is Status.CANCELLED


def test_usage_and_session_are_kept_in_the_row_of_the_attempt() -> None:
    world = World()
    job = started(world)
    changes = []
    world.watchers.append(changes.append)
    world.end(job, "agent_error", session_id="s1", usage={"input_tokens": 3})
    assert changes[0].attempt.session_id == "s1"
    assert changes[0].attempt.usage == {"input_tokens": 3}
    assert isinstance(changes[0].outcome, Outcome)


def test_an_attempt_that_is_ended_because_the_daemon_stops_costs_nothing_and_keeps_its_place() -> None:
    world = World()
    job = started(world)
    world.decide(lambda decision: attempts.put_back(decision, world[job], 5 * SECOND))
    ending = world[job]
    assert ending.status is Status.RUNNING
    assert ending.run.kill_at == world.now + 5 * SECOND
    assert world.decide(lambda decision: attempts.put_back(decision, world[job], 0)) is ending
    back = world.end(job, "agent_error", first=False, signal=15)
    assert back.status is Status.QUEUED
    assert (back.retries, back.losses, back.queued_at) == (0, 0, job.queued_at)


def test_a_result_that_was_in_before_the_daemon_stopped_counts() -> None:
    world = World()
    job = started(world)
    world.decide(lambda decision: attempts.put_back(decision, world[job], 5 * SECOND))
    assert world.end(job, first=True).status is Status.COMPLETED


def test_a_failed_attempt_keeps_what_it_brought_and_one_that_brought_nothing_keeps_what_was_there() -> None:
    world = World()
    job = started(world, retry=PRESETS["fast"])
    first, empty = {"summary": "oh no", "data": None}, {"summary": "", "data": None}
    world.end(job, "agent_error", result=first)
    assert world.outcomes[job.id].result == first
    world.started()
    world.end(job, "lost", result=empty)
    assert world.outcomes[job.id].result == first
    world.started()
    second = {"summary": "", "data": [1]}
    world.end(job, "agent_error", result=second)
    assert world.outcomes[job.id].result == second
    world.started()
    world.end(job, result=empty)
    assert world.outcomes[job.id].result == empty
