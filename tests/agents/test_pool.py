from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop

from opusd.agents import launcher, pool
from opusd.agents.spec import Exit, Started
from opusd.agents.traces import bearers, named
from opusd.core.errors import InternalError
from opusd.testing.bench import Bench


async def test_an_attempt_is_started_runs_and_ends_with_its_code_and_its_output(bench: Bench) -> None:
    bench.start("sh", "-c", "echo out; echo err >&2; exit 3")
    ended = await bench.ended()
    assert [type(report).__name__ for report in bench.reports] == ["Started", "Ended"]
    assert ended.exit == Exit(kind="exit", code=3, message="exit code 3")
    assert ended.output_tail == "out\nerr\n"
    assert ended.log_bytes == 8


async def test_a_start_returns_before_anything_ran_and_reports_from_the_loop(bench: Bench) -> None:
    bench.start("true")
    assert bench.reports == []
    assert bench.pool.running() == [(1, 1)]
    await bench.ended()
    assert bench.pool.running() == []


async def test_of_a_crowd_that_was_launched_meanwhile_one_is_heard_in_a_turn_of_the_loop(bench: Bench) -> None:
    crowd, line = 8, bench.folder / "line"
    os.mkfifo(line)
    for job in range(1, crowd + 1):
        bench.start("sh", "-c", "echo > $0", str(line), job=job)
    with line.open("r+b", buffering=0) as began:
        for _ in range(crowd):  # the loop stands still meanwhile
            began.read(1)
    heard = [0]
    async with asyncio.timeout(20):
        while heard[-1] < crowd:
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, and no time
            heard.append(len(bench.of(Started)))
    assert {after - before for before, after in pairwise(heard)} <= {0, 1}


async def test_exit_code_137_and_a_sigkill_are_told_apart(bench: Bench) -> None:
    bench.start("sh", "-c", "exit 137", job=1)
    bench.start("sh", "-c", "kill -KILL $$", job=2)
    assert (await bench.ended(1)).exit == Exit(kind="exit", code=137, message="exit code 137")
    assert (await bench.ended(2)).exit == Exit(kind="signal", signal=9, message="ended by signal 9 (SIGKILL)")


async def test_a_program_that_is_not_there_is_a_spawn_failure_with_enoent(bench: Bench) -> None:
    bench.start("no-such-program-anywhere")
    ended = await bench.ended()
    assert (ended.exit.kind, ended.exit.errno) == ("spawn", 2)
    assert "no-such-program-anywhere" in ended.exit.message


async def test_a_program_that_may_not_be_executed_is_a_spawn_failure_with_eacces(bench: Bench) -> None:
    (bench.folder / "data").write_text("no program")
    bench.start(str(bench.folder / "data"))
    assert (await bench.ended()).exit.errno == 13


async def test_a_workdir_that_is_gone_is_a_spawn_failure_that_names_it(bench: Bench) -> None:
    bench.start("true", workdir=str(bench.folder / "gone"))
    ended = await bench.ended()
    assert (ended.exit.kind, ended.exit.errno) == ("spawn", 2)
    assert "gone" in ended.exit.message


async def test_an_argument_over_128_kib_is_a_spawn_failure_with_e2big(bench: Bench) -> None:
    bench.start("true", "x" * (128 * 1024))
    assert (await bench.ended()).exit.errno == 7


@pytest.mark.parametrize(("place", "code"), [("1", errno.ENOTDIR), ("1/1", errno.EEXIST)])
async def test_a_file_where_a_folder_is_to_be_is_a_spawn_failure_that_names_it(
    bench: Bench, place: str, code: int
) -> None:
    (bench.runs / place).parent.mkdir(exist_ok=True)
    (bench.runs / place).write_text("a file where a folder is to be")
    bench.start("true")
    words = f"cannot start: its folder {bench.place()} can't be made: {named(code)}"
    assert (await bench.ended()).exit == Exit(kind="spawn", errno=code, message=words)
    assert bench.pool.running() == []


async def test_runs_that_are_gone_are_a_failure_of_the_machine_that_names_them(bench: Bench) -> None:
    bench.runs.rename(bench.folder / "gone")
    bench.start("true")
    exit_ = (await bench.ended()).exit
    assert (exit_.kind, exit_.errno, exit_.machine) == ("spawn", errno.ENOENT, True)
    assert str(bench.runs / "1") in exit_.message


