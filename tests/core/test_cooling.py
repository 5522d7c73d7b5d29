"""A provider's "not now": the agent closes, one job goes first, no retry is spent, and a restart changes nothing."""

import pytest

from opusd.core import attempts, cooling, explain
from opusd.core.errors import Conflict
from opusd.core.job import Job, Tier
from opusd.core.lifecycle import Status
from opusd.core.limits import Agent
from opusd.core.retry import FailureClass
from tests.core.world import HOUR, MINUTE, SECOND, START, World

DAY = 24 * HOUR


def started(world: World, later: int = 0) -> list[int]:
    return [job.id for job in world.tick(later).start]


def limited(world: World, job: Job | int, until: int | None = None) -> Job:
    return world.end(job, "rate_limited", limited_until=until)


def two_running() -> tuple[World, Job, Job, Job]:
    """Jobs 1 and 2 of claude run, 3 is queued."""
    world = World()
    one, two, three = (world.submit(f"job {number}") for number in (1, 2, 3))
    assert started(world) == [one.id, two.id]
    return world, one, two, three


def test_a_limited_job_is_put_back_where_it_stood_and_spends_no_retry() -> None:
    world, one, _, _ = two_running()
    back = limited(world, one, START + HOUR)
    assert (back.status, back.queued_at, back.retries) == (Status.QUEUED, one.queued_at, 0)
    assert back.extra is not None
    assert back.extra.limits == 1


def test_nothing_of_the_agent_starts_before_the_reset_that_its_output_named() -> None:
    world, one, _, three = two_running()
    limited(world, one, START + HOUR)
    assert started(world) == []
    assert world.tick().wake_at == START + HOUR
    assert started(world, HOUR - 1) == []
    reason = explain.reason(world.state, world[three], world.now)
    assert reason is not None
    assert "cools down" in reason
    assert started(world, 1) == [one.id]


def test_after_the_reset_one_job_goes_first_and_the_others_when_it_ended_well() -> None:
    world, one, two, three = two_running()
    limited(world, one, START + HOUR)
    limited(world, two, START + HOUR)
    assert started(world, HOUR) == [one.id]
    world.end(one)
    assert started(world) == [two.id, three.id]


def test_the_others_go_when_the_probe_has_run_a_minute() -> None:
    world, one, two, _ = two_running()
    limited(world, one, START + HOUR)
    limited(world, two)
    assert started(world, HOUR) == [one.id]
    assert started(world, MINUTE - 1) == []
    assert started(world, 1) == [two.id]


def test_a_clock_set_back_behind_the_reset_does_not_hide_when_the_probe_has_run_a_minute() -> None:
    world, one, two, _ = two_running()
    limited(world, one, START + HOUR)
    limited(world, two)
    assert started(world, HOUR) == [one.id]
    world.jump(-20 * MINUTE)
    assert world.tick().wake_at == world.now + MINUTE
    assert started(world, MINUTE) == [two.id]


def test_a_probe_that_ran_its_minute_while_nobody_looked_lets_the_others_go_however_it_ended() -> None:
    """No daemon ran meanwhile: its end is told before the first turn of the next one."""
    world, one, two, _ = two_running()
    limited(world, one)
    limited(world, two)
    assert started(world, MINUTE) == [one.id]
    world.restart()
    world.now += MINUTE
    world.end(one, "agent_error")
    assert "claude" not in world.state.cooling


def test_a_probe_that_is_limited_closes_the_agent_for_twice_as_long() -> None:
    world, one, _, _ = two_running()
    limited(world, one)
    assert world.state.cooling["claude"].until == world.now + MINUTE
    assert started(world, MINUTE) == [one.id]
    limited(world, one)
    assert world.state.cooling["claude"].until == world.now + 2 * MINUTE


def test_the_wait_doubles_up_to_an_hour() -> None:
    world, one, two, three = two_running()
    world.cancel(three)
    world.end(two)
    waits = []
    for _ in range(9):
        limited(world, one)
        waits.append(world.state.cooling["claude"].until - world.now)
        assert started(world, waits[-1]) == [one.id]
    assert waits == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE, 16 * MINUTE, 32 * MINUTE, HOUR, HOUR, HOUR]


