"""Which worktree a job has, and what its agent's defaults make of a submission."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from opusd.core import commands
from opusd.core.job import Job, Outcome
from opusd.core.limits import Agent
from tests.core.world import AGENTS, World


def fresh(world: World, job: Job) -> Job:
    return world.decide(lambda decision: commands.retry(decision, world[job], fresh=True, facts=world.facts()))


def failed(world: World, job: Job, failure: str = "auth", **fields: object) -> Job:
    world.tick()
    return world.end(job, failure, **fields)


def test_a_job_keeps_its_worktree_until_a_person_has_it_start_anew() -> None:
    world = World()
    job = world.submit(worktree=True)
    assert (job.tree, world.specs[job.id].worktree) == ("1", True)
    failed(world, job)
    assert world.retry(job).tree == "1"
    failed(world, job)
    assert fresh(world, job).tree == "1-2"
    failed(world, job)
    assert world.retry(job).tree == "1-2"
    failed(world, job)
    assert fresh(world, job).tree == "1-3"


def test_a_fresh_start_that_did_not_come_to_pass_is_not_counted_twice() -> None:
    world = World()
    job = world.submit(worktree=True)
    failed(world, job)
    assert fresh(world, job).tree == "1-2"
    world.cancel(job)
    assert fresh(world, job).tree == "1-2"
    assert world.cancel(job).tree == "1-2"
    assert world.retry(job).tree == "1-2"
    world.tick()
    assert world.end(job, "lost", never_ran=True).tree == "1-2"


def test_a_job_that_never_ran_has_no_worktree_to_leave() -> None:
    world = World()
    job = world.submit(worktree=True)
    world.cancel(job)
    assert fresh(world, job).tree == "1"


def test_the_next_link_goes_on_in_the_worktree_of_the_one_before() -> None:
    world = World(agents={**AGENTS, "claude": Agent("claude", escalate_to="codex")})
    job = world.submit(worktree=True, agent="claude")
    world.outcomes[job.id] = Outcome(workdir="/state/worktrees/1/src", branch="opus/1-do-it", verify_output="1 failed")
    old = failed(world, job)
    assert old.extra is not None
    link = world[old.extra.escalated_to or 0]
    assert (link.tree, world.specs[link.id].worktree) == ("1", True)
    assert world.outcomes[link.id] == Outcome(workdir="/state/worktrees/1/src", branch="opus/1-do-it")
    failed(world, link)
    assert fresh(world, link).tree == "2"
    failed(world, link)
    assert fresh(world, link).tree == "2-2"


def test_a_link_without_a_worktree_has_none_to_go_on_in() -> None:
    world = World(agents={**AGENTS, "claude": Agent("claude", escalate_to="codex")})
    job = world.submit(agent="claude")
    old = failed(world, job)
    assert old.extra is not None
    link = world[old.extra.escalated_to or 0]
    assert link.tree == "2"
    assert link.id not in world.outcomes


@pytest.mark.parametrize(
    ("fields", "worktree", "verify"),
    [
        ({}, True, ["make", "test"]),
        ({"worktree": False, "verify": []}, False, None),
        ({"worktree": True, "verify": ["true"]}, True, ["true"]),
    ],
)
def test_what_a_job_does_not_say_is_its_agents(
    fields: dict[str, object], worktree: bool, verify: list[str] | None
) -> None:
    agent = replace(AGENTS["claude"], worktree=True, verify=("make", "test"))
    world = World(agents={**AGENTS, "claude": agent})
    spec = world.specs[world.submit(agent="claude", **fields).id]
    assert (spec.worktree, spec.verify) == (worktree, verify)


def test_the_output_of_a_verification_that_failed_is_kept_until_a_success() -> None:
    world = World()
    job = world.submit(max_retries=9)
    failed(world, job, "verify_failed", verify_output="2 failed")
    assert world.outcomes[job.id].verify_output == "2 failed"
    world.retry(job)
    failed(world, job, "agent_error")
    assert world.outcomes[job.id].verify_output == "2 failed"
    world.retry(job)
    failed(world, job, "verify_failed", verify_output="1 failed")
    assert world.outcomes[job.id].verify_output == "1 failed"
    world.retry(job)
    world.tick()
    world.end(job)
    assert world.outcomes[job.id].verify_output is None