@pytest.fixture
def unwritable(bench: Bench) -> Iterator[Path]:
    """The attempt's folder is there, and nothing can be made in it."""
    place = bench.place()
    place.mkdir(parents=True)
    if os.geteuid() != 0:
        place.chmod(0o500)
        yield place
        place.chmod(0o700)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("root writes everywhere, and can't mount here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_folder_in_which_nothing_can_be_written_is_a_spawn_failure_that_says_why(
    bench: Bench, unwritable: Path
) -> None:
    bench.start("true")
    exit_ = (await bench.ended()).exit
    assert (exit_.kind, exit_.errno) == ("spawn", errno.EROFS if os.geteuid() == 0 else errno.EACCES)
    assert exit_.message == f"cannot start: nothing can be written in {unwritable}: {named(exit_.errno or 0)}"


async def test_the_agent_works_in_its_workdir_with_exactly_its_environment(bench: Bench) -> None:
    launch = bench.python(
        "import json,os; print(json.dumps([os.getcwd(), dict(os.environ)]))", env={"A": "1", "ü": "ö"}
    )
    where, env = json.loads((await bench.ended()).output_tail)
    assert where == str(bench.folder)
    env.pop("LC_CTYPE", None)  # Python's own
    assert env == {
        "A": "1",
        "ü": "ö",
        "OPUS_ATTEMPT_ID": launch.attempt_id,
        "OPUS_RESULT": str(bench.place() / "out/result.json"),
    }


async def test_the_agent_inherits_three_descriptors_no_mask_no_ignored_signal_and_the_usual_file_limit(
    bench: Bench,
) -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        bench.pool.start(
            bench.launch(
                "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; ulimit -Sn; grep -E '^Sig(Blk|Ign)' /proc/self/status"
            )
        )
        ended = await bench.ended()
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    lines = ended.output_tail.split("\n")
    assert lines[0].startswith("0 1 2 3 ")  # 3 is the listing itself
    assert lines[0].split()[4:] == [str(min(1024, hard))]
    # 32 and 33 are the C library's own: its posix_spawn, which make uses, leaves them ignored.
    usual = ~(0b11 << 31)
    assert [int(line.split()[1], 16) & usual for line in lines[1:3]] == [0, 0]
    assert soft <= hard


async def test_the_agent_leads_a_session_of_its_own_below_a_shim_that_leads_another(bench: Bench) -> None:
    bench.python("import os; print(os.getpid(), os.getsid(0), os.getppid(), os.getsid(os.getppid()))")
    shim = (await bench.started()).shim_pid
    agent, session, parent, shims_session = map(int, (await bench.ended()).output_tail.split())
    assert (session, parent, shims_session) == (agent, shim, shim)


@pytest.mark.parametrize("size", [0, 200 << 10, 2 << 20])
async def test_stdin_of_any_size_arrives_whole(bench: Bench, size: int) -> None:
    bench.start("sh", "-c", "wc -c", stdin=b"x" * size)
    assert int((await bench.ended()).output_tail) == size


async def test_an_agent_that_never_reads_a_large_stdin_ends_all_the_same(bench: Bench) -> None:
    bench.start("true", stdin=b"x" * (8 << 20))
    assert (await bench.ended()).exit.code == 0


async def test_nobody_can_change_what_the_agent_is_to_read(bench: Bench) -> None:
    bench.start("sh", "-c", "echo other > /proc/self/fd/0 || true; cat", stdin=b"prompt")
    assert (await bench.ended()).output_tail.endswith("prompt")


async def test_without_stdin_the_agent_reads_nothing(bench: Bench) -> None:
    bench.start("sh", "-c", "wc -c")
    assert int((await bench.ended()).output_tail) == 0


async def test_nice_and_umask_are_the_agents(bench: Bench) -> None:
    bench.start("sh", "-c", "nice; umask", nice=7, umask=0o027)
    assert (await bench.ended()).output_tail.split() == ["7", "0027"]


async def test_a_memory_limit_holds(bench: Bench) -> None:
    bench.python("x = bytearray(512 << 20)", memory_max=128 << 20)
    ended = await bench.ended()
    assert "MemoryError" in ended.output_tail
    assert ended.exit.code == 1


