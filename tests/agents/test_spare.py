"""One shim more than there are attempts waits for the next launch: no attempt itself, and gone with its launcher."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opusd.agents import launcher
from opusd.agents.launcher_main import make_folder
from opusd.agents.spec import Started
from opusd.agents.traces import bearers
from opusd.testing.bench import Bench

TOO_LONG_FOR_A_PIPE = b"x" * (1 << 17)


async def over(pid: int) -> None:
    """Until the process is gone, or nobody's but its parent's to reap."""
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists() and state(pid) != "Z":
            await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.005)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


async def test_the_shim_that_waits_is_the_next_attempts_and_another_waits_after_that(bench: Bench) -> None:
    for job in (1, 2, 3):
        spare = await bench.spare()
        bench.start("sh", "-c", f"exit {job}", job=job)
        assert (await bench.ended(job)).exit.code == job
        assert (await bench.started(job)).shim_pid == spare


async def test_more_launches_at_once_than_one_are_all_begun(bench: Bench) -> None:
    spare = await bench.spare()
    for job in range(1, 6):
        bench.start("sh", "-c", f"exit {job}", job=job)
    for job in range(1, 6):
        assert (await bench.ended(job)).exit.code == job
    shims = [report.shim_pid for report in bench.of(Started)]
    assert shims[0] == spare
    assert len(set(shims)) == 5


async def test_a_launch_that_no_pipe_holds_gets_a_shim_of_its_own(bench: Bench) -> None:
    spare = await bench.spare()
    bench.start("wc", "-c", stdin=TOO_LONG_FOR_A_PIPE)
    ended = await bench.ended()
    assert (ended.exit.code, ended.output_tail.strip()) == (0, str(len(TOO_LONG_FOR_A_PIPE)))
    assert (await bench.started()).shim_pid != spare == await bench.spare()


@pytest.mark.parametrize("stdin", [b"", b"do it", TOO_LONG_FOR_A_PIPE[: 1 << 15]])
async def test_what_the_agent_reads_comes_whole_through_the_pipe(bench: Bench, stdin: bytes) -> None:
    await bench.spare()
    bench.start("wc", "-c", stdin=stdin)
    assert (await bench.ended()).output_tail.strip() == str(len(stdin))


async def test_when_somebody_ends_the_shim_that_waits_the_next_attempt_has_one_all_the_same(bench: Bench) -> None:
    spare = await bench.spare()
    os.kill(spare, signal.SIGKILL)
    await bench.reaped(spare)
    bench.start("sh", "-c", "exit 7")
    assert (await bench.ended()).exit.code == 7
    assert await bench.spare() != spare


async def test_the_shim_that_waits_ends_with_the_pool(bench: Bench) -> None:
    spare = await bench.spare()
    await bench.pool.close()
    assert not Path(f"/proc/{spare}").exists()


async def test_the_shim_that_waits_ends_with_a_launcher_that_is_killed(bench: Bench) -> None:
    spare = await bench.spare()
    assert bench.pool.launcher_pid is not None
    os.kill(bench.pool.launcher_pid, signal.SIGKILL)
    await over(spare)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
async def test_what_the_waiting_shim_was_told_by_a_signal_is_not_for_the_next_attempt(
    bench: Bench, number: int
) -> None:
    os.kill(await bench.spare(), number)
    line = bench.folder / "line"
    os.mkfifo(line)
    bench.start("sh", "-c", "echo ready; read word < $0; exit 7", str(line))
    await bench.output("ready")
    with line.open("r+b", buffering=0) as agent:
        agent.write(b"go on\n")
        assert (await bench.ended()).exit.code == 7


async def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(10):
        while state(pid) != "T":
            await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.005)


async def test_a_waiting_shim_that_was_stopped_is_passed_over_and_ended(bench: Bench) -> None:
    spare = await bench.spare()
    await stop(spare)
    bench.start("sh", "-c", "exit 7")
    assert (await bench.ended()).exit.code == 7
    assert (await bench.started()).shim_pid != spare
    await bench.reaped(spare)
    bench.start("sh", "-c", "exit 8", job=2)
    assert (await bench.ended(2)).exit.code == 8


async def test_a_pool_whose_waiting_shim_was_stopped_closes_at_once_and_leaves_nothing(bench: Bench) -> None:
    spare = await bench.spare()
    await stop(spare)
    async with asyncio.timeout(4):  # of the 5 s after which the launcher itself is killed
        await bench.pool.close()
    assert not Path(f"/proc/{spare}").exists()


@pytest.fixture
async def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A launcher that does not see when its spare is stopped, as when that comes an instant after it looked."""
    stand_in = tmp_path / "launcher.py"
    stand_in.write_text(
        "import importlib.util, os, signal, sys\n"
        f"spec = importlib.util.spec_from_file_location('launcher', {str(launcher._PROGRAM)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module._DEAF_SECONDS = 0.2\n"
        "module.kernel.is_stopped = lambda pid: False\n"
        f"if os.path.exists({str(tmp_path / 'wakes')!r}):\n"
        "    end = lambda self: os.kill(self.pid, signal.SIGCONT if self.patience else signal.SIGKILL)\n"
        "    module.Untold.kill = end\n"
        "sys.exit(module.main())\n"
    )
    monkeypatch.setattr(launcher, "_PROGRAM", stand_in)
    bench = Bench(tmp_path)
    yield bench
    await bench.pool.close()
    bench.clean_up()


@pytest.mark.parametrize("wakes", [False, True])
async def test_a_shim_that_does_not_take_in_its_launch_is_ended_and_never_runs_it_should_it_wake_up(
    deaf: Bench, wakes: bool
) -> None:
    if wakes:  # instead of being killed
        (deaf.folder / "wakes").touch()
    await deaf.pool.open()
    spare = await deaf.spare()
    await stop(spare)
    launch = deaf.start("sh", "-c", f"echo ran >> {deaf.folder}/marks")
    ended = await deaf.ended()
    assert (ended.exit.kind, ended.exit.errno) == ("spawn", errno.EAGAIN)
    await deaf.reaped(spare)
    assert not (deaf.folder / "marks").exists()
    assert bearers(launch.attempt_id) == []
    deaf.start("sh", "-c", "exit 7", attempt=2)
    assert (await deaf.ended(1, 2)).exit.code == 7


async def test_a_shim_that_takes_its_time_and_wakes_up_in_time_runs_its_launch_once(deaf: Bench) -> None:
    await deaf.pool.open()
    spare = await deaf.spare()
    await stop(spare)
    deaf.start("sh", "-c", f"echo ran >> {deaf.folder}/marks; exit 3")
    await deaf.started()
    os.kill(spare, signal.SIGCONT)
    assert (await deaf.ended()).exit.code == 3
    assert (deaf.folder / "marks").read_text() == "ran\n"


def test_the_folder_of_an_attempt_may_be_made_by_the_daemon_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "1" / "1"
    mkdir = os.mkdir

    def overtaken(path: str, mode: int) -> None:
        """That of the job is missed, and then there are both."""
        if path == str(folder.parent):
            mkdir(folder.parent)
            mkdir(folder)
        mkdir(path, mode)

    monkeypatch.setattr("opusd.agents.launcher_main.os.mkdir", overtaken)
    make_folder(str(folder))
    assert folder.is_dir()
