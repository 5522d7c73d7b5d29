"""Which decisions leave a tick nothing to do: it is not called for those."""

from __future__ import annotations

import random

import pytest

from opusd.core import leases, scheduler
from opusd.core.limits import Agent, Limits, Quota
from opusd.core.retry import PRESETS
from tests.core.world import HOUR, MINUTE, SECOND, World, depends, submission

AGENTS = {
    "claude": Agent("claude", slots=1, retry=PRESETS["none"]),
    "pull": Agent("pull", slots=0, retry=PRESETS["fast"]),
    "paced": Agent("paced", slots=0, starts_per_minute=2),
}
RULES = Limits(agents=AGENTS, default_agent="claude", max_concurrent=1, capacities={"gpu": 1})
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


@pytest.mark.parametrize("rules", [RULES, BUSY], ids=["plain", "quotas"])
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
    match draw.choice(("submit", "submit", "submit", "claim", "claim", "end", "cancel", "hold", "update")):
        case "submit":
            world.admit(
                [
                    submission(
                        agent=draw.choice(("pull", "pull", "pull", "paced", "claude")),
                        needs=draw.choice(({}, {}, {"gpu": 1})),
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
        case "update" if known:
            number = draw.choice(known)
            if world[number].status.value in ("queued", "blocked"):
                world.update(number, agent=draw.choice(("pull", "claude")))
        case _:
            pass
