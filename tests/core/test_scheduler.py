"""What a tick starts, ends and moves, and when it wants to be called again."""

from msgspec.structs import replace

from opusd.core.job import Ending, Tier
from opusd.core.lifecycle import Status
from opusd.core.limits import Quota
from opusd.core.scheduler import MAX_STARTS
from tests.core.world import AGENTS, HOUR, MINUTE, SECOND, World, depends, submission


def test_the_best_job_goes_first_over_all_lanes() -> None:
    world = World(max_concurrent=1)
    world.submit(agent="claude", tier=Tier.LOW)
    normal = world.submit(agent="codex")
    urgent = world.submit(agent="claude", tier=Tier.URGENT)
    assert world.started() == [urgent.id]
    world.end(urgent)
    assert world.started() == [normal.id]


def test_of_a_crowd_a_part_starts_in_one_tick_and_the_rest_in_the_next_which_is_due_at_once() -> None:
    crowd = 2 * MAX_STARTS + 1
    agents = {**AGENTS, "claude": replace(AGENTS["claude"], slots=crowd)}
    world = World(max_concurrent=crowd, agents=agents)
    jobs = [world.submit(agent="claude").id for _ in range(crowd)]
    plans = [world.tick() for _ in range(3)]
    assert [job.id for plan in plans for job in plan.start] == jobs
    assert [len(plan.start) for plan in plans] == [MAX_STARTS, MAX_STARTS, 1]
    assert [plan.wake_at for plan in plans] == [world.now, world.now, None]


def test_the_pool_and_each_agent_hold_no_more_than_their_slots() -> None:
    world = World(max_concurrent=3)
    claude = [world.submit(agent="claude") for _ in range(3)]
    codex = [world.submit(agent="codex") for _ in range(3)]
    assert world.started() == [claude[0].id, claude[1].id, codex[0].id]
    assert world.started() == []
    world.end(codex[0])
    assert world.started() == [codex[1].id]
    assert {world[job].run.slot for job in world.running()} == {1, 2, 3}


def test_a_job_that_cannot_be_placed_keeps_back_none_that_can() -> None:
    world = World(capacities={"gpu": 1})
    first = world.submit(agent="claude", needs={"gpu": 1})
    waits = world.submit(agent="claude", tier=Tier.URGENT, needs={"gpu": 1})
    assert world.started() == [waits.id]
    other = world.submit(agent="codex", tier=Tier.LOW)
    assert world.started() == [other.id]
    world.end(waits)
    assert world.started() == [first.id]


def test_a_name_that_config_does_not_know_is_a_mutex() -> None:
    world = World()
    first, second = (world.submit(agent="claude", needs={"repo:/srv/app": 1}) for _ in range(2))
    assert world.started() == [first.id]
    world.end(first)
    assert world.started() == [second.id]


def test_what_an_attempt_needs_is_held_until_its_last_process_is_gone() -> None:
    world = World()
    first, second = (world.submit(agent="claude", needs={"repo": 1}) for _ in range(2))
    world.started()
    world.cancel(first)
    assert world[first].status is Status.CANCELLING
    assert world.started() == []
    world.end(first, "agent_error", first=False)
    assert world.started() == [second.id]


def test_a_human_starts_at_once_when_the_pool_and_the_agent_are_full() -> None:
    world = World(max_concurrent=2, interactive_slots=1)
    for _ in range(3):
        world.submit(agent="claude")
    assert len(world.started()) == 2
    human = world.submit(agent="claude", interactive=True, tier=Tier.CRITICAL)
    second = world.submit(agent="claude", interactive=True, tier=Tier.CRITICAL)
    assert world.started() == [human.id]
    assert world[human].run.over
    assert world.started() == []
    world.end(human)
    assert world.started() == [second.id]


