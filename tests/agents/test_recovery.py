from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opusd.agents import kernel, shim, traces
from opusd.agents.launcher import Launcher
from opusd.agents.spec import Adopted, Ended, Launch, NeverRan, Started
from opusd.testing.bench import Bench


class Daemon:
    """Another process with a pool on the same folder."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.launcher = 0

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return json.loads(await asyncio.to_thread(self.process.stdout.readline))

    def start(self, launch: Launch) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(launch) + b"\n")
        self.process.stdin.flush()

    async def started(self, launch: Launch) -> dict[str, Any]:
        self.start(launch)
        while (said := await self.line()).get("type") != "Started":
            pass
        return said

    async def working(self, launch: Launch) -> dict[str, Any]:
        """Start it, and wait until the agent itself runs: an instant earlier it may still be one that never ran."""
        fifo = Path(launch.workdir) / "begun"
        os.mkfifo(fifo)
        program, flag, script = launch.argv
        argv = [program, flag, f"echo > {fifo}; {script}"]
        said = await self.started(msgspec.structs.replace(launch, argv=argv))
        await asyncio.to_thread(fifo.read_text)
        return said

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.wait)


@pytest.fixture
async def daemon(bench: Bench) -> AsyncIterator[Daemon]:
    process = program(
        sys.executable,
        str(Path(__file__).with_name("daemon.py")),
        str(bench.runs),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    daemon = Daemon(process)
    daemon.launcher = (await daemon.line())["launcher"]
    yield daemon
    await daemon.kill()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()


def program(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
    """Not by asyncio: nothing of a child watcher of its own is to mix with what is tested."""
    return subprocess.Popen(argv, **options)


async def over(pid: int) -> None:
    """Until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    done = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, done.set)
    try:
        async with asyncio.timeout(10):
            await done.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


async def test_agents_outlive_the_daemon_and_are_adopted_with_code_and_gapless_output(
    bench: Bench, daemon: Daemon
) -> None:
    fifo = bench.folder / "go"
    os.mkfifo(fifo)
    count = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done"
    launch = bench.launch("sh", "-c", f"{count}; read x < {fifo}; {count}; exit 17")
    said = await daemon.working(launch)
    await daemon.kill()
    await over(daemon.launcher)  # it ends with the daemon
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    assert bench.reports == [Adopted(job=1, attempt=1, shim_pid=said["shim_pid"])]
    assert bench.pool.attempt_of(said["shim_pid"]) == (1, 1)
    await asyncio.to_thread(fifo.write_text, "go\n")
    ended = await bench.ended()
    assert ended.exit.code == 17
    text, offset, eof = "", 0, False
    while not eof:
        chunk = await bench.pool.read_output(1, 1, offset, 5000, 5)
        assert chunk.offset == offset
        text, offset, eof = text + chunk.data, chunk.next_offset, chunk.eof
    assert [int(line) for line in text.split()] == [*range(2000), *range(2000)]
    assert len(bench.reports) == 2


async def test_an_attempt_that_ended_while_no_daemon_was_there_is_reported_with_its_code(
    bench: Bench, daemon: Daemon
) -> None:
    launch = bench.launch("sh", "-c", 'echo done; echo {} > "$OPUS_RESULT"; exit 21')
    said = await daemon.working(launch)
    await daemon.kill()
    await over(said["shim_pid"])
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    [ended] = bench.reports
    assert isinstance(ended, Ended)
    assert (ended.exit.code, ended.output_tail, ended.result) == (21, "done\n", b"{}\n")


async def test_an_adopted_attempt_can_be_stopped(bench: Bench, daemon: Daemon) -> None:
    launch = bench.launch("sh", "-c", "exec sleep 600")
    await daemon.working(launch)
    await daemon.kill()
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    bench.pool.stop(1, 1, 30)
    assert (await bench.ended()).exit.signal == 15


@pytest.mark.slow
async def test_the_time_that_is_left_becomes_the_deadline_of_an_adopted_attempt(bench: Bench, daemon: Daemon) -> None:
    launch = bench.launch("sh", "-c", "exec sleep 600", deadline_s=600.0, overtime_s=0.0)
    await daemon.working(launch)
    await daemon.kill()
    await bench.pool.recover([(1, 1, launch.attempt_id, 0.3)])
    assert "deadline" in (await bench.ended(seconds=10)).exit.message


async def test_a_stop_goes_on_when_the_daemon_dies_in_its_grace(bench: Bench) -> None:
    launch = bench.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done", grace_s=600)
    await bench.output("ready")
    bench.pool.stop(1, 1, 0.5)
    shim_pid = (await bench.started()).shim_pid
    await bench.pool.close()
    await over(shim_pid)
    bench.new_pool()
    await bench.pool.open()
    bench.reports.clear()
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    assert (await bench.ended()).exit.signal == 9