@pytest.mark.parametrize("named", [START - 1, START + 9 * DAY])
def test_a_reset_that_is_over_or_more_than_eight_days_away_is_not_believed(named: int) -> None:
    world, one, _, _ = two_running()
    limited(world, one, named)
    assert world.state.cooling["claude"].until == START + MINUTE


def test_twenty_limits_in_a_row_fail_the_job() -> None:
    world, one, two, three = two_running()
    world.cancel(three)
    world.end(two)
    for _ in range(cooling.MAX_LIMITS - 1):
        assert limited(world, one).status is Status.QUEUED
        assert started(world, HOUR) == [one.id]
    last = limited(world, one)
    assert last.status is Status.FAILED
    assert world.outcomes[one.id].error is not None
    assert world.outcomes[one.id].error["class"] == "rate_limited"


def test_a_failure_of_another_kind_between_begins_the_count_anew() -> None:
    world, one, _, _ = two_running()
    limited(world, one)
    assert started(world, HOUR) == [one.id]
    again = world.end(one, "agent_error")
    assert again.status is Status.RETRYING
    assert again.extra is None or again.extra.limits == 0


def test_a_person_ends_a_cool_down() -> None:
    world, one, _, three = two_running()
    limited(world, one, START + DAY)
    world.resume("agent:claude")
    assert world.state.cooling == {}
    assert started(world) == [one.id]
    assert world[three].status is Status.QUEUED


def test_a_cool_down_and_its_probe_survive_a_restart() -> None:
    world, one, two, _ = two_running()
    limited(world, one, START + HOUR)
    limited(world, two)
    world.restart()
    assert started(world, HOUR - 1) == []
    assert started(world, 1) == [one.id]
    world.restart()
    assert started(world, MINUTE - 1) == []
    assert started(world, 1) == [two.id]


def test_a_commit_that_fails_takes_the_cool_down_back() -> None:
    world, one, _, _ = two_running()
    world.autocommit = False
    limited(world, one, START + HOUR)
    assert "claude" in world.state.cooling
    world.fail()
    assert world.state.cooling == {}


def test_other_agents_go_on() -> None:
    world, one, _, _ = two_running()
    limited(world, one, START + HOUR)
    other = world.submit(command=["true"])
    assert started(world) == [other.id]


def test_without_auto_resume_a_person_lets_the_job_go_on() -> None:
    agents = {"claude": Agent("claude", slots=1, auto_resume=False)}
    world = World(agents=agents)
    one = world.submit()
    started(world)
    assert limited(world, one).status is Status.HELD
    world.release(one)
    assert started(world, HOUR) == [one.id]


def test_starts_per_minute_spreads_the_launches() -> None:
    world = World(agents={"claude": Agent("claude", slots=3, starts_per_minute=6)})
    one, two, _ = (world.submit(f"job {number}") for number in (1, 2, 3))
    plan = world.tick()
    assert [job.id for job in plan.start] == [one.id]
    assert plan.wake_at == START + 10 * SECOND
    assert started(world, 10 * SECOND - 1) == []
    assert started(world, 1) == [two.id]


def test_an_agent_that_asks_frees_its_slot_and_goes_on_first_with_the_answer() -> None:
    world = World(agents={"claude": Agent("claude", slots=1)})
    one, two = world.submit("one"), world.submit("two", tier=Tier.URGENT)
    assert started(world) == [two.id]
    waiting = world.end(two, question=("Which database?", ("SQLite", "PostgreSQL")))
    assert waiting.status is Status.NEEDS_INPUT
    assert started(world) == [one.id]
    urgent = world.submit("three", tier=Tier.URGENT, boost=49)
    question = waiting.extra.question if waiting.extra else None
    assert question is not None
    with pytest.raises(Conflict, match="asks question 1, not 2"):
        world.answer(two, 2, "SQLite")
    answered = world.answer(two, 1, "SQLite")
    assert (answered.status, answered.queued_at) == (Status.QUEUED, two.queued_at)
    world.end(one)
    assert started(world) == [two.id]
    assert world[two].run is not None
    assert world[two].run.answered
    world.end(two, "lost")
    assert started(world) == [urgent.id], "it was critical until its next attempt started, and no longer"


