"""Which decisions leave a tick nothing to do: it is not called for those."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from opusd.core import leases, scheduler
from opusd.core.job import Tier
from opusd.core.limits import Agent, Limits, Quota
from opusd.core.retry import PRESETS
from tests.core.world import HOUR, MINUTE, SECOND, World, depends, submission

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.job import Job

AGENTS = {
    "claude": Agent("claude", slots=1, retry=PRESETS["none"]),
    "pull": Agent("pull", slots=0, retry=PRESETS["fast"]),
    "paced": Agent("paced", slots=0, starts_per_minute=2),
}
RULES = Limits(agents=AGENTS, default_agent="claude", max_concurrent=1, capacities={"gpu": 1})
RESERVING = Limits(
    agents={**AGENTS, "claude": Agent("claude", slots=3, retry=PRESETS["none"])},
    default_agent="claude",
    max_concurrent=3,
    capacities={"gpu": 3},
    reserve_after=30 * SECOND,
)
BUSY = Limits(agents=AGENTS, default_agent="claude", max_concurrent=1, groups={"small": Quota(max_running=1)})


def test_nothing_that_workers_do_alone_asks_for_a_tick() -> None:
    world = World(autocommit=False)
    waits = world.submit(agent="pull")
    until = world.tick().wake_at
    world.submit(agent="pull", expires_in=HOUR)
    [job] = world.decide(lambda decision: leases.claim(decision, "w", leases.Wanted(), 1, MINUTE, world.mint))
    assert job.id == waits.id
    world.end(job)
    assert until is None
    assert [scheduler.stirs(decision, world.now + SECOND) for decision in world.open[-3:]] == [False] * 3
    assert [scheduler.stirs(decision, None) for decision in world.open[-3:]] == [True, True, False], "moments"


def test_what_the_daemon_itself_would_run_asks_for_one() -> None:
    world = World(autocommit=False)
    world.submit(agent="claude")
    assert scheduler.stirs(world.open[-1], None)


def test_what_a_person_gave_slots_to_asks_for_one_though_it_is_configured_without() -> None:
    world = World(RULES, autocommit=False)
    world.resize(1, "pull")
    until = _settled(world)
    waits = world.submit(agent="pull")
    assert scheduler.stirs(world.open[-1], until)
    assert world.started() == [waits.id]


def test_what_runs_in_the_pool_and_ends_asks_for_one_though_its_agent_has_no_slots_any_more() -> None:
    world = World(RULES, autocommit=False)
    world.resize(1, "pull")
    begun = world.submit(agent="pull")
    assert world.started() == [begun.id]
    world.resize(0, "pull")
    waits = world.submit(agent="claude")
    until = _settled(world)
    world.end(begun)
    assert scheduler.stirs(world.open[-1], until)
    assert world.started() == [waits.id]


def test_so_it_does_where_a_new_configuration_has_taken_the_slots_away() -> None:
    world = World(RULES, autocommit=False)
    begun = world.submit(agent="claude")
    assert world.started() == [begun.id]
    agents = {**AGENTS, "claude": Agent("claude", slots=0), "codex": Agent("codex", slots=1)}
    world.state.relimit(Limits(agents=agents, default_agent="codex", max_concurrent=1))
    waits = world.submit(agent="codex")
    until = _settled(world)
    world.end(begun)
    assert scheduler.stirs(world.open[-1], until)
    assert world.started() == [waits.id]


def _reserved() -> tuple[World, Job]:
    """One of two needs is held, and the first in order, which wants both, keeps the other one to itself."""
    rules = Limits(
        agents={**AGENTS, "claude": Agent("claude", slots=9)},
        default_agent="claude",
        max_concurrent=9,
        capacities={"gpu": 2},
        reserve_after=MINUTE,
    )
    world = World(rules, autocommit=False)
    world.submit(needs={"gpu": 1})
    assert world.started()
    wants = world.submit(needs={"gpu": 2})
    assert not world.started()
    return world, wants


def test_a_job_that_rises_past_a_reservation_asks_for_one_whoever_it_rises_for() -> None:
    world, _ = _reserved()
    assert not world.started(2 * MINUTE)
    behind = world.submit(needs={"gpu": 1})
    until = _settled(world)
    world.submit(agent="pull", tier=Tier.URGENT, depends=(depends(behind.id),))
    assert scheduler.stirs(world.open[-1], until)
    assert world.started() == [behind.id]


@pytest.mark.parametrize("verb", [World.cancel, lambda world, job: world.update(job, depends=())])
def test_a_job_that_falls_behind_what_it_kept_back_asks_for_one_whoever_it_stood_there_for(
    verb: Callable[[World, Job], Job],
) -> None:
    world, wants = _reserved()
    heir = world.submit(agent="pull", tier=Tier.URGENT, depends=(depends(wants.id),))
    assert not world.started()
    assert not world.started(2 * MINUTE)
    kept_back = world.submit(needs={"gpu": 1}, boost=20)
    until = _settled(world)
    verb(world, heir)
    assert scheduler.stirs(world.open[-1], until)
    assert world.started() == [kept_back.id]


@pytest.mark.parametrize("rules", [RULES, BUSY, RESERVING], ids=["plain", "quotas", "reserving"])
@pytest.mark.parametrize("seed", range(12))
def test_a_tick_after_what_asks_for_none_finds_nothing_to_do(rules: Limits, seed: int) -> None:
    draw = random.Random(seed)
    world = World(rules, autocommit=False)
    quiet = 0
    for _ in range(250):
        world.now += draw.choice((0, 0, SECOND, 20 * SECOND))
        until = _settled(world)
        known = len(world.open)
        _something(world, draw)
        if any(scheduler.stirs(decision, until) for decision in world.open[known:]):
            continue
        quiet += len(world.open) > known
        first = world.state.first
        again = world.tick().wake_at
        assert not world.open[-1].changes
        assert world.state.first == first
        assert again is None or (until is not None and again >= until), "it would have come too late"
    assert quiet > 20


def _settled(world: World) -> int | None:
    """Tick until nothing is left to do; when the next is due."""
    while True:
        plan = world.tick()
        if not world.open[-1].changes and not world.open[-1].settings:
            world.commit()
            return plan.wake_at


def _something(world: World, draw: random.Random) -> None:
    running = world.running()
    known = list(world.known)[-10:]
    match draw.choice(("submit", "submit", "submit", "claim", "claim", "end", "cancel", "hold", "update", "resize")):
        case "submit":
            world.admit(
                [
                    submission(
                        agent=draw.choice(("pull", "pull", "pull", "paced", "claude")),
                        needs=draw.choice(({}, {}, {"gpu": 1}, {"gpu": world.limits.capacity("gpu")})),
                        tier=draw.choice((Tier.NORMAL, Tier.NORMAL, Tier.URGENT)),
                        group=draw.choice((None, None, "small")),
                        expires_in=draw.choice((None, 30 * SECOND, HOUR)),
                        run_at=draw.choice((None, None, world.now + MINUTE)),
                        depends=(depends(draw.choice(known)),) if known and draw.random() < 0.3 else (),
                    )
                ]
            )
        case "claim":
            agents = draw.choice((None, ("pull",)))
            wanted, lease = leases.Wanted(agents=agents), draw.choice((5 * SECOND, HOUR))
            world.decide(lambda decision: leases.claim(decision, "w", wanted, 1, lease, world.mint))
        case "end" if running:
            world.end(draw.choice(running), draw.choice((None, None, "agent_error", "rate_limited", "lost")))
        case "cancel" if known:
            number = draw.choice(known)
            if not world[number].final:
                world.cancel(number)
        case "hold" if known:
            number = draw.choice(known)
            if world[number].status.value in ("queued", "blocked", "scheduled"):
                world.hold(number)
        case "resize" if draw.random() < 0.2:
            world.resize(draw.choice((0, 0, 1)), "pull")
        case "update" if known:
            number = draw.choice(known)
            if world[number].status.value in ("queued", "blocked"):
                world.update(number, **draw.choice(({"agent": "pull"}, {"agent": "claude"}, {"depends": ()})))
        case _:
            pass
