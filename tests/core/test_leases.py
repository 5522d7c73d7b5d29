"""Leases: who may claim what, how long it holds, and that whoever comes too late changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from opusd.core import attempts, explain, leases
from opusd.core.attempts import End
from opusd.core.errors import LeaseLost
from opusd.core.job import Job, Outcome, Tier
from opusd.core.leases import Wanted
from opusd.core.lifecycle import Status
from opusd.core.retry import FailureClass
from tests.core.world import MINUTE, SECOND, World

ANY = Wanted()


def claimed(world: World, wanted: Wanted = ANY, count: int = 1, lease: int = MINUTE) -> list[Job]:
    return world.decide(lambda decision: leases.claim(decision, "w1", wanted, count, lease, world.mint))


def holds(world: World, job: Job) -> Job:
    """What a verb of the worker begins with."""
    assert job.run is not None
    return leases.holder(world.state, job.id, job.run.token_hash, world.now)


def complete(world: World, job: Job) -> Job:
    holds(world, job)
    return world.end(job)


def test_claims_take_the_best_first_and_no_job_of_an_agent_with_slots() -> None:
    world = World()
    low, normal = world.submit(agent="pull", tier=Tier.LOW), world.submit(agent="pull")
    world.submit(agent="claude", tier=Tier.URGENT)
    assert [job.id for job in claimed(world, count=9)] == [normal.id, low.id]
    assert {job.run.worker for job in world.state.running.values() if job.run is not None} == {"w1"}
    assert world.state.pool_busy() == 0
    assert world.started() != []  # the daemon's own slots are untouched


@pytest.mark.parametrize(
    ("wanted", "fields", "fits"),
    [
        (Wanted(types=frozenset({"bug"})), {"type": "bug"}, True),
        (Wanted(types=frozenset({"bug"})), {}, False),
        (Wanted(types=frozenset({"task"})), {}, True),
        (Wanted(labels=frozenset({"a", "b"})), {"labels": ["b", "c"]}, True),
        (Wanted(labels=frozenset({"a"})), {"labels": ["b"]}, False),
        (Wanted(labels=frozenset({"a"})), {}, False),
        (Wanted(group="g"), {"group": "g"}, True),
        (Wanted(group="g"), {}, False),
        (Wanted(min_tier=Tier.URGENT), {"tier": Tier.URGENT}, True),
        (Wanted(min_tier=Tier.URGENT), {}, False),
        (Wanted(agents=("gpu",)), {}, False),
    ],
)
def test_a_claim_is_given_what_it_wants_also_after_a_restart(
    wanted: Wanted, fields: dict[str, Any], fits: bool
) -> None:
    world = World()
    world.submit(agent="pull", **fields)
    world.restart()
    assert bool(claimed(world, wanted)) is fits


def test_pauses_needs_and_groups_hold_for_claims_too() -> None:
    world = World()
    first = world.submit(agent="pull", needs={"lock": 1})
    second = world.submit(agent="pull", needs={"lock": 1})
    assert [job.id for job in claimed(world, count=9)] == [first.id]
    complete(world, world[first])
    world.pause("agent:pull")
    assert claimed(world) == []
    world.resume("agent:pull")
    world.pause("*")
    assert claimed(world) == []
    world.resume("*")
    assert [job.id for job in claimed(world)] == [second.id]


def test_a_heartbeat_renews_the_lease_without_a_row_in_the_audit_trail() -> None:
    world = World()
    world.submit(agent="pull")
    [job] = claimed(world)
    world.now += 50 * SECOND
    renewed = world.decide(lambda decision: leases.renew(decision, holds(world, job), None))
    assert renewed.run is not None
    assert (renewed.run.lease_until, renewed.version) == (world.now + MINUTE, job.version + 1)
    assert world.tick(59 * SECOND).lapsed == []
    renewed = world.decide(lambda decision: leases.renew(decision, holds(world, job), 2 * MINUTE))
    assert renewed.run is not None
    assert renewed.run.lease_until == world.now + 2 * MINUTE


def test_a_lease_that_is_over_is_a_loss_and_its_token_is_dead() -> None:
    world = World()
    world.submit(agent="pull")
    [job] = claimed(world)
    world.now += MINUTE
    with pytest.raises(LeaseLost):
        holds(world, job)  # before anybody noticed
    [lapsed] = world.tick().lapsed
    with pytest.raises(LeaseLost):
        holds(world, lapsed)
    assert world.tick().lapsed == []  # once
    world.end(job, "lost")
    assert (world[job].status, world[job].losses, world[job].queued_at) == (Status.QUEUED, 1, job.queued_at)
    [again] = claimed(world)
    with pytest.raises(LeaseLost):
        holds(world, job)
    assert complete(world, again).status is Status.COMPLETED


def test_an_attempt_that_is_being_ended_is_not_renewed_and_ends_as_was_asked() -> None:
    world = World()
    world.submit(agent="pull")
    [job] = claimed(world)
    world.cancel(job)
    kept = world.decide(lambda decision: leases.renew(decision, world[job], None))
    assert kept == world[job]
    assert world.tick(MINUTE).lapsed != []
    world.end(job, "lost")
    assert world[job].status is Status.CANCELLED


def test_a_held_job_says_by_whom_and_until_when_and_how_it_is_being_ended() -> None:
    world = World()
    job = world.submit(agent="pull")
    assert [one.kind for one in explain.constraints(world.state, world[job], world.now)] == ["worker"]
    claimed(world)
    [held] = explain.constraints(world.state, world[job], world.now)
    assert (held.kind, held.until) == ("lease", world.now + MINUTE)
    assert "worker w1 holds it until" in held.detail
    assert explain.reason(world.state, world[job], world.now) is None
    world.cancel(job)
    [ending] = explain.constraints(world.state, world[job], world.now)
    assert (ending.kind, ending.until) == ("cancelling", world.now + MINUTE)
    assert "worker w1 is told by its next heartbeat" in ending.detail
    [lapsed] = world.tick(MINUTE).lapsed
    assert "lease" in explain.constraints(world.state, lapsed, world.now)[0].detail


def test_a_worker_that_exceeds_the_timeout_is_told_and_then_timed_out() -> None:
    world = World()
    world.submit(agent="pull", timeout=10 * SECOND)
    [job] = claimed(world)
    [told] = world.tick(10 * SECOND).stop
    assert told.run is not None
    assert told.run.ending is not None
    assert [lapsed.id for lapsed in world.tick(50 * SECOND).lapsed] == [job.id]
    world.end(job, "lost")
    assert world[job].status is Status.RETRYING


def test_a_released_job_keeps_its_place_and_costs_nothing() -> None:
    world = World()
    first = world.submit(agent="pull")
    world.submit(agent="pull")
    [job] = claimed(world)
    end = End(failure=FailureClass.LOST, message="released by its worker", never_ran=True)
    world.decide(lambda decision: attempts.end(decision, world[job], 1, end, Outcome()))
    assert (world[job].losses, world[job].retries) == (0, 0)
    assert world.state.position(world[first])[0] == 1


def test_an_escalated_job_may_go_to_workers_with_its_labels() -> None:
    from opusd.core.limits import Agent
    from tests.core.world import AGENTS

    world = World(agents={**AGENTS, "codex": Agent("codex", slots=1, escalate_to="pull")})
    job = world.submit(agent="codex", labels=["for:ann"])
    world.tick()
    world.end(job, "auth")
    assert len(claimed(world, Wanted(labels=frozenset({"for:ann"})))) == 1
