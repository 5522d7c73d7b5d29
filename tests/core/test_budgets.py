"""Budgets of tokens and dollars, a job and a day: told of at 80 %, asked about at 100 %."""

from typing import Any

import msgspec
import pytest

from opusd.core import budgets, explain, scheduler
from opusd.core.budgets import Used
from opusd.core.job import Ending, Job
from opusd.core.lifecycle import Status
from opusd.core.limits import Agent, Budget
from opusd.core.retry import PRESETS
from tests.core.world import AGENTS, HOUR, SECOND, START, World

DAY = 24 * HOUR


class Utc(msgspec.Struct, frozen=True):
    def end(self, now: int) -> int:
        return now - now % DAY + DAY


MIDNIGHT = Utc().end(START)


def agents(**budget: Any) -> dict[str, Agent]:
    return {**AGENTS, "claude": Agent("claude", slots=5, budget=Budget(**budget, days=Utc()))}


def world(**budget: Any) -> World:
    return World(agents=agents(**budget), max_concurrent=10)


def running(found: World) -> Job:
    job = found.submit(agent="claude")
    found.tick()
    return found[job]


def tokens(count: int) -> dict[str, Any]:
    return {"input_tokens": count - count // 3, "output_tokens": count // 3, "cached_tokens": 10**9, "cost_usd": None}


def use(found: World, job: Job, usage: dict[str, Any]) -> Job | None:
    return found.decide(lambda decision: budgets.use(decision, found[job], usage), "scheduler")


def told(found: World) -> list[dict[str, Any]]:
    """What the audit trail says of budgets; needs autocommit off."""
    rows = [change.event for decision in found.open for change in decision.changes]
    details = [row.detail for row in rows if row is not None and row.detail is not None]
    return [detail for detail in details if "limit" in detail]


def test_at_80_percent_an_event_says_so_once() -> None:
    found = world(job_tokens=1000)
    found.autocommit = False
    job = running(found)
    use(found, job, tokens(799))
    assert told(found) == []
    use(found, job, tokens(800))
    use(found, job, tokens(850))
    assert told(found) == [{"budget": "job_tokens", "used": 800, "limit": 1000}]


def test_at_100_percent_the_attempt_is_ended_and_a_person_is_asked() -> None:
    found = world(job_tokens=1000)
    job = running(found)
    ended = use(found, job, tokens(1200))
    assert ended is not None
    assert ended.run is not None
    assert (ended.run.ending, ended.run.ending_by, ended.status) == (Ending.ASK, "scheduler", Status.RUNNING)
    assert use(found, job, tokens(1300)) is None
    done = found.end(job, "agent_error", usage=tokens(1300), first=False)
    assert done.status is Status.NEEDS_INPUT
    question = done.extra.question  # type: ignore[union-attr]
    assert question is not None
    assert question.options == ("continue", "stop")
    assert question.text == (
        "budget job_tokens: this job has used 1,200 tokens of 1,000 tokens. Continue with as much again, or stop?"
    )


def test_answered_it_goes_on_with_as_much_again_and_is_told_of_80_percent_again() -> None:
    found = world(job_tokens=1000)
    job = running(found)
    use(found, job, tokens(1000))
    found.end(job, "agent_error", usage=tokens(1000), first=False)
    found.answer(job, 1, "continue")
    found.tick()
    found.autocommit = False
    assert use(found, job, tokens(599)) is None
    assert told(found) == []
    assert use(found, job, tokens(600)) is None
    assert told(found) == [{"budget": "job_tokens", "used": 1600, "limit": 2000}]
    assert use(found, job, tokens(999)) is None
    assert use(found, job, tokens(1000)) is not None


def test_answered_with_stop_it_is_cancelled() -> None:
    found = world(job_tokens=1000)
    job = running(found)
    use(found, job, tokens(1000))
    found.end(job, "agent_error", usage=tokens(1000), first=False)
    waiting = found.submit(depends=((job.id, *World.on_success),))
    found.autocommit = False
    done = found.answer(job, 1, " Stop ")
    assert (done.status, done.extra.question) == (Status.CANCELLED, None)  # type: ignore[union-attr]
    assert found.open[0].changes[0].event.detail == {"question": 1, "reason": "stopped at its job_tokens"}  # type: ignore[union-attr]
    assert found[waiting].edges[0].state.value == "unmet"


@pytest.mark.parametrize("first", [True, False])
def test_a_result_that_was_in_before_its_attempt_was_ended_is_kept(first: bool) -> None:
    found = world(job_tokens=1000)
    job = running(found)
    use(found, job, tokens(1000))
    done = found.end(job, usage=tokens(1000), first=first, result={"summary": "done", "data": None})
    assert done.status is Status.COMPLETED
    assert done.extra.question is None  # type: ignore[union-attr]


def test_dollars_are_counted_like_tokens() -> None:
    found = world(job_cost_usd=0.5, job_tokens=10**6)
    job = running(found)
    assert use(found, job, {"cost_usd": 0.49, "input_tokens": 5}) is None
    asked = use(found, job, {"cost_usd": 0.5, "input_tokens": 5})
    assert asked is not None
    assert "budget job_cost_usd: this job has used 0.50 USD of 0.50 USD" in asked.extra.question.text  # type: ignore[union-attr]


def test_what_earlier_attempts_used_counts_and_no_next_one_begins_past_the_budget() -> None:
    found = world(job_tokens=1000)
    job = running(found)
    found.end(job, "agent_error", usage=tokens(600))
    assert found.started(HOUR) == [job.id]
    done = found.end(job, "agent_error", usage=tokens(400))
    assert done.status is Status.NEEDS_INPUT
    assert done.extra.question.budget == "job_tokens"  # type: ignore[union-attr]


def test_a_failed_attempt_that_is_not_tried_again_is_no_question() -> None:
    found = world(job_tokens=1000)
    job = found.submit(agent="claude", max_retries=0)
    found.tick()
    assert found.end(job, "auth", usage=tokens(2000)).status is Status.FAILED


def test_the_days_budget_ends_all_attempts_of_the_agent_and_nothing_starts_before_midnight() -> None:
    found = world(day_tokens=1000)
    first, second, other = running(found), running(found), found.submit(agent="codex")
    found.tick()
    assert use(found, first, tokens(400)) is None
    assert use(found, second, tokens(700)) is None
    plan = found.tick()
    assert [job.id for job in plan.stop] == [first.id, second.id]
    assert plan.wake_at == MIDNIGHT
    assert found[other].run.ending is None  # type: ignore[union-attr]
    for job in (first, second):
        assert found.end(job, "agent_error", first=False).status is Status.NEEDS_INPUT
    waiting = found.submit(agent="claude")
    assert found.started() == []
    words = "agent claude has used 1,100 tokens today and its day_tokens is 1,000 tokens"
    assert explain.constraints(found.state, found[waiting], found.now) == [
        explain.Constraint("budget", words, MIDNIGHT)
    ]
    question = found[first].extra.question  # type: ignore[union-attr]
    assert question is not None
    assert question.text == f"budget day_tokens: {words}. Continue after midnight, or stop?"
    found.answer(first, 1, "continue")
    assert found.started() == []
    assert not scheduler.is_open(found.state, "claude", found.now, interactive=True)
    assert found.started(MIDNIGHT - found.now) == [first.id, waiting.id]


def test_a_total_that_is_told_again_counts_once_and_midnight_begins_anew() -> None:
    found = world(day_tokens=1000)
    job = running(found)
    for count in (300, 300, 500, 400):
        use(found, job, tokens(count))
    assert found.state.days["claude"].used == Used(500, 0.0)
    found.now = MIDNIGHT
    use(found, job, tokens(600))
    assert found.state.days["claude"].used == Used(100, 0.0)
    assert found.state.days["claude"].until == MIDNIGHT + DAY
    found.end(job, usage=tokens(650))
    assert found.state.days["claude"].used == Used(150, 0.0)
    assert found.state.days["claude"].seen == {}


def test_80_percent_of_a_day_is_told_of_once_a_day() -> None:
    found = world(day_cost_usd=10.0)
    found.autocommit = False
    first, second = running(found), running(found)
    use(found, first, {"cost_usd": 7.0})
    use(found, second, {"cost_usd": 1.5})
    use(found, first, {"cost_usd": 7.5})
    assert told(found) == [{"budget": "day_cost_usd", "used": 8.5, "limit": 10.0, "agent": "claude"}]


def test_what_a_day_used_survives_a_restart_and_is_undone_with_its_decision() -> None:
    found = world(day_tokens=1000)
    job = running(found)
    use(found, job, tokens(900))
    found.restart()
    assert found.state.days["claude"].used == Used(900, 0.0)
    use(found, job, tokens(900))
    found.autocommit = False
    use(found, job, tokens(1200))
    assert budgets.exhausted(found.state, "claude", found.now) == "day_tokens"
    found.fail()
    assert found.state.days["claude"].used == Used(900, 0.0)
    assert found.tick().stop == []


def test_a_limit_that_is_raised_lets_the_agent_go_on() -> None:
    found = world(day_tokens=1000)
    job = running(found)
    found.end(job, usage=tokens(1000))
    more = found.submit(agent="claude")
    assert found.started() == []
    roomy = World(agents=agents(day_tokens=2000), max_concurrent=10).limits
    found.state.relimit(roomy)
    assert found.started() == [more.id]


def test_an_agent_without_a_budget_is_not_counted() -> None:
    found = World(agents={**AGENTS, "claude": Agent("claude", retry=PRESETS["none"])})
    job = running(found)
    assert use(found, job, tokens(10**9)) is None
    assert found.end(job, usage=tokens(10**9)).extra is None
    assert found.state.days == {}


def test_an_attempt_that_is_being_ended_already_is_not_asked_about() -> None:
    found = world(job_tokens=1000)
    job = running(found)
    found.cancel(job)
    assert use(found, job, tokens(5000)) is None
    assert found.end(job, "agent_error", first=False).status is Status.CANCELLED
    timed = found.submit(agent="claude", timeout=SECOND)
    found.tick()
    found.tick(2 * SECOND)
    assert use(found, timed, tokens(5000)) is None


@pytest.mark.parametrize(("failure", "counter"), [("agent_error", "retries"), ("lost", "losses")])
def test_an_attempt_after_which_a_budget_asks_is_counted_all_the_same(failure: str, counter: str) -> None:
    """Else a job could fail for ever, as often as a person lets it go on."""
    found = world(job_tokens=1000)
    job = running(found)
    for number in (1, 2, 3):
        done = found.end(job, failure, usage=tokens(1200))
        assert getattr(done, counter) == number
        if done.final:
            break
        assert (done.status, done.due_at) == (Status.NEEDS_INPUT, None)
        assert done.extra is not None
        assert done.extra.question is not None
        found.answer(job, done.extra.question.id, "continue")
        found.tick()