def test_an_interactive_job_takes_a_plain_slot_when_one_is_free() -> None:
    world = World(max_concurrent=2)
    human = world.submit(agent="claude", interactive=True, tier=Tier.CRITICAL)
    assert world.started() == [human.id]
    assert not world[human].run.over


def test_a_critical_job_that_is_not_interactive_and_an_heir_of_one_open_no_interactive_slot() -> None:
    world = World(max_concurrent=1)
    world.submit(agent="claude")
    world.started()
    upstream = world.submit(agent="claude")
    world.submit(agent="claude", interactive=True, tier=Tier.CRITICAL, depends=(depends(upstream.id),))
    world.submit(agent="claude", tier=Tier.CRITICAL)
    assert world.state.inheritance.of(upstream.id).tier is Tier.CRITICAL
    assert world.started() == []


def test_an_interactive_slot_does_not_open_for_an_agent_without_slots() -> None:
    world = World()
    world.submit(None, interactive=True, tier=Tier.CRITICAL)
    assert world.started() == []


def test_slots_of_a_job_that_waits_for_its_children_count_as_free() -> None:
    world = World(max_concurrent=1)
    parent = world.submit(agent="codex")
    world.started()
    child = world.submit(agent="codex", parent=parent.id)
    assert world.started() == []
    world.state.lent.add(parent.id)
    assert world.started() == [child.id]
    assert world.state.pool_busy() == 1
    world.submit(agent="codex")
    assert world.started() == []


def test_an_interactive_slot_of_a_job_that_waits_for_its_children_counts_as_free_too() -> None:
    world = World(max_concurrent=1, interactive_slots=1)
    world.submit(agent="codex")
    world.started()
    human = world.submit(agent="codex", interactive=True)
    assert world.started() == [human.id]
    world.state.lent.add(human.id)
    second = world.submit(agent="codex", interactive=True)
    assert world.started() == [second.id]


def test_needs_of_a_job_that_waits_for_its_children_stay_held() -> None:
    world = World()
    parent = world.submit(agent="codex", needs={"repo": 1})
    world.started()
    world.state.lent.add(parent.id)
    world.submit(agent="codex", needs={"repo": 1})
    assert world.started() == []


def test_a_group_runs_no_more_than_its_max_running_and_keeps_back_no_other() -> None:
    world = World(groups={"small": Quota(max_running=1)})
    first, second = (world.submit(agent="claude", group="small") for _ in range(2))
    other = world.submit(agent="claude", tier=Tier.LOW)
    assert world.started() == [first.id, other.id]
    world.end(first)
    assert world.started() == [second.id]


def test_a_pause_of_queue_agent_or_group_holds_for_interactive_jobs_too() -> None:
    for name in ("*", "agent:claude", "group:g"):
        world = World()
        world.submit(agent="claude", group="g")
        human = world.submit(agent="claude", group="g", interactive=True, tier=Tier.CRITICAL)
        world.pause(name)
        assert world.started() == [], name
        assert world.settings["paused"] == [name]
        world.resume(name)
        assert world.started()[0] == human.id
        assert world.settings["paused"] == []


def test_a_pause_of_one_agent_or_group_lets_the_others_go() -> None:
    world = World()
    world.submit(agent="claude")
    codex = world.submit(agent="codex")
    grouped = world.submit(command=["true"], group="g")
    world.pause("agent:claude")
    world.pause("group:g")
    assert world.started() == [codex.id]
    world.resume("group:g")
    assert world.started() == [grouped.id]


def test_a_draining_queue_starts_nothing() -> None:
    world = World()
    world.submit()
    world.state.draining = True
    assert world.started() == []


