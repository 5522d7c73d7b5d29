"""What happens to a submission: agent, priority, limits, keys, dependencies, first state."""

import pytest

from opusd.core.admission import Facts, MissingFact, Submission, submit
from opusd.core.decision import Decision
from opusd.core.errors import Conflict, DependencyError, InvalidParams, NotFound, OpusError, QueueFull
from opusd.core.job import Job, Source, Tier
from opusd.core.lifecycle import Status
from opusd.core.limits import Agent, Route
from opusd.core.retry import PRESETS, Policy, Strategy
from opusd.testing.shape import shape_of
from tests.core.world import AGENTS, HOUR, PERSON, SECOND, World, depends, limits, submission


def refused(world: World, *submissions: Submission) -> OpusError:
    """The refusal; nothing was changed by it."""
    shape, known = shape_of(world.state), dict(world.known)
    shape = {**shape, "jobs": dict(world.state.jobs)}
    with pytest.raises(OpusError) as caught:
        world.admit(submissions)
    assert {**shape_of(world.state), "jobs": dict(world.state.jobs)} == shape
    assert world.known == known
    return caught.value


def test_a_submission_becomes_a_queued_job_with_the_next_id() -> None:
    world = World()
    first, second = world.submit(agent="claude", type="bug", group="g"), world.submit()
    assert (first.id, second.id) == (1, 2)
    assert first.version == 1
    assert first.status is Status.QUEUED
    assert first.queued_at == first.created_at == world.now
    assert (first.terms.type, first.terms.group, first.terms.submitted_by) == ("bug", "g", "user:1000")


def test_the_first_that_applies_wins_of_held_blocked_scheduled_queued() -> None:
    world = World()
    upstream = world.submit()
    edge, later = (depends(upstream.id),), world.now + HOUR
    assert world.submit(held=True, depends=edge, run_at=later).status is Status.HELD
    assert world.submit(depends=edge, run_at=later).status is Status.BLOCKED
    assert world.submit(run_at=later).status is Status.SCHEDULED
    assert world.submit(run_at=world.now).status is Status.QUEUED
    held = world.submit(held=True)
    assert held.queued_at is None


# --- the agent ----------------------------------------------------------------------------------------


def test_without_an_agent_a_command_is_for_exec_a_prompt_for_the_default_and_neither_for_pull() -> None:
    world = World()
    assert world.submit(command=["ls"]).terms.agent == "exec"
    assert world.submit("a prompt").terms.agent == "claude"
    assert world.submit(None).terms.agent == "pull"


def test_a_prompt_goes_to_the_first_route_that_matches_in_everything_it_names() -> None:
    routes = (
        Route("bugs", "codex", type="bug", source="user", label="for:codex", tier="urgent", group="g"),
        Route("all-bugs", "pull", type="bug", priority=(Tier.LOW, 7)),
    )
    world = World(routes=routes)
    full = {"type": "bug", "labels": ["x", "for:codex"], "tier": Tier.URGENT, "group": "g"}
    job = world.submit(**full)
    assert (job.terms.agent, job.terms.route) == ("codex", "bugs")
    for name, other in [("labels", []), ("tier", Tier.LOW), ("group", None), ("source", Source.AUTOMATED)]:
        other_job = world.submit(**{**full, name: other})
        assert (other_job.terms.agent, other_job.terms.route) == ("pull", "all-bugs")
        assert (other_job.terms.tier, other_job.terms.boost) == (Tier.LOW, 7)
    assert world.submit().terms.route is None
    assert world.submit(**full, agent="claude").terms.route is None
    assert world.submit(type="bug", command=["ls"]).terms.agent == "exec"


def test_a_priority_that_was_given_and_a_humans_presence_beat_the_routes() -> None:
    world = World(routes=(Route("r", "claude", priority=(Tier.LOW, 7)),))
    assert world.submit(tier=Tier.URGENT, boost=3, explicit_priority=True).terms.tier is Tier.URGENT
    assert world.submit(interactive=True).terms.tier is Tier.CRITICAL
    assert world.submit().terms.tier is Tier.LOW


def test_a_prompt_that_no_agent_takes_is_refused_with_how_to_configure_one() -> None:
    world = World(default_agent=None)
    error = refused(world, submission())
    assert isinstance(error, InvalidParams)
    assert "default_agent" in error.message
    assert error.data["path"] == "$.agent"


@pytest.mark.parametrize(
    ("sent", "path", "words"),
    [
        (submission(agent="clade"), "$.agent", "claude"),
        (submission(agent="claude", command=["ls"]), "$.command", "not for claude"),
        (submission(agent="exec"), "$.command", "give command"),
        (submission(needs={"gpu": 3}), "$.needs.gpu", "could never run"),
        (submission(needs={"repo:/srv": 2}), "$.needs.repo:/srv", "there is 1"),
        (submission(interactive=True, source=Source.AUTOMATED), "$.interactive", "source user"),
        (submission(tier=Tier.CRITICAL, source=Source.AUTOMATED), "$.priority", "source user"),
    ],
)
def test_what_can_never_run_is_refused_by_the_name_of_the_field(sent: Submission, path: str, words: str) -> None:
    error = refused(World(capacities={"gpu": 2}), sent)
    assert isinstance(error, InvalidParams)
    assert error.data["path"] == path
    assert words in error.message


