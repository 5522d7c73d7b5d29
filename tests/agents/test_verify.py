"""What verifies an agent's work runs in the same attempt: after the agent, in its place, under the same limits."""

from __future__ import annotations

import os
import re
import select
import signal
from pathlib import Path

import pytest

from opusd.agents.spec import Ended, Exit
from opusd.agents.traces import Record, bearers, read_record
from opusd.testing.bench import Bench

WAITING = "echo waiting; exec sleep 600"


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


async def test_a_verification_runs_after_the_agent_in_its_place_and_its_output_comes_after(bench: Bench) -> None:
    (bench.folder / "there").write_text("")
    env = {"PATH": os.environ["PATH"], "WORD": "hello"}
    launch = bench.start("sh", "-c", "echo agent", verify=sh("ls; echo $WORD; echo err >&2"), env=env)
    ended = await bench.ended()
    assert ended.exit == Exit(kind="exit", code=0, message="exit code 0")
    assert ended.verify == Exit(kind="exit", code=0, message="sh exited with code 0")
    assert ended.output_tail == "agent\n"
    assert ended.verify_output == "runs\nthere\nhello\nerr\n"
    chunks = []
    offset = 0
    while True:
        chunk = await bench.pool.read_output(1, 1, offset, 1 << 16, 0)
        chunks.append((chunk.data, chunk.verify))
        offset = chunk.next_offset
        if chunk.eof:
            break
    title = "--- verify: sh -c ls; echo $WORD; echo err >&2 ---\n"
    assert chunks == [("agent\n", False), (title + ended.verify_output, True)]
    assert offset == ended.log_bytes == bench.pool.output_size(1, 1)
    assert bearers(launch.attempt_id) == []


async def test_a_title_begins_a_line(bench: Bench) -> None:
    bench.start("printf", "no end", verify=["true"])
    assert (await bench.ended()).verify_output == ""
    chunk = await bench.pool.read_output(1, 1, 6, 100, 0)
    assert chunk.data == "\n--- verify: true ---\n"


async def test_a_verification_that_fails_says_how_and_keeps_the_end_of_its_output(bench: Bench) -> None:
    bench.start("true", verify=sh("seq 10000; exit 3"))
    ended = await bench.ended()
    assert ended.exit.code == 0
    assert ended.verify == Exit(kind="exit", code=3, message="sh exited with code 3")
    assert ended.verify_output.endswith("\n9999\n10000\n")
    assert len(ended.verify_output) <= 4096


async def test_a_verification_that_can_not_be_started_says_why(bench: Bench) -> None:
    bench.start("true", verify=["no-such-program"])
    ended = await bench.ended()
    assert ended.verify is not None
    assert (ended.verify.kind, ended.verify.errno) == ("spawn", 2)
    assert ended.verify.message == "cannot start no-such-program: No such file or directory"


async def test_a_failed_agent_is_not_verified_unless_any_exit_may_be_a_success(bench: Bench) -> None:
    bench.start("false", job=1, verify=["true"])
    bench.start("false", job=2, verify=["true"], verify_any_exit=True)
    bench.start("sh", "-c", "kill -KILL $$", job=3, verify=["true"], verify_any_exit=True)
    assert (await bench.ended(1)).verify is None
    second = await bench.ended(2)
    assert (second.exit.code, second.verify) == (1, Exit(kind="exit", code=0, message="true exited with code 0"))
    assert (await bench.ended(3)).verify is None


async def test_it_begins_when_nothing_of_the_agent_is_left_and_leaves_nothing_itself(bench: Bench) -> None:
    stays = "setsid sh -c \"trap '' TERM; echo \\$\\$ > up; exec sleep 600\" & until [ -s up ]; do sleep 0.01; done"
    looks = "kill -0 $(cat up) && echo alive; setsid sleep 600 & exit 0"
    launch = bench.start("sh", "-c", stays, verify=sh(looks), grace_s=0.2)
    ended = await bench.ended()
    assert "No such process" in ended.verify_output
    assert bearers(launch.attempt_id) == []


async def test_a_stop_reaches_a_verification(bench: Bench) -> None:
    launch = bench.start("true", verify=sh(WAITING))
    await bench.output("waiting")
    bench.pool.stop(1, 1, 5)
    ended = await bench.ended()
    assert ended.exit.code == 0
    assert ended.verify == Exit(kind="signal", signal=15, message="sh was ended by SIGTERM")
    assert ended.asked
    assert bearers(launch.attempt_id) == []


async def test_an_agent_that_is_told_to_end_is_not_verified(bench: Bench) -> None:
    bench.start(
        "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done", verify=["touch", "verified"]
    )
    await bench.output("ready")
    bench.pool.stop(1, 1, 5)
    ended = await bench.ended()
    assert (ended.exit.code, ended.verify) == (0, None)
    assert not (bench.folder / "verified").exists()


