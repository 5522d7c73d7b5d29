"""Edges, cycles, and what a job inherits from those that wait for it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.core import commands, dependencies
from opusd.core.decision import Decision
from opusd.core.dependencies import find_cycle, judge
from opusd.core.errors import DependencyError
from opusd.core.job import Edge, EdgeState, IfUnmet, Job, On, Tier
from opusd.core.lifecycle import FINAL, Status
from opusd.core.order import Heir
from tests.core import oracle
from tests.core.world import HOUR, World, depends, submission

S, P, U = EdgeState.SATISFIED, EdgeState.PENDING, EdgeState.UNMET


@pytest.mark.parametrize(
    ("on", "completed", "failed", "cancelled", "expired"),
    [("success", S, U, U, U), ("failure", U, S, U, U), ("any", S, S, S, S)],
)
def test_an_edge_is_judged_by_how_its_upstream_ended(
    on: str, completed: EdgeState, failed: EdgeState, cancelled: EdgeState, expired: EdgeState
) -> None:
    expected = {"completed": completed, "failed": failed, "cancelled": cancelled, "expired": expired}
    for status in Status:
        edge = Edge(1, On(on))
        assert judge(edge, status) is (expected[status.value] if status in FINAL else P)
        assert judge(Edge(1, On(on), IfUnmet.RUN), status) is (S if status in FINAL else P)


@pytest.mark.parametrize("status", Status)
def test_a_satisfied_edge_stays_satisfied(status: Status) -> None:
    assert judge(Edge(1, state=S), status) is S


@given(st.dictionaries(st.integers(1, 9), st.lists(st.integers(1, 9), max_size=3), max_size=9), st.integers(1, 9))
def test_find_cycle_gives_a_real_path_exactly_when_there_is_one(graph: dict[int, list[int]], start: int) -> None:
    reachable, todo = set(), list(graph.get(start, []))
    while todo:
        job = todo.pop()
        if job not in reachable:
            reachable.add(job)
            todo += graph.get(job, [])
    cycle = find_cycle(start, graph.get(start, []), lambda job: graph.get(job, []) if job != start else [])
    assert (cycle is not None) is (start in reachable)
    if cycle is not None:
        assert cycle[0] == cycle[-1] == start
        assert all(below in graph.get(above, []) for above, below in pairwise(cycle))


def finished(world: World, failure: str | None = None) -> Job:
    job = world.submit(agent="claude", max_retries=0)
    world.started()
    return world.end(job, failure)


def test_a_job_runs_only_when_all_it_waits_for_is_done() -> None:
    world = World()
    first, second = (world.submit(agent="claude") for _ in range(2))
    waits = world.submit(agent="claude", depends=(depends(first.id), depends(second.id, "any")))
    world.started()
    world.end(first)
    assert world[waits].status is Status.BLOCKED
    world.now += HOUR
    world.end(second, "auth")
    assert world[waits].status is Status.QUEUED
    assert world[waits].queued_at == world.now
    assert world.started() == [waits.id]


def test_a_dependent_whose_run_at_is_still_to_come_is_scheduled() -> None:
    world = World()
    upstream = world.submit()
    waits = world.submit(run_at=world.now + HOUR, depends=(depends(upstream.id),))
    assert waits.status is Status.BLOCKED
    world.started()
    world.end(upstream)
    assert world[waits].status is Status.SCHEDULED


@pytest.mark.parametrize(
    ("on", "if_unmet", "failure", "expected"),
    [("success", "block", "auth", "blocked"), ("success", "cancel", "auth", "cancelled"),
     ("success", "run", "auth", "queued"), ("failure", None, None, "cancelled"), ("failure", None, "auth", "queued"),
     ("failure", "block", None, "blocked"), ("failure", "run", None, "queued"), ("any", None, "auth", "queued")],
)  # fmt: skip
def test_an_upstreams_end_is_judged_alike_before_and_after_the_submit(
    on: str, if_unmet: str | None, failure: str | None, expected: str
) -> None:
    world = World(max_concurrent=1)
    upstream = world.submit(agent="claude", max_retries=0)
    early = world.submit(depends=(depends(upstream.id, on, if_unmet),))
    world.started()
    world.end(upstream, failure)
    late = world.submit(depends=(depends(upstream.id, on, if_unmet),))
    assert world[early].status == expected
    assert world[late].status == expected


def test_a_cancelled_upstream_satisfies_any_and_not_failure() -> None:
    world = World()
    upstream = world.submit()
    goes = world.submit(depends=(depends(upstream.id, "any"),))
    gone = world.submit(depends=(depends(upstream.id, "failure"),))
    world.cancel(upstream)
    assert world[goes].status is Status.QUEUED
    assert world[gone].status is Status.CANCELLED


def test_cancel_cancels_what_waits_in_turn_and_held_dependents_too() -> None:
    world = World()
    upstream = world.submit()
    first = world.submit(held=True, depends=(depends(upstream.id, if_unmet="cancel"),))
    second = world.submit(depends=(depends(first.id, if_unmet="cancel"),))
    third = world.submit(depends=(depends(second.id),))
    changes = []
    world.watchers.append(changes.append)
    world.cancel(upstream)
    assert [world[job].status for job in (first, second, third)] == ["cancelled", "cancelled", "blocked"]
    assert changes[1].event.actor == "scheduler"
    assert f"job {upstream.id}, which it waits for, is cancelled" in changes[1].event.detail["reason"]


def test_a_blocked_dependent_goes_on_when_its_upstream_is_retried_and_succeeds() -> None:
    world = World()
    upstream = finished(world, "auth")
    waits = world.submit(depends=(depends(upstream.id),))
    world.retry(upstream)
    assert world[waits].edges[0].state is P
    world.started()
    world.end(upstream)
    assert world[waits].status is Status.QUEUED


def test_a_dependent_that_was_cancelled_learns_at_its_retry_what_its_upstream_did_meanwhile() -> None:
    world = World()
    upstream = world.submit(agent="claude")
    waits = world.submit(depends=(depends(upstream.id),))
    world.cancel(waits)
    world.started()
    world.end(upstream)
    assert world.retry(waits).status is Status.QUEUED


def test_a_retried_dependent_waits_for_an_upstream_that_was_retried_before_it() -> None:
    world = World()
    upstream = finished(world, "auth")
    waits = world.submit(depends=(depends(upstream.id, if_unmet="cancel"),))
    assert world[waits].status is Status.CANCELLED
    world.retry(upstream)
    assert world.retry(waits).edges[0].state is P
    world.started()
    world.end(upstream)
    assert world[waits].status is Status.QUEUED


def test_a_retry_that_would_close_a_cycle_is_refused() -> None:
    world = World()
    first = world.submit()
    second = world.submit(depends=(depends(first.id),))
    world.cancel(second)
    world.update(first, depends=(depends(second.id),))
    assert world[first].status is Status.BLOCKED
    with pytest.raises(DependencyError, match="cycle"):
        world.retry(second)
    assert world[second].status is Status.CANCELLED


def heir(world: World, job: Job) -> tuple[Tier, int] | None:
    found = world.state.inheritance.of(job.id)
    return None if found is None else (found.tier, found.job)


def test_a_job_inherits_the_highest_tier_of_those_that_wait_for_it() -> None:
    world = World(max_concurrent=0)
    low = world.submit(tier=Tier.LOW)
    other = world.submit(tier=Tier.NORMAL)
    assert world.state.position(world[low]) == (2, 1)
    urgent = world.submit(tier=Tier.URGENT, depends=(depends(low.id),))
    assert heir(world, low) == (Tier.URGENT, urgent.id)
    assert world.state.position(world[low]) == (1, 0)
    world.cancel(urgent)
    assert heir(world, low) is None
    assert world.state.position(world[other]) == (1, 0)


def test_tiers_pass_down_a_chain_and_each_link_names_the_one_that_waits_for_it() -> None:
    world = World(max_concurrent=0)
    chain = [world.submit(tier=Tier.LOW)]
    for tier in (Tier.LOW, Tier.LOW, Tier.URGENT):
        chain.append(world.submit(tier=tier, depends=(depends(chain[-1].id),)))
    assert [heir(world, job) for job in chain] == [
        *((Tier.URGENT, waiter.id) for waiter in chain[1:]),
        None,
    ]
    world.update(chain[-1], tier=Tier.NORMAL)
    assert [world.state.inheritance.of(job.id).tier for job in chain[:-1]] == [Tier.NORMAL] * 3
    world.hold(chain[1])
    assert heir(world, chain[0]) is None
    world.release(chain[1])
    assert world.state.inheritance.of(chain[0].id).tier is Tier.NORMAL


def test_a_diamond_passes_on_the_better_of_its_sides() -> None:
    world = World(max_concurrent=0)
    root = world.submit(tier=Tier.LOW)
    left = world.submit(tier=Tier.LOW, depends=(depends(root.id),))
    right = world.submit(tier=Tier.NORMAL, depends=(depends(root.id),))
    top = world.submit(tier=Tier.URGENT, depends=(depends(left.id), depends(right.id)))
    assert heir(world, root) == (Tier.URGENT, left.id)
    world.update(top, depends=(depends(right.id),))
    assert heir(world, left) is None
    assert heir(world, root) == (Tier.URGENT, right.id)
    world.cancel(top)
    assert heir(world, root) == (Tier.NORMAL, right.id)


def test_an_heir_of_critical_stands_where_the_human_would_by_the_time_of_the_humans_submission() -> None:
    world = World(max_concurrent=0)
    upstream = world.submit(tier=Tier.LOW)
    world.now += HOUR
    earlier = world.submit(interactive=True)
    world.now += 1
    world.submit(interactive=True, depends=(depends(upstream.id),))
    world.now += 1
    later = world.submit(interactive=True)
    order = oracle.in_order(world.state, world.state.jobs, world.now)
    assert order == [earlier.id, upstream.id, later.id]
    assert [world.state.position(world[job])[0] for job in order] == [1, 2, 3]


def test_a_satisfied_or_unmet_edge_passes_nothing_on() -> None:
    world = World()
    upstream = finished(world, "auth")
    other = world.submit(tier=Tier.LOW)
    world.submit(tier=Tier.URGENT, depends=(depends(upstream.id), depends(other.id)))
    assert world.state.inheritance.of(upstream.id) is None
    assert world.state.inheritance.of(other.id).tier is Tier.URGENT


def test_a_chain_of_thousands_inherits_and_cancels_without_recursion() -> None:
    world = World(max_concurrent=0)
    keys = [f"k{number}" for number in range(3000)]
    world.submit_batch(
        [submission(tier=Tier.LOW, key="k0")]
        + [
            submission(tier=Tier.LOW, key=key, depends=(depends(before, if_unmet="cancel"),))
            for before, key in pairwise(keys)
        ]
    )
    last = world.state.keys[keys[-1]]
    world.update(last, tier=Tier.URGENT)
    first = world.state.keys["k0"]
    assert world.state.inheritance.of(first).tier is Tier.URGENT
    world.cancel(first)
    assert world.state.jobs == {}
    assert world.state.inheritance.known() == {}


def test_ten_thousand_dependents_of_one_job_may_leave_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them may be the heir that is passed on; finding the next must not look at all the others."""
    world = World(max_concurrent=0)
    upstream = world.submit(tier=Tier.LOW)
    waiting = world.submit_batch([submission(tier=Tier.URGENT, depends=(depends(upstream.id),)) for _ in range(10_000)])

    def leave(decision: Decision) -> None:
        for job in waiting[:-1]:
            commands.cancel(decision, job, reason=None, grace=0, cascade=False)

    compared = 0
    urgency = dependencies._urgency

    def counted(heir: Heir) -> tuple[int, int, int]:
        nonlocal compared
        compared += 1
        return urgency(heir)

    monkeypatch.setattr(dependencies, "_urgency", counted)
    world.decide(leave)
    assert compared < 10 * len(waiting)
    assert heir(world, upstream) == (Tier.URGENT, waiting[-1].id)
    world.cancel(waiting[-1])
    assert heir(world, upstream) is None