def test_an_agent_that_a_command_a_route_or_nothing_leads_to_must_be_configured() -> None:
    only = {"claude": AGENTS["claude"]}
    world = World(limits(agents=only, routes=(Route("r", "gone", type="bug"),), default_agent="gone"))
    for sent in (submission(command=["ls"]), submission(None), submission(type="bug"), submission()):
        assert isinstance(refused(world, sent), InvalidParams)


def test_needs_of_the_agent_are_added_and_none_of_a_thing_is_no_need() -> None:
    agents = {"claude": Agent("claude", needs=(("gpu", 1), ("net", 1)))}
    world = World(limits(agents=agents, capacities={"gpu": 2}))
    assert world.submit(needs={"gpu": 2, "a": 1, "net": 0}).terms.needs == (("a", 1), ("gpu", 2))


def test_critical_has_no_boost_and_interactive_is_critical() -> None:
    world = World()
    assert world.submit(tier=Tier.CRITICAL, boost=9).terms.boost == 0
    human = world.submit(interactive=True, tier=Tier.LOW, boost=9).terms
    assert (human.tier, human.boost) == (Tier.CRITICAL, 0)


def test_timeout_expiry_and_retry_come_from_the_job_else_its_agent_else_the_config() -> None:
    agents = {"claude": Agent("claude", timeout=HOUR, retry=PRESETS["slow"]), "codex": Agent("codex")}
    world = World(limits(agents=agents, timeout=2 * HOUR, expires_in=9 * HOUR))
    job = world.submit(agent="claude").terms
    assert (job.timeout, job.expires_in, job.retry) == (HOUR, 9 * HOUR, PRESETS["slow"])
    assert world.submit(agent="codex").terms.timeout == 2 * HOUR
    own = world.submit(agent="claude", timeout=SECOND, expires_in=SECOND, retry=PRESETS["fast"]).terms
    assert (own.timeout, own.expires_in, own.retry) == (SECOND, SECOND, PRESETS["fast"])


def test_max_retries_of_the_job_beats_its_policys_and_that_the_agents() -> None:
    world = World()
    assert world.submit(max_retries=7).terms.retry == Policy(Strategy.EXPONENTIAL, SECOND, 300 * SECOND, 0.1, 7)
    assert world.submit(retry=PRESETS["fast"], max_retries=0).terms.retry.max_retries == 0
    asked = world.submit(command=["ls"], max_retries=2).terms.retry
    assert (asked.strategy, asked.max_retries) == (Strategy.EXPONENTIAL, 2)


# --- keys and batches -----------------------------------------------------------------------------------


def test_the_same_key_with_the_same_content_gives_the_job_whatever_became_of_it() -> None:
    world = World()
    first = world.submit(key="k", digest=b"1")
    assert world.admit([submission(key="k", digest=b"1")]) == [(first.id, False)]
    world.started()
    world.end(first)
    assert world.admit([submission(key="k", digest=b"1")]) == [(first.id, False)]


def test_the_same_key_with_another_content_is_a_conflict() -> None:
    world = World()
    first = world.submit(key="k", digest=b"1")
    error = refused(world, submission(key="k", digest=b"2"))
    assert isinstance(error, Conflict)
    assert error.data == {"job": first.id, "key": "k"}


def test_a_key_in_memory_whose_content_the_registry_does_not_know_yet_is_asked_for() -> None:
    world = World()
    world.submit(key="k")
    with pytest.raises(MissingFact) as caught:
        submit(Decision(world.state, world.now), [submission(key="k")], Facts(), PERSON)
    assert caught.value.data["key"] == "k"


def test_a_key_twice_in_one_batch_is_refused() -> None:
    error = refused(World(), submission(key="k"), submission(), submission(key="k"))
    assert isinstance(error, InvalidParams)
    assert error.data == {"path": "$.jobs[2].key", "index": 2}


def test_a_batch_may_name_its_keys_in_any_order_and_mixes_old_and_new() -> None:
    world = World()
    old = world.submit(key="old")
    found = world.admit(
        [
            submission(key="a", depends=(depends("b"), depends("old"))),
            submission(key="old"),
            submission(key="b"),
        ]
    )
    (a, _), (same, created), (b, _) = found
    assert (same, created) == (old.id, False)
    assert a < b
    assert [edge.upstream for edge in world[a].edges] == [b, old.id]
    assert [world[job].status for job in (a, b)] == ["blocked", "queued"]


def test_all_of_a_batch_or_none_and_the_error_names_the_index() -> None:
    world = World()
    error = refused(world, submission(key="a"), submission(agent="nobody"))
    assert error.data["index"] == 1
    assert world.state.keys == {}