def test_a_question_that_nobody_answers_expires() -> None:
    world = World(agents={"claude": Agent("claude", slots=1)}, answer_in=HOUR)
    one = world.submit()
    started(world)
    world.end(one, question=("Which one?", ()))
    world.tick(HOUR - 1)
    assert world[one].status is Status.NEEDS_INPUT
    world.tick(1)
    assert world[one].status is Status.EXPIRED


def chained(**fields: object) -> World:
    agents = {
        "claude": Agent("claude", slots=1, escalate_to="codex", **fields),  # type: ignore[arg-type]
        "codex": Agent("codex", slots=1),
    }
    return World(agents=agents)


def test_the_second_failed_attempt_escalates_in_the_old_jobs_place() -> None:
    world = chained(escalate_after=2)
    one = world.submit(tier=Tier.URGENT, boost=7, group="night", labels=["for:ana"])
    waiting = world.submit("after", depends=((one.id, *world.on_success),))
    started(world)
    assert world.end(one, "agent_error").status is Status.RETRYING
    started(world, HOUR)
    old = world.end(one, "agent_error", message="boom", output_tail="it broke")
    assert old.status is Status.FAILED
    assert old.extra is not None
    link = world[old.extra.escalated_to or 0]
    assert (link.status, link.terms.agent, link.queued_at) == (Status.QUEUED, "codex", one.queued_at)
    assert (link.terms.tier, link.terms.boost, link.terms.group) == (Tier.URGENT, 7, "night")
    assert world.specs[link.id].labels == ["for:ana"]
    assert world.specs[link.id].previous == [
        {"agent": "claude", "class": "agent_error", "message": "boom", "output_tail": "it broke"}
    ]
    assert world[waiting].status is Status.BLOCKED
    started(world)
    world.end(link)
    assert world[waiting].status is Status.QUEUED


def test_a_class_that_is_never_retried_escalates_at_once() -> None:
    world = chained(escalate_after=5)
    one = world.submit()
    started(world)
    assert world.end(one, "auth").escalated


def test_no_retry_left_escalates_earlier() -> None:
    world = chained(escalate_after=5)
    one = world.submit(max_retries=0)
    started(world)
    assert world.end(one, "agent_error").escalated


@pytest.mark.parametrize("ending", ["timeout", "stall"])
def test_an_attempt_that_the_daemon_ended_for_its_time_counts_as_a_failed_one(ending: str) -> None:
    world = chained(escalate_after=2)
    one = world.submit(timeout=HOUR)
    for _ in range(2):
        started(world, 10 * SECOND)
        if ending == "timeout":
            world.tick(HOUR)
        else:
            world.decide(lambda decision: attempts.stall(decision, world[one], SECOND))
        world.end(one, "agent_error", first=False)
    assert world[one].escalated
    assert world.specs[2].previous[0]["class"] == {"timeout": "timeout", "stall": "stalled"}[ending]


def test_a_link_does_not_expire_for_the_first_attempt_has_been() -> None:
    """It stands where the old job stood, and so would often have expired before it began."""
    world = chained()
    one = world.submit(expires_in=HOUR)
    started(world)
    world.tick(2 * HOUR)
    world.end(one, "auth")
    assert started(world) == [2]


@pytest.mark.parametrize("free", ["rate_limited", "lost"])
def test_what_costs_no_retry_brings_no_escalation_nearer(free: str) -> None:
    world = chained(escalate_after=2)
    one = world.submit()
    started(world)
    world.end(one, free)
    started(world, HOUR)
    assert world.end(one, "agent_error").status is Status.RETRYING
    started(world, HOUR)
    assert world.end(one, "agent_error").escalated


