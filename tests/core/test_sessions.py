"""Which session a job's next attempt takes up, and what was used in it."""

from __future__ import annotations

from typing import Any

from opusd.core import commands
from opusd.core.job import Job, Outcome
from tests.core.world import World

USED = {"input_tokens": 10, "output_tokens": 2}


def ended(world: World, job: Job, failure: str | None = "agent_error", **fields: Any) -> Outcome:
    """The outcome after one more attempt that ended so; a failed one is made to go on."""
    world.tick(3600_000_000)
    world.end(job, failure, **fields)
    return world.outcomes[job.id]


def test_the_session_is_the_last_one_that_an_attempt_named_and_belongs_to_its_agent() -> None:
    world = World()
    job = world.submit(agent="claude")
    outcome = ended(world, job, session_id="s1", usage=USED)
    assert (outcome.session_id, outcome.session_agent) == ("s1", "claude")
    outcome = ended(world, job)  # it did not come so far
    assert (outcome.session_id, outcome.session_usage) == ("s1", USED)


def test_what_was_used_is_counted_by_session_and_in_all() -> None:
    world = World()
    job = world.submit(agent="claude")
    ended(world, job, session_id="s1", usage=USED)
    outcome = ended(world, job, session_id="s1", usage=USED)
    assert outcome.session_usage == outcome.usage == {"input_tokens": 20, "output_tokens": 4}
    outcome = ended(world, job, session_id="s2", usage=USED)
    assert outcome.session_usage == USED
    assert outcome.usage == {"input_tokens": 30, "output_tokens": 6}


def test_a_session_that_its_program_does_not_know_is_given_up() -> None:
    world = World()
    job = world.submit(agent="claude")
    ended(world, job, session_id="s1", usage=USED)
    outcome = ended(world, job, session_id="s1", session_unknown=True)
    assert (outcome.session_id, outcome.session_agent, outcome.session_usage) == (None, None, None)
    assert outcome.usage == USED


def test_a_fresh_attempt_that_names_no_session_leaves_none_to_go_back_to() -> None:
    world = World()
    job = world.submit(agent="codex")
    ended(world, job, session_id="s1")
    world.decide(lambda decision: commands.retry(decision, world[job], fresh=True, facts=world.facts()))
    world.tick()
    world.end(job, "lost", never_ran=True)
    assert world.outcomes[job.id].session_id == "s1"  # the fresh one is still to come
    assert world[job].extra.fresh
    world.tick()
    world.end(job, "agent_error")
    assert world.outcomes[job.id].session_id is None
    assert world[job].extra is None or not world[job].extra.fresh
