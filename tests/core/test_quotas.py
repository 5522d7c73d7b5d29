"""Quotas of submitters, sources and groups, and the pace of a tree (contract, sections 2 and 8)."""

from typing import Any

import pytest

from opusd.core import explain
from opusd.core.access import Caller
from opusd.core.errors import QuotaExceeded
from opusd.core.job import Job, Source
from opusd.core.limits import Agent, Limits, Quota
from opusd.core.ready import PLAIN
from tests.core.world import AGENTS, MINUTE, SECOND, World, limits, submission

OTHER = Caller(uid=1001)


def roomy(**changed: Any) -> World:
    agents = {**AGENTS, "claude": Agent("claude", slots=50, may_submit=("claude",))}
    return World(agents=agents, max_concurrent=50, **changed)


def agent_of(job: Job) -> Caller:
    return Caller(uid=1000, agent=True, job=job.id, attempt=1)


def refusal(world: World, count: int = 1, **fields: Any) -> QuotaExceeded:
    caller = fields.pop("caller", Caller(uid=1000))
    with pytest.raises(QuotaExceeded) as caught:
        world.submit_batch([submission(**fields) for _ in range(count)], caller=caller)
    return caught.value


def test_a_submitter_past_its_queued_quota_is_refused_and_others_are_not() -> None:
    world = World(submitter=Quota(max_queued=2))
    world.submit()
    world.submit()
    error = refusal(world)
    assert error.data == {
        "quota": "quotas.submitter.max_queued", "limit": 2, "queued": 2, "retry_after": 60, "index": 0,
    }  # fmt: skip
    assert error.message.startswith("2 jobs of submitter user:1000 are queued and quotas.submitter.max_queued is 2")
    world.submit(caller=OTHER)
    world.submit(held=True)
    world.submit(interactive=True)


def test_a_source_and_a_group_have_queued_quotas_of_their_own() -> None:
    world = World(sources={"automated": Quota(max_queued=1)}, groups={"g": Quota(max_queued=1)})
    world.submit(source=Source.AUTOMATED)
    assert refusal(world, source=Source.AUTOMATED).data["quota"] == "quotas.source.automated.max_queued"
    world.submit(group="g")
    assert refusal(world, group="g").data["quota"] == "groups.g.max_queued"
    world.submit(group="g", interactive=True)
    world.submit(group="other")


def test_a_batch_that_passes_a_quota_is_refused_as_a_whole() -> None:
    world = World(submitter=Quota(max_queued=2))
    assert refusal(world, 3).data["index"] == 2
    assert world.state.jobs == {}
    assert world.state.accounts.queued["submitter:user:1000"] == 0
    world.submit_batch([submission(), submission()])


def test_a_submitter_past_its_running_quota_waits_and_is_told_so_and_others_go_on() -> None:
    world = roomy(submitter=Quota(max_running=2))
    mine = [world.submit() for _ in range(3)]
    other = world.submit(caller=OTHER)
    assert world.started() == [mine[0].id, mine[1].id, other.id]
    assert [one.detail for one in explain.constraints(world.state, world[mine[2]], world.now)] == [
        "submitter user:1000 has its 2 jobs running (quotas.submitter.max_running)"
    ]
    world.end(other)
    assert world.started() == []
    world.end(mine[0])
    assert world.started() == [mine[2].id]


def test_a_source_and_a_group_have_running_quotas_of_their_own() -> None:
    world = roomy(sources={"automated": Quota(max_running=1)}, groups={"g": Quota(max_running=1)})
    automated = [world.submit(source=Source.AUTOMATED) for _ in range(2)]
    grouped = [world.submit(group="g") for _ in range(2)]
    assert world.started() == [automated[0].id, grouped[0].id]
    assert "source automated has its 1 jobs running" in (
        explain.reason(world.state, world[automated[1]], world.now) or ""
    )
    world.end(grouped[0])
    assert world.started() == [grouped[1].id]


def test_a_humans_message_is_held_by_its_group_alone() -> None:
    world = roomy(
        submitter=Quota(max_running=1), sources={"user": Quota(max_running=1)}, groups={"g": Quota(max_running=1)}
    )
    job = world.submit()
    message = world.submit(interactive=True)
    assert world.started() == [message.id, job.id]
    grouped = [world.submit(interactive=True, group="g") for _ in range(2)]
    assert world.started() == [grouped[0].id]


def test_what_the_agents_of_a_tree_submit_is_on_its_roots_account() -> None:
    world = roomy(submitter=Quota(max_running=1))
    root = world.submit()
    world.started()
    child = world.submit(caller=agent_of(root))
    assert world.started() == [child.id]
    grandchild = world.submit(caller=agent_of(child))
    assert world.started() == []
    assert f"submitter job:{root.id} has its 1 jobs running" in (
        explain.reason(world.state, world[grandchild], world.now) or ""
    )