def test_a_rate_limit_goes_to_the_other_agent_at_once_where_escalate_on_says_so() -> None:
    world = chained(escalate_on=(FailureClass.RATE_LIMITED,))
    one = world.submit()
    started(world)
    assert limited(world, one, START + HOUR).escalated
    assert world.state.cooling["claude"].until == START + HOUR
    assert started(world) == [2]


def test_an_escalated_job_is_neither_retried_nor_cancelled() -> None:
    world = chained(escalate_after=1)
    one = world.submit()
    started(world)
    world.end(one, "agent_error")
    for verb in (world.retry, world.cancel):
        with pytest.raises(Conflict, match="job 2 carries on"):
            verb(one)


def test_an_agent_that_asks_while_it_runs_is_ended_and_then_needs_input() -> None:
    world = World(agents={"claude": Agent("claude", slots=1)}, answer_in=HOUR)
    one = world.submit()
    started(world)
    asking = world.decide(lambda decision: attempts.ask(decision, world[one], "Which one?", ("a", "b"), SECOND))
    assert asking.status is Status.RUNNING, "its slot is taken until no process of it is left"
    waiting = world.end(one, "agent_error", first=False)
    assert (waiting.status, waiting.retries) == (Status.NEEDS_INPUT, 0)
    reason = explain.reason(world.state, waiting, world.now)
    assert reason is not None
    assert "Which one?" in reason
    assert world.answer(one, 1, "a").status is Status.QUEUED


def test_a_stalled_attempt_is_ended_and_tried_again() -> None:
    world = World(agents={"claude": Agent("claude", slots=1)})
    one = world.submit()
    started(world)
    world.decide(lambda decision: attempts.stall(decision, world[one], SECOND))
    again = world.end(one, "agent_error", first=False)
    assert (again.status, again.retries) == (Status.RETRYING, 1)
    assert (world.outcomes[one.id].error or {})["class"] == "stalled"


def test_an_attempt_that_waits_for_its_limit_by_itself_holds_the_others_back_like_a_probe() -> None:
    world = World()
    job, other, third = (world.submit(agent="claude") for _ in range(3))
    assert world.started() == [job.id, other.id]
    world.decide(lambda decision: cooling.met(decision, world[job], None))
    world.end(other)
    assert world.started() == []
    assert f"job {job.id} goes first" in explain.reason(world.state, world[third], world.now)
    world.end(job)  # it got over it
    assert world.started() == [third.id]


def test_each_time_that_it_meets_the_limit_again_the_others_wait_a_minute_more() -> None:
    world = World()
    job = world.submit(agent="claude")
    world.tick()
    world.decide(lambda decision: cooling.met(decision, world[job], None))
    waiting = world.submit(agent="claude")
    world.tick(50 * SECOND)
    world.decide(lambda decision: cooling.met(decision, world[job], None))
    assert world.started(50 * SECOND) == []
    assert world.started(10 * SECOND) == [waiting.id]


def test_a_reset_that_it_names_closes_the_agent_until_then() -> None:
    world = World()
    job = world.submit(agent="claude")
    world.tick()
    world.decide(lambda decision: cooling.met(decision, world[job], world.now + HOUR))
    waiting = world.submit(agent="claude")
    assert cooling.closed_until(world.state, "claude", world.now) == world.now + HOUR
    assert world.started(HOUR - 1) == []
    assert world.started(1) == [waiting.id]


def test_a_limit_that_it_does_not_get_over_cools_the_agent_down_for_the_first_time() -> None:
    world = World()
    job = world.submit(agent="claude")
    world.tick()
    world.decide(lambda decision: cooling.met(decision, world[job], None))
    world.end(job, "rate_limited")
    assert world.state.cooling["claude"].strikes == 1
    assert cooling.closed_until(world.state, "claude", world.now) == world.now + MINUTE
    world.restart()
    assert world.started(MINUTE) == [job.id]