def test_a_job_that_was_first_for_ten_minutes_reserves_what_it_needs() -> None:
    """One of two gpus is always taken: without a reservation the job that wants both would wait for ever."""
    world = World(capacities={"gpu": 2}, max_concurrent=5)
    ones = [world.submit(command=["true"], needs={"gpu": 1}) for _ in range(2)]
    assert world.started() == [job.id for job in ones]
    both = world.submit(command=["true"], needs={"gpu": 2})
    stream = []
    while world.state.jobs[both.id].status is Status.QUEUED:
        assert len(stream) < 10, "starved"
        stream.append(world.submit(command=["true"], needs={"gpu": 1}))
        world.tick(2 * MINUTE)
        world.end(min(number for number in world.running()))
        world.tick()
    overtook = [job for job in stream if world[job].attempts]
    assert 4 <= len(overtook) <= 6  # those of ten minutes, one every two


def test_a_reservation_keeps_back_only_what_it_needs_and_only_those_behind_it() -> None:
    world = World(capacities={"gpu": 2})
    one = world.submit(command=["true"], needs={"gpu": 1})
    world.started()
    both = world.submit(command=["true"], needs={"gpu": 2})
    world.tick()
    world.tick(11 * MINUTE)
    behind = world.submit(command=["true"], needs={"gpu": 1})
    disk = world.submit(command=["true"], needs={"disk": 1})
    assert world.started() == [disk.id]
    ahead = world.submit(command=["true"], tier=Tier.CRITICAL, needs={"gpu": 1})
    assert world.started() == [ahead.id]
    world.end(one)
    world.end(ahead)
    assert world.started() == [both.id]
    world.end(both)
    assert world.started() == [behind.id]


def _reserving() -> tuple[World, int, int]:
    """A world where job `both` has reserved two gpus, of which one is held, and `behind` waits for the other."""
    world = World(capacities={"gpu": 2}, groups={"g": Quota(max_running=3)})
    world.submit(agent="claude", needs={"gpu": 1})
    world.started()
    both = world.submit(command=["true"], needs={"gpu": 2}, group="g")
    world.tick()
    behind = world.submit(agent="claude", tier=Tier.LOW, needs={"gpu": 1})
    world.pause("agent:claude")
    world.tick(11 * MINUTE)
    world.resume("agent:claude")
    assert world.started() == []
    return world, both.id, behind.id


def test_a_reservation_ends_when_its_job_leaves_is_paused_or_needs_something_else() -> None:
    for end in (
        lambda world, both: world.cancel(both),
        lambda world, both: world.hold(both),
        lambda world, _: world.pause("group:g"),
        lambda world, _: world.pause("agent:exec"),
        lambda world, _: world.resize(0, "exec"),
        lambda world, both: world.update(both, needs={"disk": 1}),
        lambda world, both: world.update(both, run_at=world.now + HOUR),
    ):
        world, both, behind = _reserving()
        end(world, both)
        assert behind in world.started()


def test_a_reservation_that_falls_behind_another_job_does_not_keep_that_one_back() -> None:
    world, both, behind = _reserving()
    world.update(behind, tier=Tier.CRITICAL)
    assert world.started() == [behind]
    assert world[both].status is Status.QUEUED


def test_the_clock_of_the_first_starts_anew_when_another_was_first_meanwhile() -> None:
    world = World(capacities={"gpu": 2})
    world.submit(agent="claude", needs={"gpu": 1})
    world.started()
    world.submit(command=["true"], needs={"gpu": 2})
    world.tick(6 * MINUTE)
    critical = world.submit(command=["true"], tier=Tier.CRITICAL, needs={"gpu": 2})
    world.tick(MINUTE)
    world.cancel(critical)
    world.tick(MINUTE)
    other = world.submit(agent="claude", needs={"gpu": 1})
    assert world.started(3 * MINUTE) == [other.id]


def test_a_ready_job_without_an_attempt_expires_and_its_dependents_are_told() -> None:
    world = World(max_concurrent=0)
    job = world.submit(expires_in=HOUR)
    waits = world.submit(depends=(depends(job.id),))
    goes = world.submit(depends=(depends(job.id, "any"),))
    assert world.tick(HOUR - 1).wake_at == world.now + 1
    assert world[job].status is Status.QUEUED
    world.tick(1)
    assert world[job].status is Status.EXPIRED
    assert world[job].completed_at == world.now
    assert world[waits].status is Status.BLOCKED
    assert world[goes].status is Status.QUEUED