def test_a_job_that_waits_for_its_own_tree_does_not_count_so_the_tree_can_end() -> None:
    world = roomy(sources={"agent": Quota(max_running=1)}, groups={"g": Quota(max_running=1)})
    root = world.submit(group="g")
    world.started()
    child = world.submit(caller=agent_of(root), group="g")
    assert world.started() == []
    world.state.lend(root.id)
    assert world.started() == [child.id]
    grandchild = world.submit(caller=agent_of(child))
    assert world.started() == []
    world.state.lend(child.id)
    assert world.started() == [grandchild.id]


def test_quotas_that_are_read_again_hold_at_once() -> None:
    world = roomy()
    jobs = [world.submit() for _ in range(3)]
    world.started()
    more = world.submit()
    tight = Limits(**{**_fields(world.limits), "submitter": Quota(max_running=3, max_queued=1)})
    world.state.relimit(tight)
    assert world.started() == []
    assert refusal(world).data["queued"] == 1
    world.end(jobs[0])
    assert world.started() == [more.id]
    world.submit()
    world.state.relimit(world.limits)
    assert len(world.started()) == 1
    assert world.state.accounts.running == {}


def test_quotas_survive_a_restart() -> None:
    world = roomy(submitter=Quota(max_running=1, max_queued=2))
    world.submit()
    world.started()
    world.submit()
    world.submit()
    world.restart()
    assert world.started() == []
    assert refusal(world).data["queued"] == 2


def test_without_a_running_quota_a_job_keeps_no_signature() -> None:
    world = World(submitter=Quota(max_queued=5), sources={"agent": Quota(max_running=1)})
    job = world.submit()
    assert world.state.signature(job) == PLAIN
    tight = World(submitter=Quota(max_running=5))
    first, second = tight.submit(), tight.submit()
    assert tight.state.signature(first) is tight.state.signature(second)


def test_a_tree_submits_so_many_jobs_a_minute_and_is_told_when_it_may_again() -> None:
    world = roomy(max_submissions_per_minute=3)
    root = world.submit()
    world.started()
    world.submit(caller=agent_of(root))
    world.now += 20 * SECOND
    child = world.submit_batch([submission(), submission()], caller=agent_of(root))[0]
    error = refusal(world, caller=agent_of(root))
    assert {name: error.data[name] for name in ("quota", "limit", "retry_after")} == {
        "quota": "max_submissions_per_minute", "limit": 3, "retry_after": 40.0,
    }  # fmt: skip
    world.started()
    assert refusal(world, caller=agent_of(child)).data["retry_after"] == 40.0
    world.submit()
    world.now += 40 * SECOND - 1
    refusal(world, caller=agent_of(root))
    world.now += 1
    world.submit(caller=agent_of(root))
    assert refusal(world, caller=agent_of(root)).data["retry_after"] == 20.0


def test_a_batch_larger_than_the_pace_is_told_to_come_in_parts() -> None:
    world = roomy(max_submissions_per_minute=3)
    root = world.submit()
    world.started()
    error = refusal(world, 4, caller=agent_of(root))
    assert error.data["retry_after"] is None
    assert error.data["index"] == 3
    assert "submit fewer at once" in error.message
    world.submit_batch([submission() for _ in range(3)], caller=agent_of(root))


def test_what_was_refused_or_undone_does_not_count_towards_the_pace() -> None:
    world = roomy(max_submissions_per_minute=2, submitter=Quota(max_queued=1))
    root = world.submit()
    world.started()
    for _ in range(5):
        assert refusal(world, 2, caller=agent_of(root)).data["quota"] == "quotas.submitter.max_queued"
    world.autocommit = False
    world.submit(caller=agent_of(root))
    world.fail()
    world.submit(caller=agent_of(root))
    assert len(world.state.submissions[root.id]) == 1


def test_the_pace_of_a_tree_is_forgotten_with_the_tree_and_may_be_off() -> None:
    world = roomy(max_submissions_per_minute=2)
    root = world.submit()
    world.started()
    child = world.submit(caller=agent_of(root))
    world.started()
    world.end(root)
    assert world.state.submissions
    world.end(child)
    assert world.state.submissions == {}
    free = roomy(max_submissions_per_minute=None, max_children=500)
    root = free.submit()
    free.started()
    free.submit_batch([submission() for _ in range(100)], caller=agent_of(root))
    assert free.state.submissions == {}


def test_a_clock_that_was_set_back_does_not_hold_a_tree_for_longer() -> None:
    world = roomy(max_submissions_per_minute=1)
    root = world.submit()
    world.started()
    world.submit(caller=agent_of(root))
    world.now -= 90 * MINUTE
    world.submit(caller=agent_of(root))


def _fields(rules: Limits) -> dict[str, Any]:
    return {name: getattr(rules, name) for name in rules.__struct_fields__}


def test_limits_name_their_defaults() -> None:
    rules = limits()
    assert (rules.submitter, rules.sources, rules.groups, rules.max_submissions_per_minute) == (None, {}, {}, 60)