async def test_launcher_shim_and_agent_hold_nothing_that_the_daemon_has_open(tmp_path: Path) -> None:
    with (tmp_path / "opusd.lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # as if somebody had been careless
        bench = Bench(tmp_path)
        await bench.pool.open()
        launch = bench.start("sleep", "60")
        shim = (await bench.started()).shim_pid
        await until_it_runs(launch.attempt_id)
        family = [pid for pid, _ in bearers(launch.attempt_id)]
        for pid in (shim, bench.pool.launcher_pid or 0, *family):
            assert lock.name not in links(pid)
        assert family
        assert not any("socket" in link for link in links(shim))
        assert [str(Path(f"/proc/{shim}/fd/{number}").readlink()) for number in range(3)] == ["/dev/null"] * 3
        assert os.getsid(bench.pool.launcher_pid or 0) == bench.pool.launcher_pid
        bench.pool.stop(1, 1, 0)
        await bench.ended()
        await bench.pool.close()


async def until_it_runs(attempt_id: str) -> None:
    async with asyncio.timeout(10):
        while not bearers(attempt_id):
            await asyncio.to_thread(lambda: None)


def links(pid: int) -> list[str]:
    return [str(place.readlink()) for place in Path(f"/proc/{pid}/fd").iterdir()]


async def test_more_attempts_than_the_net_holds_are_a_fault_of_the_caller(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    pool = bench.new_pool(limit=1)
    await pool.open()
    bench.start("sleep", "60")
    with pytest.raises(AssertionError, match="placed more"):
        bench.start("true", job=2)
    pool.stop(1, 1, 0)
    await bench.ended()
    await pool.close()


async def test_a_launch_that_can_not_be_encoded_is_a_spawn_failure_and_stops_nobody_else(bench: Bench) -> None:
    bench.start("true", nice=object())
    bench.start("sh", "-c", "exit 3", job=2)
    ended = await bench.ended()
    assert ended.exit == Exit(kind="spawn", message="cannot start: ValueError: unmarshallable object")
    assert (await bench.ended(2)).exit.code == 3
    assert bench.pool.running() == []


async def test_a_launch_that_fails_after_it_was_sent_is_what_became_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = launcher.Launcher.send

    def fails_late(self: launcher.Launcher, message: launcher.Message, body: bytes = b"") -> None:
        send(self, message, body)
        raise ZeroDivisionError

    monkeypatch.setattr(launcher.Launcher, "send", fails_late)
    bench.start("sh", "-c", f"echo ran >> {bench.folder}/marks; exit 3")
    ended = await bench.ended()
    ran = (bench.folder / "marks").exists()
    assert (ended.exit.kind, ended.exit.code) == (("exit", 3) if ran else ("spawn", None))
    bench.start("true", job=2)
    await bench.ended(2)
    assert (bench.folder / "marks").exists() == ran


async def test_the_same_attempt_is_never_started_twice(bench: Bench) -> None:
    launch = bench.start("sleep", "60")
    with pytest.raises(AssertionError, match="running already"):
        bench.pool.start(launch)
    bench.pool.stop(1, 1, 0)
    await bench.ended()


async def test_a_folder_that_another_attempt_used_is_left_alone(bench: Bench) -> None:
    bench.start("sh", "-c", "echo first")
    await bench.ended()
    bench.reports.clear()
    bench.start("sh", "-c", "echo second")
    ended = await bench.ended()
    assert (ended.exit.kind, ended.exit.errno) == ("spawn", 17)
    assert (await bench.pool.read_output(1, 1, 0, 1000, 0)).data == "first\n"


async def test_fifty_attempts_at_once_leave_no_zombie_and_no_open_descriptor(bench: Bench) -> None:
    bench.start("true", job=1000)
    await bench.ended(1000)
    before = open_descriptors("self")
    for job in range(1, 51):
        bench.start("sh", "-c", f"(:) & exit {job}", job=job)
    await bench.until(lambda: len(bench.of(Started)) == 51)
    shims = [report.shim_pid for report in bench.of(Started)]
    for job in range(1, 51):
        assert (await bench.ended(job)).exit.code == job
    assert open_descriptors("self") == before
    assert bench.pool.launcher_pid is not None
    bench.start("true", job=1001)  # the launcher answers in order: by now it has reaped the others
    await bench.ended(1001)
    assert [pid for pid in shims if state(pid) == "Z"] == []
    # The standard ones, the socket, three for the shim that waits, and at most the last attempt's pidfd.
    assert open_descriptors(bench.pool.launcher_pid) <= 8
    assert not bench.pool.running()


def open_descriptors(pid: object) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


async def test_a_process_is_traced_to_its_attempt_through_a_double_fork_with_setsid(bench: Bench) -> None:
    bench.python(
        "import os, signal\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), 'here', flush=True); signal.pause()\n"
        "    os._exit(0)\n"
        "os.wait(); print(os.getpid(), 'agent', flush=True); signal.pause()\n"
    )
    said = (
        await bench.output("here") if "agent" in (said := await bench.output("agent")) and "here" not in said else said
    )
    for pid in [int(line.split()[0]) for line in said.splitlines()]:
        assert bench.pool.attempt_of(pid) == (1, 1)
    assert bench.pool.attempt_of((await bench.started()).shim_pid) == (1, 1)
    assert bench.pool.attempt_of(os.getpid()) is None
    assert bench.pool.attempt_of(1) is None
    bench.pool.stop(1, 1, 0)
    await bench.ended()


async def test_a_process_of_an_attempt_that_is_over_is_nobodys(bench: Bench) -> None:
    bench.start("true")
    shim = (await bench.started()).shim_pid
    await bench.ended()
    assert bench.pool.attempt_of(shim) is None


async def test_everything_works_on_uvloop_too(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, pathlib, sys, uvloop
from opusd.agents.pool import AgentPool
from opusd.agents.spec import Ended, Launch
async def main():
    over = asyncio.Event()
    reports = []
    def report(what):
        reports.append(what)
        if sum(isinstance(r, Ended) for r in reports) == 2: over.set()
    pool = AgentPool(runs=pathlib.Path({str(tmp_path)!r}), report=report)
    await pool.open()
    env = {{"PATH": os.environ["PATH"]}}
    cat = ["sh", "-c", "cat; exit 4"]
    pool.start(Launch(job=1, attempt=1, attempt_id="uv1", argv=cat, env=env, workdir="/", stdin=b"hi"))
    pool.start(Launch(job=2, attempt=1, attempt_id="uv2", argv=["sleep", "60"], env=env, workdir="/"))
    chunk = await pool.read_output(1, 1, 0, 100, 5)
    pool.stop(2, 1, 5)
    async with asyncio.timeout(20):
        await over.wait()
    await pool.close()
    ends = sorted((r.job, r.exit.code, r.exit.signal) for r in reports if isinstance(r, Ended))
    print(chunk.data, ends)
uvloop.run(main())
"""
    assert uvloop.__version__
    argv = [sys.executable, "-W", "error", "-c", program]
    said = await asyncio.to_thread(subprocess.run, argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert said.stdout.decode().strip() == "hi [(1, 4, None), (2, None, 15)]"


async def test_a_shim_that_ends_before_its_claim_says_nothing_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "launcher.py"
    stand_in.write_text(
        "import importlib.util, os, sys\n"
        f"spec = importlib.util.spec_from_file_location('launcher', {str(launcher._PROGRAM)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module.shim.run = lambda *_: os._exit(137)\n"
        "sys.exit(module.main())\n"
    )
    monkeypatch.setattr(launcher, "_PROGRAM", stand_in)
    bench = Bench(tmp_path)
    await bench.pool.open()
    bench.start("true")
    ended = await bench.ended()
    await bench.pool.close()
    assert (ended.exit.kind, ended.exit.errno) == ("spawn", errno.EAGAIN)
    assert "before it could claim" in ended.exit.message


async def test_a_launcher_that_never_answers_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = tmp_path / "deaf.py"
    deaf.write_text("import sys; sys.stdin.read()")
    monkeypatch.setattr(launcher, "_PROGRAM", deaf)
    monkeypatch.setattr(pool, "_OPEN_SECONDS", 0.1)
    agents = pool.AgentPool(runs=tmp_path / "runs", report=lambda _: None)
    try:
        with pytest.raises(InternalError, match=r"the launcher of agents did not answer for 0\.1 s"):
            await agents.open()
    finally:
        await agents.close()