async def test_what_an_earlier_daemon_ordered_holds_for_the_next(bench: Bench) -> None:
    launch = bench.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done", grace_s=600)
    await bench.output("ready")
    bench.pool.stop(1, 1, 300)
    orders = json.loads((bench.place() / "orders").read_text())
    await bench.pool.close()
    pool = bench.new_pool()
    await pool.open()
    await pool.recover([(1, 1, launch.attempt_id, 900.0)])
    pool.stop(1, 1, 600)
    now = json.loads((bench.place() / "orders").read_text())
    assert now["kill_at"] == orders["kill_at"]
    assert now["deadline"] > now["kill_at"]
    pool.stop(1, 1, 0)
    await bench.ended()
    await pool.close()


async def test_an_attempt_whose_folder_is_not_there_never_ran(bench: Bench) -> None:
    await bench.pool.recover([(1, 1, "abc", None)])
    assert bench.reports == [NeverRan(job=1, attempt=1)]
    assert bench.pool.running() == []


async def test_an_attempt_that_never_ran_is_still_said_so_by_the_next_daemon(bench: Bench) -> None:
    await bench.pool.recover([(1, 1, "abc", None)])
    await bench.pool.recover([(1, 1, "abc", None)])
    assert bench.reports == [NeverRan(job=1, attempt=1)] * 2


async def test_a_shim_that_comes_late_finds_the_fence_and_launches_nothing(bench: Bench) -> None:
    launch = bench.launch("sh", "-c", f"touch {bench.folder}/ran")
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    heard: list[dict[str, Any]] = []
    reaped = asyncio.Event()

    def hear(message: dict[str, Any], handle: int | None) -> None:
        heard.append(message)
        if handle is not None:
            os.close(handle)
        if "reaped" in message:
            reaped.set()

    launcher = Launcher(hear, lambda: None)
    launcher.start()
    launcher.send(bench.pool._message(launch, bench.place()))
    async with asyncio.timeout(10):
        await reaped.wait()
    assert heard[-1]["status"] == shim.EXIT_CLAIMED == 75
    assert not (bench.folder / "ran").exists()
    await launcher.close()


async def test_a_daemon_killed_between_commit_and_fork_runs_the_attempt_in_no_life(
    bench: Bench, daemon: Daemon
) -> None:
    launch = bench.launch("sh", "-c", f"touch {bench.folder}/ran")
    os.kill(daemon.launcher, signal.SIGSTOP)  # the launch lies in its socket
    daemon.start(launch)
    while "sent" not in await daemon.line():
        pass
    await daemon.kill()
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    assert bench.reports == [NeverRan(job=1, attempt=1)]
    os.kill(daemon.launcher, signal.SIGCONT)  # it finds the launch first, then the end of the socket
    await over(daemon.launcher)
    again = bench.start("true", attempt=2)
    await bench.ended(1, 2)
    assert traces.bearers(launch.attempt_id) == []
    assert not (bench.folder / "ran").exists()
    assert again.attempt == 2


@pytest.mark.parametrize("instant", range(8))
async def test_a_daemon_killed_at_any_instant_of_a_launch_leaves_one_truth(
    bench: Bench, daemon: Daemon, instant: int
) -> None:
    marks = bench.folder / "marks"
    launch = bench.launch("sh", "-c", f"echo ran >> {marks}; exit 3")
    daemon.start(launch)
    if instant:
        await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=instant * 0.001)
    await daemon.kill()
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    if bench.of(Adopted):
        await bench.ended()
    last = bench.reports[-1]
    await over(daemon.launcher)
    bench.start("true", job=2)
    await bench.ended(2)
    if isinstance(last, NeverRan):
        assert not marks.exists()
    else:
        assert isinstance(last, Ended)
        assert last.exit.code == 3
        assert marks.read_text() == "ran\n"


async def test_a_dead_launcher_is_started_again_and_running_attempts_do_not_notice(bench: Bench) -> None:
    bench.start("sh", "-c", "echo ready; sleep 0.3; exit 6")
    await bench.output("ready")
    first = bench.pool.launcher_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await over(first)
    bench.start("sh", "-c", "exit 7", job=2)
    if isinstance(await bench.over(2), NeverRan):  # it was told before its end was noticed
        bench.start("sh", "-c", "exit 7", job=2, attempt=2)
    assert (await bench.ended(2, 2 if bench.of(NeverRan) else 1)).exit.code == 7
    assert (await bench.ended(1)).exit.code == 6
    assert bench.pool.launcher_pid not in (None, first)


