"""kill -9 at any instant: nothing acknowledged is lost, nothing runs twice, agents are adopted."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from opus_client import Client, ConnectionLost, RpcError


class Submitting(threading.Thread):
    """A client that submits until the daemon is gone; `acknowledged` are the jobs that it was answered for."""

    def __init__(self, house, name):
        super().__init__()
        self.house, self.prefix = house, name
        self.acknowledged = {}

    def run(self):
        number = 0
        try:
            with Client(self.house.socket, timeout=10) as client:
                while True:
                    number += 1
                    key = f"{self.prefix}-{number}"
                    line = f"echo {key} >> {self.house.work}/ran"
                    job = client.call("job.submit", command=["sh", "-c", line], key=key, cwd="/", group="flood")["job"]
                    self.acknowledged[key] = job["id"]
        except (OSError, ConnectionLost, RpcError):
            pass


def test_kill_9_while_three_agents_run_and_four_clients_submit(build):
    house = build("max_concurrent = 4\n[groups.flood]\nmax_running = 1\n")
    count = 4000
    program = (
        "import os, sys, time\n"
        f"for number in range({count}):\n    os.write(1, b'line %06d\\n' % number)\n"
        "    if number % 20 == 0: time.sleep(0.005)\n"
        "sys.exit(int(sys.argv[1]))"
    )
    agents = [house.submit(sys.executable, "-c", program, str(code), timeout=60) for code in (0, 3, 5)]
    house.begun(*agents)
    submitting = [Submitting(house, f"c{number}") for number in range(4)]
    for thread in submitting:
        thread.start()
    house.until(lambda: all(len(thread.acknowledged) > 5 for thread in submitting))
    house.process.kill()
    for thread in submitting:
        thread.join()
    house.restart()
    for thread in submitting:
        for key, number in thread.acknowledged.items():
            assert house("job.get", id=key)["id"] == number
    done = house.ended(*agents)
    assert [(job["error"] or {"exit_code": 0})["exit_code"] for job in done] == [0, 3, 5]
    assert [job["attempts"] for job in done] == [1, 1, 1]
    whole = "".join(f"line {number:06}\n" for number in range(count))
    for job in agents:
        seen, offset, eof = "", 0, False
        while not eof:
            chunk = house("job.logs", id=job["id"], offset=offset, limit=512 * 1024)
            seen, offset, eof = seen + chunk["data"], chunk["next_offset"], chunk["eof"]
        assert seen == whole
        ends = [
            event for event in house("job.history", id=job["id"])["events"] if event["to"] in ("completed", "failed")
        ]
        assert len(ends) == 1
    left = house("job.wait", group="flood", timeout=30)
    assert left["done"]
    assert {job["status"] for job in left["jobs"]} == {"completed"}
    ran = (house.work / "ran").read_text().split()
    assert len(ran) == len(set(ran))
    assert {key for thread in submitting for key in thread.acknowledged} <= set(ran)


def run_out(house, jobs):
    """Until all have ended, the daemon being there."""
    assert house("job.wait", ids=jobs, timeout=20)["done"]


def once_each(house, marks, keys):
    """Each job completed, with one line of its side effect for one attempt that really ran."""
    lines = marks.read_text().split()
    for key in keys:
        job = house("job.get", id=key)
        assert job["status"] == "completed", job
        attempts = house("job.history", id=key)["attempts"]
        assert lines.count(key) == 1, (key, attempts)
        assert [attempt["class"] for attempt in attempts if attempt["class"] is None] == [None]


def test_kill_9_at_random_moments_between_commit_fork_and_first_instruction_runs_nothing_twice(build):
    house = build("max_concurrent = 8\n")
    marks = house.work / "marks"
    marks.touch()
    keys = []
    chance = random.Random()
    for round_ in range(8):
        batch = [
            {"command": ["sh", "-c", f"echo k{round_}-{number} >> {marks}"], "key": f"k{round_}-{number}", "cwd": "/"}
            for number in range(8)
        ]
        house("job.submit_batch", jobs=batch)
        keys += [job["key"] for job in batch]
        time.sleep(chance.uniform(0, 0.03))
        house.restart()
    run_out(house, keys)
    once_each(house, marks, keys)


@pytest.mark.parametrize("stopped", ["launcher", "shims"])
def test_what_could_still_start_when_the_daemon_was_killed_never_runs_beside_a_second_attempt(build, stopped):
    house = build()
    marks = house.work / "marks"
    marks.touch()
    (launcher,) = house.children()
    victims = [launcher]
    try:
        if stopped == "launcher":
            os.kill(launcher, signal.SIGSTOP)
        house("job.submit", command=["sh", "-c", f"echo late >> {marks}"], key="late", cwd="/")
        house.until(lambda: house.get("late")["status"] != "queued")
        if stopped == "shims":
            for pid in house.children(launcher):
                victims.append(pid)
                os.kill(pid, signal.SIGSTOP)
        house.process.kill()
        house.process.wait()
        house.kill()
        house.start()
    finally:
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    run_out(house, ["late"])
    once_each(house, marks, ["late"])
    assert house.get("late")["attempts"] in (1, 2)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace kills at the very system call")
@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("fdatasync", "daemon"),
        ("sendto", "daemon"),
        ("recvfrom", "launcher"),
        ("clone,fork,vfork,clone3", "launcher"),
        ("sendmsg", "launcher"),
        ("write", "launcher"),
        ("execve", "shim"),
    ],
)
def test_kill_9_in_the_very_system_call_that_commits_sends_forks_or_executes(build, call, when):
    house = build()
    marks = house.work / "marks"
    marks.touch()
    launcher, spare = house.spare()
    if "clone" in call:
        house.end_spare()
    target = {"daemon": house.process.pid, "launcher": launcher, "shim": spare}[when]
    inject = f"{call}:signal=SIGKILL:when=1"
    follow = ["-f"] if when in ("shim", "daemon") else []
    watch = ["-o", str(house.folder / "trace"), "-e", f"trace={call}", "-e", f"inject={inject}", "-p", str(target)]
    tracer = subprocess.Popen(["strace", *follow, *watch], stderr=subprocess.PIPE, text=True)
    line = tracer.stderr.readline()
    if "attached" not in line:
        tracer.kill()
        tracer.communicate()
        pytest.skip(f"strace may not attach: {line}")
    try:
        house("job.submit", command=["sh", "-c", f"echo traced >> {marks}"], key="traced", cwd="/")
        if when != "daemon":
            house("job.wait", ids=["traced"], timeout=2)
    except (ConnectionLost, OSError):
        pass
    finally:
        house.process.kill()
        house.process.wait()
        tracer.terminate()
        tracer.communicate(timeout=10)
    assert "SIGKILL" in (house.folder / "trace").read_text()
    house.kill()
    house.start()
    if when == "daemon":
        house("job.submit", command=["sh", "-c", f"echo traced >> {marks}"], key="traced", cwd="/")
    run_out(house, ["traced"])
    status = house.get("traced")["status"]
    lines = marks.read_text().split()
    expected = [("completed", ["traced"]), *([("failed", [])] if when == "shim" else [])]
    assert (status, lines) in expected


def test_three_losses_of_a_job_fail_it(build):
    house = build()
    job = house.sh("kill -9 $PPID; sleep 600")
    done = house.ended(job)
    assert (done["status"], done["error"]["class"], done["attempts"], done["retries"]) == ("failed", "lost", 3, 0)
    kinds = [event["kind"] for event in house("job.history", id=job["id"])["events"]]
    assert kinds.count("job.lost") == 2
    assert kinds[-1] == "job.failed"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the disk fail")
@pytest.mark.parametrize("times", [1, 1000])
def test_after_an_io_error_in_a_commit_the_daemon_is_certain_of_the_outcome_or_ends_with_74(house, times):
    kept = house.submit("true", held=True, key="kept")
    inject = f"inject=fdatasync:error=EIO:when=1..{times}"
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject, "-p", str(house.process.pid)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = tracer.stderr.readline()
    if "attached" not in line:
        tracer.kill()
        tracer.communicate()
        pytest.skip(f"strace may not attach: {line}")
    try:
        if times == 1:
            assert house.refused("job.submit", command=["true"], key="unsure", held=True).code == -32009
        else:
            with pytest.raises(ConnectionLost):
                house("job.submit", command=["true"], key="unsure", held=True)
            assert house.process.wait(4) == 74
            assert "submit again with the same key" in house.said()
    finally:
        tracer.terminate()
        tracer.communicate(timeout=10)
    if times == 1:
        assert house.refused("job.get", id="unsure").code == -32001
        deadline = time.monotonic() + 10  # it tells nobody that the disk is well again
        while house("system.info")["degraded"] and time.monotonic() < deadline:
            time.sleep(0.05)
    house.restart()
    assert house.get("kept")["id"] == kept["id"]
    again = house("job.submit", command=["true"], key="unsure", held=True)
    assert again["job"]["key"] == "unsure"
    assert len([job for job in house("job.list")["jobs"] if job["key"] == "unsure"]) == 1


def test_an_agent_that_ends_well_on_term_is_cancelled_also_when_the_daemon_died_in_between(house):
    job = house.sh("trap 'sleep 0.3; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    house.output(job, "ready")
    house("job.cancel", id=job["id"], grace=20)
    house.kill()
    record = house.state / "runs" / str(job["id"]) / "1" / "exit"
    deadline = time.monotonic() + 10
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    house.start()
    assert house.ended(job)["status"] == "cancelled"