def test_held_blocked_scheduled_backing_off_and_once_started_jobs_do_not_expire() -> None:
    world = World()
    held = world.submit(held=True, expires_in=SECOND)
    blocked = world.submit(depends=(depends(held.id),), expires_in=SECOND)
    later = world.submit(run_at=world.now + HOUR, expires_in=HOUR)
    tried = world.submit(agent="claude", expires_in=SECOND)
    world.started()
    world.end(tried, "lost")
    world.pause("*")
    world.tick(HOUR)
    assert [world[job].status for job in (held, blocked, later, tried)] == ["held", "blocked", "queued", "queued"]
    assert world.state.expires_at(world[later]) == world.now + HOUR
    world.tick(HOUR)
    assert world[later].status is Status.EXPIRED


def test_a_scheduled_job_is_ready_at_its_run_at_and_stands_in_line_from_then() -> None:
    world = World()
    job = world.submit(run_at=world.now + HOUR)
    assert job.status is Status.SCHEDULED
    plan = world.tick(HOUR - 1)
    assert plan.start == []
    assert plan.wake_at == world.now + 1
    assert world.started(1) == [job.id]
    assert world[job].queued_at == world.now


def test_a_timeout_ends_the_attempt_while_the_job_is_still_running() -> None:
    world = World(grace=7 * SECOND)
    job = world.submit(agent="claude", timeout=MINUTE)
    world.started()
    plan = world.tick(MINUTE)
    assert [stopped.id for stopped in plan.stop] == [job.id]
    now = world[job]
    assert now.status is Status.RUNNING
    assert now.run.ending is Ending.TIMEOUT
    assert now.run.kill_at == world.now + 7 * SECOND
    assert world.tick(MINUTE).stop == []


def test_a_crowd_that_is_due_at_once_is_served_in_several_ticks() -> None:
    world = World(max_concurrent=0)
    world.submit_batch([submission(run_at=world.now + 1) for _ in range(2500)])
    plan = world.tick(1)
    assert world.state.queued() == 1000
    assert plan.wake_at == world.now
    world.tick()
    assert world.tick().wake_at is None
    assert world.state.queued() == 2500


def test_lowering_the_pool_ends_nothing_and_starts_nothing_before_there_is_room() -> None:
    world = World(max_concurrent=2)
    jobs = [world.submit(agent="claude") for _ in range(4)]
    world.started()
    world.resize(1)
    assert len(world.running()) == 2
    world.end(jobs[0])
    assert world.started() == []
    world.end(jobs[1])
    assert world.started() == [jobs[2].id]
    world.resize(2, "codex")
    world.resize(3)
    assert world.settings["slots:codex"] == {"value": 2, "configured": 1}
    assert world.started() == [jobs[3].id]


def test_what_is_undone_is_started_again_in_the_same_order() -> None:
    world = World(autocommit=False)
    jobs = [world.submit(agent="claude", needs={"repo": 1}) for _ in range(3)]
    world.commit()
    assert world.started() == [jobs[0].id]
    world.fail()
    assert world.running() == []
    assert world.started() == [jobs[0].id]
    world.end(jobs[0])
    world.fail()
    assert world.started() == [jobs[0].id]


def test_timers_of_jobs_that_left_do_not_pile_up() -> None:
    world = World()
    for _ in range(20):
        for job in world.submit_batch([submission(expires_in=1000 * HOUR) for _ in range(200)]):
            world.cancel(job)
    assert len(world.state.timers) < 2000
    assert world.state.jobs == {}
    later = world.submit(expires_in=HOUR)
    assert world.state.next_due() == (world.now + HOUR, replace(later))