async def test_launches_that_die_with_the_launcher_never_ran_or_go_on(bench: Bench) -> None:
    assert bench.pool.launcher_pid is not None
    os.kill(bench.pool.launcher_pid, signal.SIGSTOP)
    for job in range(1, 6):
        bench.start("sh", "-c", f"touch {bench.folder}/ran", job=job)
    os.kill(bench.pool.launcher_pid, signal.SIGKILL)
    await bench.until(lambda: len(bench.of(NeverRan)) == 5)
    assert not (bench.folder / "ran").exists()
    assert bench.of(Started) == bench.of(Ended) == []
    assert {report.why for report in bench.of(NeverRan)} == {"the launcher of agents ended"}
    assert bench.pool.running() == []


async def test_an_attempt_without_shim_and_record_is_lost(bench: Bench, daemon: Daemon) -> None:
    launch = bench.launch("sh", "-c", "setsid sleep 600 & sleep 600")
    said = await daemon.working(launch)
    await daemon.kill()
    os.kill(said["shim_pid"], signal.SIGKILL)
    await over(said["shim_pid"])
    await bench.pool.recover([(1, 1, launch.attempt_id, None)])
    [ended] = bench.reports
    assert isinstance(ended, Ended)
    assert ended.exit.kind == "lost"
    assert traces.bearers(launch.attempt_id) == []


async def test_after_a_reboot_an_attempt_without_record_is_lost_and_no_stranger_is_killed(bench: Bench) -> None:
    stranger = program("sleep", "600", env={"OPUS_ATTEMPT_ID": "abc", "PATH": "/bin:/usr/bin"})
    seen = kernel.parent_and_start(stranger.pid)
    assert seen is not None
    bench.place().mkdir(parents=True)
    claimed = [stranger.pid, seen[1]]
    record = {"attempt_id": "abc", "boot": "another", "pid_namespace": 1, "shim": claimed, "agent": claimed}
    (bench.place() / "started").write_text(json.dumps(record) + "\n")
    await bench.pool.recover([(1, 1, "abc", None)])
    assert bench.reports[0].exit.kind == "lost"  # type: ignore[union-attr]
    assert kernel.parent_and_start(stranger.pid) == seen
    stranger.kill()
    stranger.wait()


@pytest.mark.slow
async def test_a_shim_in_another_pid_namespace_is_watched_by_its_lock(bench: Bench) -> None:
    bench.place().mkdir(parents=True)
    record = {"attempt_id": "abc", "boot": kernel.boot_id(), "pid_namespace": 1, "shim": [os.getpid(), 1]}
    held = shim.claim(str(bench.place()), record)
    assert held is not None
    await bench.pool.recover([(1, 1, "abc", None)])
    assert bench.reports == [Adopted(job=1, attempt=1, shim_pid=0)]
    (bench.place() / "exit").write_text("exit 3\n")
    os.close(held)
    assert (await bench.ended()).exit.code == 3


async def test_a_pid_that_somebody_else_took_since_is_never_signalled(bench: Bench) -> None:
    stranger = program("sleep", "600")
    assert not kernel.signal_verified(stranger.pid, 1, signal.SIGKILL)
    seen = kernel.parent_and_start(stranger.pid)
    assert seen is not None
    assert kernel.signal_verified(stranger.pid, seen[1], signal.SIGKILL)
    assert stranger.wait() == -9


async def test_a_broken_claim_is_lost_not_run_again(bench: Bench) -> None:
    bench.place().mkdir(parents=True)
    (bench.place() / "started").write_text("")
    await bench.pool.recover([(1, 1, "abc", None)])
    assert bench.reports[0].exit.kind == "lost"  # type: ignore[union-attr]


def test_a_fence_and_a_claim_keep_each_other_out(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    assert traces.put_fence(tmp_path / "a", "abc")
    assert not traces.put_fence(tmp_path / "a", "abc")
    assert shim.claim(str(tmp_path / "a"), {}) is None
    assert traces.read_claim(tmp_path / "a") == traces.Claim(attempt_id="abc", never=True)
    held = shim.claim(str(tmp_path / "b"), {"attempt_id": "abc"})
    assert held is not None
    assert not traces.put_fence(tmp_path / "b", "abc")
    os.close(held)


def test_only_one_of_two_claims_is_given(tmp_path: Path) -> None:
    first = shim.claim(str(tmp_path), {"n": 1})
    assert first is not None
    assert shim.claim(str(tmp_path), {"n": 2}) is None
    assert json.loads((tmp_path / "started").read_text()) == {"n": 1}
    assert traces.is_held(tmp_path)
    os.close(first)
    assert not traces.is_held(tmp_path)
    assert [place.name for place in tmp_path.iterdir()] == ["started"]