def test_a_cycle_in_a_batch_is_refused_with_its_keys() -> None:
    error = refused(
        World(),
        submission(key="a", depends=(depends("b"),)),
        submission(key="b", depends=(depends("c"),)),
        submission(key="c", depends=(depends("a"),)),
    )
    assert isinstance(error, DependencyError)
    assert sorted(error.data["cycle"][1:]) == ["a", "b", "c"]
    assert error.data["cycle"][0] == error.data["cycle"][-1]


def test_a_job_that_depends_on_itself_or_on_nobody_is_refused() -> None:
    world = World()
    itself = refused(world, submission(key="a", depends=(depends("a"),)))
    assert isinstance(itself, DependencyError)
    assert itself.data["cycle"] == ["a", "a"]
    for unknown in (99, "nobody"):
        error = refused(world, submission(depends=(depends(unknown),)))
        assert isinstance(error, DependencyError)
        assert error.data["unknown"] == unknown


def test_a_job_that_is_cancelled_at_submit_is_so_for_the_rest_of_its_batch_too() -> None:
    world = World()
    failed = world.submit(agent="claude", max_retries=0)
    world.started()
    world.end(failed, "auth")
    unmet = (depends(failed.id, if_unmet="cancel"),)
    early, gone, late, goes = world.submit_batch(
        [
            submission(key="early", depends=(depends("gone", if_unmet="cancel"),)),
            submission(key="gone", depends=unmet),
            submission(key="late", depends=(depends("gone", if_unmet="cancel"), depends("early"))),
            submission(key="goes", depends=(depends("gone", "any"),)),
        ]
    )
    assert [job.status for job in (early, gone, late, goes)] == ["cancelled", "cancelled", "cancelled", "queued"]


def test_what_submit_returns_is_what_the_job_is_after_the_whole_batch() -> None:
    world = World()
    failed = world.submit(agent="claude", max_retries=0)
    world.started()
    world.end(failed, "auth")
    batch = [
        submission(key="early", depends=(depends("gone", if_unmet="cancel"),)),
        submission(key="gone", depends=(depends(failed.id, if_unmet="cancel"),)),
    ]
    found = world.decide(lambda decision: submit(decision, batch, world.facts(), PERSON))
    assert [job.status for job, _ in found if isinstance(job, Job)] == ["cancelled", "cancelled"]


def test_an_edge_that_is_named_twice_is_one() -> None:
    world = World()
    upstream = world.submit(key="u")
    assert len(world.submit(depends=(depends("u"), depends(upstream.id))).edges) == 1


def test_a_parent_gives_the_line_of_ancestors_and_must_be_a_job() -> None:
    world = World()
    root = world.submit(key="root")
    child = world.submit(parent="root")
    world.cancel(child)
    grandchild = world.submit(parent=child.id)
    assert grandchild.ancestors == (root.id, child.id)
    assert (grandchild.root, grandchild.parent) == (root.id, child.id)
    assert list(world.state.descendants[root.id]) == [grandchild.id]
    assert isinstance(refused(world, submission(parent=99)), NotFound)


# --- backpressure ---------------------------------------------------------------------------------------


def test_a_full_queue_refuses_machines_and_lets_a_human_in() -> None:
    world = World(max_queued=2)
    world.submit()
    error = refused(world, submission(), submission())
    assert isinstance(error, QueueFull)
    assert (error.data["queued"], error.data["max_queued"]) == (1, 2)
    assert error.data["retry_after"] > 0
    known = world.submit(key="k")
    assert isinstance(refused(world, submission()), QueueFull)
    assert world.admit([submission(key="k")]) == [(known.id, False)]
    assert world.submit(interactive=True).status is Status.QUEUED


def test_an_agent_with_a_full_lane_refuses_and_others_do_not() -> None:
    agents = {**AGENTS, "codex": Agent("codex", max_queued=1)}
    world = World(limits(agents=agents))
    world.submit(agent="codex")
    error = refused(world, submission(agent="codex"))
    assert isinstance(error, QueueFull)
    assert error.data["agent"] == "codex"
    world.submit(agent="claude")
    world.submit(agent="codex", interactive=True)


def test_a_full_queue_lets_in_what_would_not_be_queued() -> None:
    agents = {**AGENTS, "codex": Agent("codex", max_queued=1)}
    world = World(limits(agents=agents, max_queued=2))
    first = world.submit()
    for more in ({}, {"agent": "codex"}):
        world.submit(**more)
        assert isinstance(refused(world, submission(**more)), QueueFull)
        assert world.submit(held=True, **more).status is Status.HELD
        assert world.submit(run_at=world.now + 1, **more).status is Status.SCHEDULED
        assert world.submit(depends=(depends(first.id),), **more).status is Status.BLOCKED
        world.resize(9)
        world.started()


def test_a_thousand_edges_are_not_compared_each_with_all() -> None:
    world = World(max_concurrent=0)
    ups = world.submit_batch([submission() for _ in range(1_000)])
    compared = 0

    class Counting(int):
        """An id that counts how often it is compared."""

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    job = world.submit(depends=tuple(depends(Counting(up.id)) for up in ups))
    assert len(job.edges) == 1_000
    assert compared < 20 * len(ups)
