"""Why a job is where it is, in words and as data."""

import pytest

from opusd.core import explain
from opusd.core.explain import Constraint, constraints, estimated_wait
from opusd.core.job import Job, Tier
from opusd.core.limits import Agent, Quota
from opusd.core.times import to_rfc3339
from tests.core.world import HOUR, MINUTE, SECOND, World, depends


def why(world: World, job: Job) -> list[Constraint]:
    return constraints(world.state, world[job], world.now)


def reason(world: World, job: Job) -> str | None:
    return explain.reason(world.state, world[job], world.now)


def test_a_job_that_may_start_says_so_and_has_no_constraints() -> None:
    world = World()
    job = world.submit()
    assert why(world, job) == []
    assert reason(world, job) == "starts at the next turn"


def test_a_running_or_finished_job_has_no_reason() -> None:
    world = World()
    job = world.submit()
    world.started()
    assert reason(world, job) is None
    assert why(world, job) == []
    world.end(job)
    assert reason(world, job) is None


def test_an_expired_job_says_what_nobody_did_until_when() -> None:
    world = World(agents={"claude": Agent("claude", slots=1)}, answer_in=HOUR)
    asked = world.submit(expires_in=MINUTE)
    world.started()
    world.end(asked, question=("Which database?", ("a", "b")))
    until = world.now + HOUR
    queued_at = world.now
    world.pause("*")
    late = world.submit(expires_in=90 * MINUTE)
    world.tick(HOUR)
    world.tick(HOUR)
    assert why(world, asked) == [
        Constraint("expired", f"nobody answered its question by {to_rfc3339(until)}: Which database?")
    ]
    assert why(world, late) == [
        Constraint(
            "expired", f"no attempt had begun within 1h30m of being ready at {to_rfc3339(queued_at)} (expires_in)"
        )
    ]


def test_held_scheduled_and_backing_off_jobs_say_until_when() -> None:
    world = World()
    held = world.submit(held=True)
    later = world.submit(run_at=world.now + HOUR)
    tried = world.submit(agent="claude")
    world.started()
    world.end(tried, "agent_error")
    assert why(world, held) == [Constraint("held", "held until somebody releases it")]
    assert why(world, later) == [
        Constraint("scheduled", f"not before {to_rfc3339(world.now + HOUR)}", world.now + HOUR)
    ]
    assert why(world, tried) == [Constraint("backoff", "waits for retry 1 of 3", world.now + SECOND)]


def test_a_blocked_job_names_each_job_it_waits_for_and_the_unmet_first() -> None:
    world = World()
    failed = world.submit(agent="claude", max_retries=0)
    world.started()
    world.end(failed, "auth")
    pending = world.submit()
    job = world.submit(depends=(depends(pending.id, "any"), depends(failed.id)))
    assert [(one.kind, one.detail) for one in why(world, job)] == [
        ("dependency_unmet", f"job {failed.id} had to complete and did not: retry it, or cancel this job"),
        ("dependency", f"waits for job {pending.id}, which is queued, to end"),
    ]


@pytest.mark.parametrize(
    ("how", "words"), [("cancel", ", then the job is cancelled"), ("stop", ", then the job is held")]
)
def test_an_attempt_that_is_being_ended_says_why_and_until_when(how: str, words: str) -> None:
    world = World()
    job = world.submit()
    world.started()
    world.cancel(job) if how == "cancel" else world.hold(job, stop=True)
    (found,) = why(world, job)
    assert found == Constraint("cancelling", f"attempt 1 is being ended{words}", world.now + 10 * SECOND)
    assert reason(world, job) == found.detail


def test_a_timed_out_attempt_that_still_runs_is_explained_too() -> None:
    world = World()
    job = world.submit(timeout=MINUTE)
    world.started()
    world.tick(MINUTE)
    assert "timed out" in why(world, job)[0].detail


def test_pauses_are_named() -> None:
    world = World()
    job = world.submit(agent="claude", group="g")
    for name in ("*", "agent:claude", "group:g"):
        world.pause(name)
    assert [one.detail for one in why(world, job)] == [
        "the queue is paused", "agent claude is paused", "group g is paused",
    ]  # fmt: skip
    assert reason(world, job) == "the queue is paused; agent claude is paused; group g is paused"


