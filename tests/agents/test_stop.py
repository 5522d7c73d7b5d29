from __future__ import annotations

import asyncio
import os
import select
import signal
from pathlib import Path

import pytest

from opusd.agents.spec import Ended
from opusd.agents.traces import bearers
from opusd.testing.bench import Bench

# Grandchildren in sessions of their own, deaf to TERM; each says that it is there.
STUBBORN = """
import os, signal, sys
for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork() == 0:
            os.write(1, b"x")
            while True: signal.pause()
        os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break
"""


async def test_term_reaches_every_process_and_the_attempt_ends_at_once(bench: Bench) -> None:
    launch = bench.start("sh", "-c", "setsid sleep 600 & setsid sleep 600 & echo ready; wait")
    await bench.output("ready")
    begin = asyncio.get_running_loop().time()
    bench.pool.stop(1, 1, 30)
    ended = await bench.ended()
    assert (ended.exit.kind, ended.exit.signal) == ("signal", 15)
    assert asyncio.get_running_loop().time() - begin < 5
    assert bearers(launch.attempt_id) == []


async def test_an_agent_may_end_in_its_own_way_within_the_grace(bench: Bench) -> None:
    bench.start("sh", "-c", "trap 'echo saved; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    await bench.output("ready")
    bench.pool.stop(1, 1, 30)
    ended = await bench.ended()
    assert ended.exit.code == 5
    assert "saved" in ended.output_tail


async def test_forty_grandchildren_that_ignore_term_are_killed_after_the_grace(bench: Bench) -> None:
    launch = bench.python(STUBBORN + "signal.pause()", grace_s=60)
    await bench.output("x" * 40)
    assert len(bearers(launch.attempt_id)) == 41
    bench.pool.stop(1, 1, 0.3)
    await bench.ended()
    assert bearers(launch.attempt_id) == []


async def test_what_an_agent_leaves_behind_is_swept_before_its_attempt_ends(bench: Bench) -> None:
    launch = bench.python(STUBBORN + "sys.exit(9)", grace_s=0.3)
    ended = await bench.ended()
    assert ended.exit.code == 9
    assert ended.output_tail == "x" * 40
    assert bearers(launch.attempt_id) == []


async def test_the_exit_code_is_on_record_while_the_sweep_goes_on(bench: Bench) -> None:
    bench.python(STUBBORN + "sys.exit(9)", grace_s=60)
    await bench.output("x" * 40)
    await bench.there(bench.place() / "exit")
    assert bench.of(Ended) == []
    assert bench.pool.running() == [(1, 1)]
    bench.pool.stop(1, 1, 0)
    assert (await bench.ended()).exit.code == 9


async def test_a_later_stop_shortens_the_grace(bench: Bench) -> None:
    bench.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    await bench.output("ready")
    bench.pool.stop(1, 1, 600)
    bench.pool.stop(1, 1, 0.2)
    assert (await bench.ended(seconds=10)).exit.signal == 9


async def test_a_later_stop_does_not_lengthen_the_grace(bench: Bench) -> None:
    bench.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    await bench.output("ready")
    bench.pool.stop(1, 1, 0.2)
    bench.pool.stop(1, 1, 600)
    assert (await bench.ended(seconds=10)).exit.signal == 9


async def test_a_stop_in_the_breath_of_the_start_is_not_lost(bench: Bench) -> None:
    bench.start("sleep", "600")
    bench.pool.stop(1, 1, 5)
    assert (await bench.ended(seconds=10)).exit.kind == "signal"


async def test_a_stop_of_an_attempt_that_is_not_known_is_ignored(bench: Bench) -> None:
    bench.pool.stop(99, 1, 0)
    assert bench.reports == []


async def test_a_stop_while_the_disk_takes_no_orders_still_kills_after_the_grace(bench: Bench) -> None:
    bench.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done", grace_s=600)
    await bench.output("ready")
    (bench.place() / "orders.new").mkdir()  # nothing can be written there
    bench.pool.stop(1, 1, 0.2)
    assert (await bench.ended(seconds=10)).exit.signal == 9


async def test_a_stopped_process_and_a_stopped_shim_are_ended_too(bench: Bench) -> None:
    bench.start("sh", "-c", "kill -STOP $PPID; echo ready; kill -STOP $$", grace_s=600)
    await bench.output("ready")
    bench.pool.stop(1, 1, 600)
    assert (await bench.ended(seconds=10)).exit.kind == "signal"


async def test_an_agent_that_kills_its_shim_is_lost_and_nothing_runs_on(bench: Bench) -> None:
    launch = bench.python(STUBBORN + "os.write(1, b'!'); os.kill(os.getppid(), signal.SIGKILL); signal.pause()")
    ended = await bench.ended()
    assert ended.exit.kind == "lost"
    assert "!" in ended.output_tail
    assert bearers(launch.attempt_id) == []


async def test_the_agent_itself_dies_with_its_shim_even_when_no_daemon_looks(bench: Bench) -> None:
    launch = bench.start("env", "-u", "OPUS_ATTEMPT_ID", "sh", "-c", "echo pid $$; exec sleep 600")
    said = await bench.output("\n")
    agent = os.pidfd_open(int(said.split()[1]))
    shim = (await bench.started()).shim_pid
    await bench.pool.close()
    os.kill(shim, signal.SIGKILL)
    assert select.select([agent], [], [], 10)[0] == [agent]
    os.close(agent)
    assert bearers(launch.attempt_id) == []


async def test_the_shim_ends_an_attempt_past_its_deadline_when_no_daemon_does(bench: Bench) -> None:
    bench.start("sleep", "600", deadline_s=0.2, overtime_s=0.1)
    ended = await bench.ended(seconds=10)
    assert ended.exit.signal == 15
    assert "deadline" in ended.exit.message


async def test_a_deadline_that_was_moved_is_the_one_that_holds(bench: Bench) -> None:
    bench.start("sleep", "600", job=1, deadline_s=0.5, overtime_s=0)
    bench.start("sleep", "600", job=2, deadline_s=600, overtime_s=0)
    bench.pool.set_deadline(1, 1, 600)
    bench.pool.set_deadline(2, 1, 0.7)
    await bench.ended(2)
    assert bench.pool.running() == [(1, 1)]
    bench.pool.stop(1, 1, 0)
    assert "deadline" not in (await bench.ended(1)).exit.message


def pids_group() -> Path | None:
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        if os.access(root / "cgroup.procs", os.W_OK):
            group = root / f"opusd-test-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            if (group / "pids.max").exists():
                return group
            group.rmdir()
    return None


@pytest.mark.parametrize(("room", "who"), [(1, "no process for it"), (2, "fork")])
async def test_when_no_process_can_be_made_the_attempt_is_a_spawn_failure_with_eagain(
    bench: Bench, room: int, who: str
) -> None:
    """Room for the launcher alone, then for it and its spare, in a real cgroup: RLIMIT_NPROC does not bind root."""
    group = pids_group()
    if group is None:
        pytest.skip("no pids cgroup can be made here")
    root = group.parent / "cgroup.procs"
    try:
        spare = await bench.spare()
        for pid in (bench.pool.launcher_pid, spare):
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(room))
        if room == 1:
            os.kill(spare, signal.SIGKILL)
            await bench.reaped(spare)
        bench.start("true")
        ended = await bench.ended()
        assert (ended.exit.kind, ended.exit.errno) == ("spawn", 11)
        assert who in ended.exit.message
        (group / "pids.max").write_text("max")
        bench.start("true", job=2)
        assert (await bench.ended(2)).exit.code == 0
    finally:
        root.write_text(str(bench.pool.launcher_pid))
        for pid in (group / "cgroup.procs").read_text().split():
            root.write_text(pid)
        group.rmdir()
