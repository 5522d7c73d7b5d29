"""Dispatch rests while the machine has too little memory or disk, and says so."""

import pytest

from opusd.core import explain, room
from opusd.core.explain import Constraint
from opusd.core.room import Room
from tests.core.world import SECOND, World, limits

MIB = 1 << 20
GIB = 1 << 30
TIGHT = "the machine has 300 MiB of free memory and min_free_memory is 512 MiB"


def tight() -> World:
    world = World(min_free_memory=512 * MIB)
    world.state.room = Room(free_memory=300 * MIB)
    return world


def test_nothing_is_dispatched_while_memory_is_short_and_every_job_says_so() -> None:
    world = tight()
    job, message = world.submit(), world.submit(interactive=True)
    plan = world.tick()
    assert plan.start == []
    assert plan.wake_at == world.now + room.AGAIN
    assert explain.constraints(world.state, world[job], world.now)[0] == Constraint("machine", TIGHT)
    assert explain.reason(world.state, world[message], world.now) == TIGHT
    world.state.room = Room(free_memory=512 * MIB)
    assert world.started(room.AGAIN) == [message.id, job.id]


def test_what_runs_goes_on_and_jobs_of_workers_are_theirs() -> None:
    world = World(min_free_memory=512 * MIB)
    running = world.submit()
    world.started()
    world.state.room = Room(free_memory=0)
    pulled = world.submit(None)
    assert world.tick(SECOND).stop == []
    assert world.running() == [running.id]
    assert [one.kind for one in explain.constraints(world.state, world[pulled], world.now)] == ["worker"]


def test_it_is_looked_at_again_only_while_jobs_are_queued() -> None:
    world = tight()
    assert world.tick().wake_at is None
    job = world.submit()
    assert world.tick().wake_at is not None
    world.hold(job)
    assert world.tick().wake_at is None


def test_the_audit_trail_tells_when_it_begins_and_when_it_ends() -> None:
    world = tight()
    world.autocommit = False
    world.submit()
    for _ in range(3):
        world.tick(SECOND)
    world.state.room = Room(free_memory=GIB)
    world.tick(SECOND)
    world.tick(SECOND)
    noted = [(event.kind, event.detail) for decision in world.open for event in decision.events]
    assert noted == [("machine.short", {"reason": TIGHT}), ("machine.ready", None)]


def test_what_was_noted_is_undone_with_its_decision_and_noted_again() -> None:
    world = tight()
    world.autocommit = False
    world.tick()
    world.fail()
    assert world.state.short == ()
    world.tick()
    assert [event.kind for event in world.open[0].events] == ["machine.short"]


@pytest.mark.parametrize(
    ("least", "found", "words"),
    [
        (None, Room(free_disk=0, disk=GIB), []),
        ("auto", Room(free_disk=None), []),
        ("auto", Room(free_disk=100 * MIB, disk=50 * GIB), []),
        (
            "auto",
            Room(free_disk=100 * MIB - 1, disk=50 * GIB),
            ["the disk of the state folder has 99 MiB free and min_free_disk is 100 MiB"],
        ),
        ("auto", Room(free_disk=3 * MIB, disk=24 * MIB), []),
        (
            "auto",
            Room(free_disk=MIB, disk=24 * MIB),
            ["the disk of the state folder has 1 MiB free and min_free_disk is 2 MiB"],
        ),
        (
            5 * GIB,
            Room(free_disk=int(1.5 * GIB), disk=9 * GIB),
            ["the disk of the state folder has 1.5 GiB free and min_free_disk is 5 GiB"],
        ),
    ],
)
def test_the_least_free_disk_is_given_or_a_share_of_a_small_disk(
    least: int | str | None, found: Room, words: list[str]
) -> None:
    assert list(room.lacking(limits(min_free_disk=least), found)) == words