def test_full_slots_are_named_with_how_many_go_before() -> None:
    world = World(max_concurrent=1)
    for _ in range(3):
        world.submit(agent="codex")
    world.started()
    job = world.submit(agent="codex")
    other = world.submit(agent="claude")
    assert reason(world, job) == (
        "all 1 slots of agent codex are busy; all 1 slots of the pool are busy; 2 jobs go before it"
    )
    assert reason(world, other) == "all 1 slots of the pool are busy; 3 jobs go before it"


def test_a_human_who_may_start_above_the_pool_is_not_said_to_wait() -> None:
    world = World(max_concurrent=1)
    world.submit(agent="codex")
    world.started()
    human = world.submit(agent="codex", interactive=True)
    assert why(world, human) == []
    world.started()
    second = world.submit(agent="codex", interactive=True)
    assert [one.kind for one in why(world, second)] == ["slots", "pool"]


def test_needs_and_groups_name_who_holds_them() -> None:
    world = World(groups={"g": Quota(max_running=1)}, capacities={"gpu": 2})
    first = world.submit(agent="claude", group="g", needs={"gpu": 1})
    world.started()
    job = world.submit(agent="claude", group="g", needs={"gpu": 2})
    assert [one.detail for one in why(world, job)] == [
        "group g has its 1 jobs running (groups.g.max_running)",
        f"needs 2 of gpu, 1 free: held by job {first.id}",
    ]


def test_a_job_behind_a_reservation_names_the_one_that_reserved() -> None:
    world = World(capacities={"gpu": 2})
    world.submit(command=["ls"], needs={"gpu": 1})
    world.started()
    both = world.submit(command=["ls"], needs={"gpu": 2})
    world.tick()
    world.tick(11 * MINUTE)
    behind = world.submit(command=["ls"], needs={"gpu": 1})
    assert [one.kind for one in why(world, behind)] == ["reserved", "order"]
    assert f"gpu is reserved for job {both.id}" in reason(world, behind)


def test_jobs_for_workers_and_for_agents_that_are_gone_say_so() -> None:
    world = World()
    job = world.submit(None)
    assert why(world, job)[0].kind == "worker"
    del world.state.slots["pull"]
    assert "not configured any more" in reason(world, job)


def test_what_is_resized_to_0_says_so_and_not_that_workers_would_claim_it() -> None:
    world = World()
    world.resize(0, "codex")
    job = world.submit(agent="codex")
    assert why(world, job) == [
        Constraint("slots", "agent codex is resized to 0 slots: `opusctl resize N --agent codex` gives it some")
    ]
    world.resize(0)
    other = world.submit(agent="claude")
    assert why(world, other)[0] == Constraint(
        "pool", "the pool is resized to 0 slots: `opusctl resize N` gives it some"
    )


def test_a_drain_is_named() -> None:
    world = World()
    job = world.submit()
    world.state.draining = True
    assert why(world, job)[0].kind == "draining"


def test_critical_jobs_are_ahead_of_everybody() -> None:
    world = World(max_concurrent=0)
    job = world.submit(tier=Tier.URGENT)
    world.submit(agent="codex", tier=Tier.CRITICAL)
    assert "1 job goes before it" in reason(world, job)


def test_the_estimate_counts_rounds_of_the_median() -> None:
    world = World(max_concurrent=2)
    assert estimated_wait(world.state, "claude", 0, None) == 0
    assert estimated_wait(world.state, "claude", 1, MINUTE) == 0
    assert estimated_wait(world.state, "claude", 2, MINUTE) == MINUTE
    assert estimated_wait(world.state, "claude", 4, MINUTE) == 2 * MINUTE
    assert estimated_wait(world.state, "claude", 2, None) is None
    assert estimated_wait(world.state, "pull", 0, MINUTE) is None
    world.submit(agent="claude")
    world.submit(agent="claude")
    world.started()
    assert estimated_wait(world.state, "claude", 0, MINUTE) == MINUTE
    assert estimated_wait(world.state, "codex", 0, MINUTE) == MINUTE