async def test_a_stop_between_the_agent_and_its_verification_leaves_it_unverified(bench: Bench) -> None:
    """The agent is over and well; what it left behind is still being swept when it is told to end."""
    gate = bench.folder / "gate"
    os.mkfifo(gate)
    stays = f"setsid sh -c \"trap '' TERM; echo ready; exec sleep 600\" & echo pid $$; read _ < {gate}"
    bench.start("sh", "-c", stays, verify=["touch", "verified"], grace_s=60)
    said = await bench.output("ready")
    agent = os.pidfd_open(int(re.findall(r"pid (\d+)", said)[0]))
    gate.write_text("\n")
    assert select.select([agent], [], [], 10)[0]
    os.close(agent)
    bench.pool.stop(1, 1, 0.1)
    ended = await bench.ended()
    assert ended.exit.code == 0
    assert ended.verify is None or ended.verify.kind == "signal"
    assert not (bench.folder / "verified").exists()


async def test_the_deadline_is_that_of_both(bench: Bench) -> None:
    bench.start("true", verify=["sleep", "600"], deadline_s=0.2, overtime_s=0.1)
    ended = await bench.ended(seconds=10)
    assert ended.verify == Exit(kind="signal", signal=15, message="sleep was ended by SIGTERM, past the deadline")


async def test_limits_hold_for_it_too(bench: Bench) -> None:
    bench.start("true", verify=sh("nice; ulimit -d"), nice=5, memory_max=256 << 20)
    assert (await bench.ended()).verify_output.split() == ["5", str(256 << 10)]


async def test_its_output_is_capped_as_the_agents_is(bench: Bench) -> None:
    bench.start("true", verify=sh("head -c 3000000 /dev/zero | tr '\\0' x"), head=4096, tail=65536)
    ended = await bench.ended()
    assert ended.log_bytes > 3_000_000
    assert (bench.place() / "verify.log").stat().st_blocks * 512 < 1_000_000


async def test_it_needs_no_daemon_and_the_next_one_finds_how_it_ended(bench: Bench) -> None:
    gate = bench.folder / "gate"
    os.mkfifo(gate)
    launch = bench.start("true", verify=sh(f"echo begun; read _ < {gate}; exit 4"))
    await bench.output("begun")
    await bench.pool.close()
    gate.write_text("\n")
    await bench.there(bench.place() / "exit")
    pool = bench.new_pool()
    await pool.open()
    await pool.recover([(1, 1, launch.attempt_id, None)])
    ended = await bench.ended()
    assert (ended.exit.code, ended.verify and ended.verify.code) == (0, 4)


async def test_whoever_waits_for_output_is_woken_when_the_verification_begins(bench: Bench) -> None:
    gate = bench.folder / "gate"
    os.mkfifo(gate)
    bench.start("sh", "-c", f"echo agent; read _ < {gate}", verify=sh(WAITING))
    await bench.output("agent")
    waiting = bench.pool.read_output(1, 1, 6, 1 << 16, 20)
    gate.write_text("\n")
    chunk = await waiting
    assert chunk.verify
    assert chunk.data.startswith("--- verify: ")
    bench.pool.stop(1, 1, 0)
    await bench.ended()


async def test_a_shim_that_is_killed_while_it_verifies_is_lost_and_nothing_runs_on(bench: Bench) -> None:
    launch = bench.start("true", verify=sh(WAITING))
    await bench.output("waiting")
    os.kill((await bench.started()).shim_pid, signal.SIGKILL)
    ended = await bench.ended()
    assert ended.exit.kind == "lost"
    assert bearers(launch.attempt_id) == []
    assert len(bench.of(Ended)) == 1


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("exit 0\n", Record(Exit(kind="exit", code=0, message="exit code 0"))),
        (
            "signal 9\noom 2\n",
            Record(Exit(kind="signal", signal=9, message="ended by signal 9 (SIGKILL)"), oom=2),
        ),
        (
            "exit 0\nverify signal 9 late my program\n",
            Record(
                Exit(kind="exit", code=0, message="exit code 0"),
                verify=Exit(kind="signal", signal=9, message="my program was ended by SIGKILL, past the deadline"),
            ),
        ),
        (
            "exit 0\nverify nonsense\nof a later version\n",
            Record(
                Exit(kind="exit", code=0, message="exit code 0"),
                verify=Exit(kind="lost", message="how the verification ended can't be read"),
            ),
        ),
        ("nonsense\n", None),
        ("\n", None),
    ],
)
def test_the_record_of_an_end_is_read(tmp_path: Path, text: str, record: Record | None) -> None:
    (tmp_path / "exit").write_text(text)
    assert read_record(tmp_path) == record
