"""What a job's agent may do, and that people may do all of it (contract, section 8)."""

import pytest

from opusd.core.access import Caller, require_descendant, require_person
from opusd.core.errors import Forbidden, QuotaExceeded
from opusd.core.job import Job, Source, Tier
from tests.core.world import PERSON, World, submission


def agent_of(job: Job) -> Caller:
    return Caller(uid=1000, agent=True, job=job.id, attempt=1)


def running(world: World, agent: str = "claude", **fields: object) -> Job:
    job = world.submit(agent=agent, **fields)
    world.tick()
    return world[job]


def test_the_audit_trail_names_who_asked() -> None:
    assert Caller(uid=7).actor == "user:7"
    assert Caller(uid=7, agent=True, job=41).actor == "job:41"
    assert Caller(uid=7, agent=True).actor == "agent"


def test_what_an_agent_submits_is_its_child_with_source_agent() -> None:
    world = World()
    own = running(world)
    child = world.submit(caller=agent_of(own))
    assert child.terms.source is Source.AGENT
    assert child.ancestors == (own.id,)
    assert child.terms.submitted_by == f"job:{own.id}"
    named = world.submit(caller=agent_of(own), source=Source.AGENT, parent=own.id)
    assert named.parent == own.id


def test_an_agent_asks_for_nothing_that_is_for_people() -> None:
    world = World()
    own, other = running(world), world.submit()
    for fields in (
        {"source": Source.USER},
        {"source": Source.AUTOMATED},
        {"interactive": True},
        {"tier": Tier.CRITICAL},
        {"parent": other.id},
    ):
        with pytest.raises(Forbidden):
            world.submit(caller=agent_of(own), **fields)
    assert len(world.known) == 2


def test_an_agent_submits_only_to_the_agents_in_its_may_submit() -> None:
    world = World()
    own = running(world)
    with pytest.raises(Forbidden, match="not to codex"):
        world.submit(caller=agent_of(own), agent="codex")
    codex = running(world, "codex")
    assert world.submit(caller=agent_of(codex), command=["ls"]).terms.agent == "exec"
    with pytest.raises(Forbidden, match="not to claude"):
        world.submit(caller=agent_of(codex), agent="claude")


@pytest.mark.parametrize("field", [{"verify": ["true"]}, {"env": {"A": "b"}}])
def test_without_exec_in_may_submit_there_is_no_verify_and_no_env(field: dict[str, object]) -> None:
    world = World()
    own, codex = running(world), running(world, "codex")
    with pytest.raises(Forbidden, match="exec"):
        world.submit(caller=agent_of(own), **field)
    world.submit(caller=agent_of(codex), agent="codex", **field)


def test_a_tree_is_no_deeper_than_max_depth() -> None:
    world = World(max_depth=2, max_concurrent=9)
    own = running(world, "codex")
    for _ in range(2):
        child = world.submit(caller=agent_of(own), command=["ls"])
        world.tick()
        own = world[child]
    with pytest.raises(QuotaExceeded) as caught:
        world.submit(caller=agent_of(own), command=["ls"])
    assert caught.value.data["quota"] == "max_depth"


def test_a_root_has_no_more_descendants_than_max_children_however_they_ended() -> None:
    world = World(max_children=3, autocommit=False)
    own = running(world)
    first = world.submit(caller=agent_of(own))
    world.cancel(first)
    world.submit(caller=agent_of(own))
    world.commit()
    world.submit(caller=agent_of(own))
    world.fail()
    world.submit(caller=agent_of(own))
    with pytest.raises(QuotaExceeded) as caught:
        world.submit(caller=agent_of(own))
    assert (caught.value.data["quota"], caught.value.data["limit"]) == ("max_children", 3)
    world.submit(parent=own.id)


def test_an_agent_without_a_running_job_may_not_submit() -> None:
    world = World()
    for caller in (Caller(agent=True), Caller(agent=True, job=99)):
        with pytest.raises(Forbidden, match="may not submit"):
            world.submit(caller=caller)


def test_a_batch_that_an_agent_may_not_submit_names_the_index() -> None:
    world = World()
    own = running(world)
    with pytest.raises(Forbidden) as caught:
        world.submit_batch([submission(), submission(agent="codex")], caller=agent_of(own))
    assert caught.value.data["index"] == 1


def test_an_agent_touches_its_own_descendants_alone() -> None:
    own = Caller(agent=True, job=1)
    require_descendant(own, 3, (1, 2), "cancel")
    for job, ancestors in ((1, ()), (3, (2,)), (2, ())):
        with pytest.raises(Forbidden, match="cancel"):
            require_descendant(own, job, ancestors, "cancel")
    with pytest.raises(Forbidden):
        require_descendant(Caller(agent=True), 3, (1, 2), "cancel")
    require_descendant(PERSON, 3, (), "cancel")


def test_what_is_for_people_is_forbidden_to_every_agent() -> None:
    require_person(PERSON, "pausing the queue")
    for caller in (Caller(agent=True), Caller(agent=True, job=1)):
        with pytest.raises(Forbidden, match="pausing the queue is for people"):
            require_person(caller, "pausing the queue")


def test_the_size_of_a_tree_is_kept_only_as_long_as_one_of_it_is_unfinished() -> None:
    world = World(max_children=3)
    own = running(world)
    child = world.submit(caller=agent_of(own))
    assert world.state.tree_sizes == {own.id: 1}
    world.end(own)
    assert world.state.tree_sizes == {own.id: 1}
    world.cancel(child)
    assert world.state.tree_sizes == {}
