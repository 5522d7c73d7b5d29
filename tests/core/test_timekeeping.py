"""Whatever the wall's clock does: what lasts a while lasts as long, and what names a wall time is compared again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opusd.core.job import Ending, Job, Tier
from opusd.core.lifecycle import Status
from opusd.core.limits import Agent
from opusd.core.timekeeping import TOLERANCE
from opusd.testing.shape import shape_of
from tests.core.world import AGENTS, HOUR, MINUTE, SECOND, START, World, limits, submission

DAY = 24 * HOUR
TO_1970 = -START
JUMPS = st.sampled_from((TO_1970, -3 * DAY, -HOUR, -MINUTE, SECOND // 3, -SECOND // 3, HOUR, 3 * DAY, -TO_1970))
STEPS = st.lists(st.tuples(st.integers(0, 40 * SECOND), st.one_of(st.none(), JUMPS)), min_size=1, max_size=40)


def passed(world: World) -> int:
    """Monotonic time."""
    return world.now - world.offset


def run(world: World, steps: list[tuple[int, int | None]], over: list[str]) -> dict[str, int]:
    """Let time pass and the clock jump; at what monotonic time each of `over` happened (it says so itself)."""
    happened: dict[str, int] = {}
    for later, jump in steps:
        world.now += later
        if jump is not None:
            world.jump(jump)
        world.tick()
        for name in over:
            if name not in happened and DONE[name](world):
                happened[name] = passed(world)
    return happened


DONE = {
    "timeout": lambda world: (run := world[1].run) is not None and run.ending is Ending.TIMEOUT,
    "expiry": lambda world: world[2].status is Status.EXPIRED,
    "backoff": lambda world: world[3].status is not Status.RETRYING,
}
LASTS = {"timeout": 5 * MINUTE, "expiry": 4 * MINUTE, "backoff": MINUTE}


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_no_sequence_of_jumps_ends_anything_early_or_late(steps: list[tuple[int, int | None]]) -> None:
    agents = {**AGENTS, "codex": Agent("codex", slots=1)}
    world = World(limits(agents=agents, max_concurrent=2))
    world.submit(command=["sleep"], timeout=LASTS["timeout"])
    world.submit(agent="pull", expires_in=LASTS["expiry"])
    world.submit(agent="codex")
    world.started()
    world.end(3, "agent_error")
    backoff = world[3].due_at - world.now
    begun = passed(world)
    happened = run(world, steps, list(DONE))
    bounds = {**LASTS, "backoff": backoff}
    ticks = [0]
    for later, _ in steps:
        ticks.append(ticks[-1] + later)
    for name, lasts in bounds.items():
        if name in happened:
            assert happened[name] - begun >= lasts - TOLERANCE
            before = max(at for at in ticks if at < happened[name] - begun or at == 0)
            assert before <= lasts + TOLERANCE, f"{name} was met later than at the first look after its time"
        else:
            assert ticks[-1] <= lasts + TOLERANCE, f"{name} never happened"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(SECOND * 3, HOUR), st.one_of(st.none(), JUMPS)), min_size=2, max_size=12))
def test_alike_jobs_stand_in_the_order_in_which_they_came_whatever_the_clock_said(
    steps: list[tuple[int, int | None]],
) -> None:
    world = World(max_concurrent=0)
    came = []
    for later, jump in steps:
        world.now += later
        if jump is not None:
            world.jump(jump)
        came.append(world.submit(agent="claude").id)
    assert [world.state.position(world[number])[0] for number in came] == list(range(1, len(came) + 1))
    world.restart()
    assert [world.state.position(world[number])[0] for number in came] == list(range(1, len(came) + 1))


def test_a_jump_moves_what_lasts_and_leaves_what_names_a_wall_time() -> None:
    world = World(max_concurrent=1)
    running = world.submit(agent="claude", timeout=HOUR)
    at = world.now + 2 * HOUR
    scheduled = world.submit(agent="claude", run_at=at)
    world.started()
    due = world[running].run.timeout_at
    world.jump(HOUR)
    assert world.tick().stop == []
    assert world[running].run.timeout_at == due + HOUR
    assert world[running].run.started_at == START, "when it began is history"
    assert world[scheduled].run_at == at
    world.jump(2 * HOUR)
    world.tick()
    assert world[scheduled].status is Status.QUEUED


def test_a_reset_that_a_provider_named_stays_and_a_cool_down_without_one_moves() -> None:
    world = World(limits(agents={**AGENTS, "codex": Agent("codex", slots=1)}))
    named = world.submit(agent="claude")
    other = world.submit(agent="codex")
    world.started()
    reset = world.now + HOUR
    world.end(named, "rate_limited", limited_until=reset)
    world.end(other, "rate_limited")
    until = world.state.cooling["codex"].until
    world.jump(30 * MINUTE)
    world.tick()
    assert world.state.cooling["claude"].until == reset
    assert world.state.cooling["codex"].until == until + 30 * MINUTE
    world.jump(30 * MINUTE)
    assert world.started() == [named.id], "its reset is past, as the wall's clock has it"


def test_a_probe_is_given_its_minute_whatever_the_clock_does() -> None:
    world = World()
    world.submit(agent="claude")
    world.started()
    world.end(1, "rate_limited")
    world.submit(agent="claude")
    assert world.started(2 * MINUTE) == [1]
    world.jump(3 * DAY)
    assert world.started(59 * SECOND) == []
    assert world.started(2 * SECOND) == [2]


def test_a_question_is_open_as_long_as_ever() -> None:
    world = World()
    job = world.submit(agent="claude")
    world.started()
    world.end(job, question=("which?", ()))
    until = world[job].extra.question.until
    world.jump(9 * DAY)
    world.tick()
    assert world[job].status is Status.NEEDS_INPUT
    assert world[job].extra.question.until == until + 9 * DAY


def test_who_is_first_reserves_after_its_ten_minutes_and_no_jump_makes_them_pass() -> None:
    world = World(max_concurrent=2)
    world.submit(agent="claude", needs={"gpu": 1})
    world.started()
    world.submit(agent="codex", needs={"gpu": 1})
    world.tick()
    since = world.state.first[1]
    world.jump(HOUR)
    world.tick()
    assert world.state.first[1] == since + HOUR


def test_launches_are_spread_however_the_clock_jumps() -> None:
    world = World(limits(agents={"claude": Agent("claude", slots=3, starts_per_minute=1)}))
    world.submit_batch([submission(), submission()])
    assert world.started() == [1]
    world.jump(-3 * DAY)
    assert world.started(59 * SECOND) == []
    assert world.started(2 * SECOND) == [2]


def test_a_jump_is_undone_with_the_decision_that_saw_it_and_seen_again() -> None:
    world = World(limits(agents={"claude": Agent("claude", slots=3, starts_per_minute=1)}, max_concurrent=1))
    job = world.submit(agent="claude", timeout=HOUR)
    world.submit(agent="claude", expires_in=HOUR)
    world.started()
    world.tick()
    before = (shape_of(world.state), world.state.first, dict(world.state.last_start))
    world.autocommit = False
    for _ in range(2):
        world.jump(DAY)
        world.decide(lambda _: None)
        assert world[job].run.timeout_at == START + DAY + HOUR
        assert world.state.expires_at(world[2]) == START + DAY + HOUR
        assert world.state.last_start == {"claude": START + DAY}
        world.fail()
        assert (shape_of(world.state), world.state.first, dict(world.state.last_start)) == before
        world.jump(-DAY)
    assert shape_of(world.rebuilt()) == before[0]


def test_a_jump_while_no_daemon_ran_is_seen_by_the_next_in_the_same_boot_alone() -> None:
    world = World(max_concurrent=1)
    running = world.submit(agent="claude", timeout=HOUR)
    waiting = world.submit(agent="claude", expires_in=HOUR)
    world.started()
    world.jump(3 * DAY)
    world.restart()
    assert world.tick().stop == []
    assert world[waiting].status is Status.QUEUED
    world.boot = "boot-2"
    world.jump(3 * DAY)
    world.restart()
    assert [job.id for job in world.tick().stop] == [running.id], "after a reboot what the wall's clock says has passed"
    assert world[waiting].status is Status.EXPIRED


def test_a_machine_that_boots_in_1970_and_then_learns_the_time_keeps_what_was_waiting() -> None:
    world = World(limits(agents={"claude": Agent("claude", slots=1)}))
    job = world.submit(agent="claude")
    world.started()
    world.end(job, "agent_error")
    backoff = world[job].due_at - world.now
    world.boot = "boot-2"
    world.offset = world.now = 10 * SECOND
    world.restart(seen=START)
    world.tick()
    assert world[job].due_at - world.now == pytest.approx(backoff, abs=2 * SECOND)
    world.jump(START + HOUR)
    world.tick()
    assert world[job].due_at - world.now == pytest.approx(backoff, abs=2 * SECOND)


def test_a_timeout_that_is_given_after_a_jump_counts_from_the_true_start() -> None:
    world = World()
    job = world.submit(agent="claude")
    world.started()
    world.jump(3 * DAY)
    world.now += MINUTE
    changed = world.update(job, timeout=HOUR)
    assert changed.run.timeout_at == world.now + 59 * MINUTE


def test_a_timeout_after_a_jump_is_told_as_what_it_was() -> None:
    world = World(limits(agents={**AGENTS, "claude": Agent("claude", retry=AGENTS["exec"].retry)}))
    job = world.submit(agent="claude", timeout=HOUR)
    world.started()
    world.jump(3 * DAY)
    world.tick(HOUR)
    world.end(job, "agent_error", first=False)
    assert world.outcomes[job.id].error["message"] == "timed out after 3600 s"


def test_expiry_may_be_asked_for_after_jumps_and_counts_from_when_the_job_became_ready() -> None:
    world = World(max_concurrent=0)
    old = world.submit(agent="claude")
    world.jump(-3 * DAY)
    new = world.submit(agent="claude")
    world.now += MINUTE
    for job in (old, new):
        changed = world.update(job, expires_in=HOUR)
        assert world.state.expires_at(changed) == world.now + 59 * MINUTE


def test_a_link_of_a_chain_stands_where_the_one_before_stood() -> None:
    agents = {**AGENTS, "codex": Agent("codex", escalate_to="claude", escalate_after=1)}
    world = World(limits(agents=agents))
    world.jump(3 * DAY)
    job = world.submit(agent="codex")
    world.started()
    world.jump(-9 * DAY)
    world.end(job, "agent_error")
    link = world[job.id + 1]
    assert link.extra.escalated_from == job.id
    assert link.ready_since == world[job].ready_since == START


def test_jobs_that_keep_a_jump_and_nothing_else_share_what_keeps_it() -> None:
    world = World(max_concurrent=0)
    world.jump(DAY)
    jobs = world.submit_batch([submission(), submission()])
    assert jobs[0].extra is jobs[1].extra
    assert jobs[0].with_extra(limits=1).with_extra(limits=0).extra is jobs[0].extra


def test_steps_below_the_tolerance_add_up_to_a_jump() -> None:
    world = World()
    job = world.submit(agent="claude", timeout=HOUR)
    world.started()
    due = world[job].run.timeout_at
    for _ in range(2):
        world.jump(TOLERANCE)
        world.tick()
    assert world[job].run.timeout_at == due + 2 * TOLERANCE


def test_a_critical_job_comes_first_come_first_served_whatever_the_clock_says() -> None:
    world = World(max_concurrent=0)
    first: Job = world.submit(agent="claude", tier=Tier.CRITICAL)
    world.jump(-DAY)
    second = world.submit(agent="claude", tier=Tier.CRITICAL)
    assert world.state.position(world[first])[0] < world.state.position(world[second])[0]
