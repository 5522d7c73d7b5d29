"""Bad input, and a machine that lets the daemon down: it says what is wrong and nothing is lost."""

import json
import os
import pty
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from opus_client import RpcError
from tests.e2e.conftest import soon

# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"promt": "x"}, "$.promt"),
        ({"command": "true"}, "$.command"),
        ({"command": []}, "$.command"),
        ({"command": [""]}, "$.command"),
        ({"command": ["true", 1]}, "$.command[1]"),
        ({"command": ["tr\0ue"]}, "$.command"),
        ({"prompt": "a\0b", "agent": "exec"}, "$.prompt"),
        ({"prompt": "x" * (2 << 20)}, "$.prompt"),
        ({"prompt": "x", "command": ["true"], "agent": "pull"}, "$.command"),
        ({"agent": "nobody", "prompt": "x"}, "$.agent"),
        ({"command": ["true"], "boost": 50}, "$.boost"),
        ({"command": ["true"], "boost": 1.5}, "$.boost"),
        ({"command": ["true"], "boost": "much"}, "$.boost"),
        ({"command": ["true"], "held": 1}, "$.held"),
        ({"command": ["true"], "promt": "x"}, "$.promt"),
        ({"command": ["true"], "priority": "highest"}, "$.priority"),
        ({"command": ["true"], "priority": 11}, "$.priority"),
        ({"command": ["true"], "title": "x" * 201}, "$.title"),
        ({"command": ["true"], "key": "12345"}, "$.key"),
        ({"command": ["true"], "key": "has space"}, "$.key"),
        ({"command": ["true"], "key": ""}, "$.key"),
        ({"command": ["true"], "cwd": "relative"}, "$.cwd"),
        ({"command": ["true"], "cwd": "/a\0b"}, "$.cwd"),
        ({"command": ["true"], "timeout": "soon"}, "$.timeout"),
        ({"command": ["true"], "timeout": -1}, "$.timeout"),
        ({"command": ["true"], "run_at": "tomorrow"}, "$.run_at"),
        ({"command": ["true"], "run_at": "2099-01-01T00:00:00Z", "delay": 1}, "$.delay"),
        ({"command": ["true"], "retry": "often"}, "$.retry"),
        ({"command": ["true"], "needs": {"gpu": 0}}, "$.needs"),
        ({"command": ["true"], "payload": {"x": "y" * (256 << 10)}}, "$.payload"),
        ({"command": ["true"], "metadata": {"a": "b\0"}}, "$.metadata"),
        ({"command": ["true"], "env": {"LD_PRELOAD": "x"}}, "$.env.LD_PRELOAD"),
        ({"command": ["true"], "env": {"A": {"from_env": "X", "from_file": "/y"}}}, "$.env.A"),
        ({"command": ["true"], "depends_on": [0]}, "$.depends_on[0]"),
        ({"command": ["true"], "depends_on": [{"job": 1, "on": "luck"}]}, "$.depends_on[0].on"),
        ({"command": ["x" * (128 << 10)]}, "$.command[0]"),
        ({"command": ["true"], "source": "automated", "priority": "critical"}, "$.priority"),
        ({"command": ["true"], "source": "automated", "interactive": True}, "$.interactive"),
        ({"command": ["true"], "max_retries": 1 << 70}, "$.max_retries"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_by_the_name_of_its_field(commons, params, path):
    with pytest.raises(RpcError) as caught:
        commons("job.submit", **params)
    assert caught.value.code in (-32602, -32600, -32700)
    if caught.value.code == -32602:
        assert caught.value.data["code"] == "invalid_params"
        assert caught.value.data["path"].startswith(path), caught.value.data


def test_a_missing_parent_is_not_found(commons):
    assert commons.refused("job.submit", command=["true"], parent=98765).code == -32001


def test_a_prompt_of_200_kib_reaches_its_agent_whole(build):
    house = build("[agents.count]\nargv = ['wc', '-c']\n")
    job = house.ended(house.submit(prompt="x" * (200 << 10), agent="count"))
    assert job["result"]["summary"] == str(200 << 10)


def test_a_prompt_that_looks_like_an_option_is_refused_where_it_would_be_taken_for_one(build):
    config = (
        "[agents.plain]\nargv = ['echo', '{prompt}']\nretry='none'\n[agents.safe]\nargv = ['echo', '--', '{prompt}']\n"
    )
    house = build(config)
    plain, safe = house.submit(prompt="-n", agent="plain"), house.submit(prompt="-n {title}", agent="safe", title="t")
    done = house.ended(plain)
    assert (done["status"], done["error"]["class"]) == ("failed", "config")
    assert house.ended(safe)["result"]["summary"] == "-- -n {title}"


def test_a_program_that_is_not_there_and_a_folder_that_is_gone_fail_the_spawn_and_say_why(commons):
    gone = commons.work / "gone"
    program = commons.ended(commons.submit("no-such-program"))
    folder = commons.ended(commons.submit("true", cwd=str(gone)))
    for job, word in ((program, "no-such-program"), (folder, str(gone))):
        assert (job["status"], job["error"]["class"]) == ("failed", "spawn")
        assert word in job["error"]["message"]


def test_an_agent_that_is_retried_is_retried_when_its_program_is_not_there(build):
    house = build("[agents.a]\nargv = ['not-yet']\nretry = { strategy = 'immediate', max_retries = 2 }\n")
    assert house.ended(house.submit(prompt="x", agent="a"))["attempts"] == 3


def kept(house, job, word):
    """What keeps a job that was put back from running, once that has this word in it."""

    def look():
        found = house("job.why", id=job["id"])["constraints"]
        return [one for one in found if word in one["detail"] and one["detail"] in (house.get(job)["reason"] or "")]

    return soon(look)[0]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes fork fail")
def test_a_job_for_which_the_machine_has_no_process_is_put_back_and_runs_when_there_is_one(house):
    launcher, _ = house.spare()
    inject = ["-e", "trace=clone,fork,vfork,clone3", "-e", "inject=clone,fork,vfork,clone3:error=EAGAIN"]
    tracer = subprocess.Popen(["strace", *inject, "-p", str(launcher)], stderr=subprocess.PIPE, text=True)
    line = tracer.stderr.readline()
    if "attached" not in line:
        tracer.kill()
        tracer.communicate()
        pytest.skip(f"strace may not attach: {line}")
    try:
        house.end_spare()
        job = house.submit("true", max_retries=0)
        assert "no process for it" in kept(house, job, "EAGAIN")["detail"]
    finally:
        tracer.terminate()
        tracer.communicate(timeout=10)
    done = house.ended(job)
    assert (done["status"], done["retries"]) == ("completed", 0)
    assert done["attempts"] > 1


@pytest.fixture
def full(house):
    """The house with a disk of its own for what attempts leave, which is full; and what fills it."""
    runs = house.state / "runs"
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(runs)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    fill = runs / "fill"
    with fill.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"f" * 4096)
    yield house, fill
    subprocess.run(["umount", "-l", str(runs)], check=True)


def test_a_job_for_which_the_disk_has_no_room_says_so_and_runs_when_there_is_some(full):
    house, fill = full
    job = house.submit("true", max_retries=0)
    folder = str(house.state / "runs" / str(job["id"]))
    told = kept(house, job, "No space left on device (ENOSPC)")
    assert (told["kind"], folder in told["detail"], told["until"] is not None) == ("machine", True, True)
    assert any("ENOSPC" in word for word in house("system.info")["degraded"])
    assert any("machine.full" in line and "ENOSPC" in line and folder in line for line in house.said().splitlines())
    fill.unlink()
    done = house.ended(job)
    assert (done["status"], done["retries"]) == ("completed", 0)


def test_a_job_whose_folder_can_not_be_made_fails_and_names_it_and_runs_once_that_is_put_right(house):
    house.ended(house.submit("true"))
    place = house.state / "runs" / "2"
    place.write_text("a file where a folder is to be")
    failed = house.ended(house.submit("true"))
    assert (failed["id"], failed["status"], failed["error"]["class"]) == (2, "failed", "spawn")
    assert failed["error"]["message"] == f"cannot start: its folder {place}/1 can't be made: Not a directory (ENOTDIR)"
    assert house.ended(house.submit("true"))["status"] == "completed"
    place.unlink()
    house("job.retry", ids=[2])
    assert house.ended(2)["status"] == "completed"


def test_while_no_attempt_has_a_place_for_its_folder_jobs_wait_and_are_told_why(house):
    runs = house.state / "runs"
    runs.rename(house.state / "away")
    runs.write_text("a file where the folders of the attempts are to be")
    job = house.submit("true", max_retries=0)
    assert kept(house, job, f"its folder {runs}/{job['id']}")["kind"] == "machine"
    assert any("machine.full" in line and str(runs) in line for line in house.said().splitlines())
    runs.unlink()
    (house.state / "away").rename(runs)
    done = house.ended(job)
    assert (done["status"], done["retries"]) == ("completed", 0)


def test_a_waiting_shim_that_was_stopped_keeps_no_job_waiting(house):
    _, spare = house.spare()
    os.kill(spare, signal.SIGSTOP)
    job = house.ended(house.submit("true"))
    assert (job["status"], job["attempts"]) == ("completed", 1)
    soon(lambda: not Path(f"/proc/{spare}").exists())


def test_terminal_escapes_of_a_job_never_reach_a_terminal_raw(commons):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m evil \r\x08 \u202e"
    job = commons.submit("printf", "%b", "out \\033[31m red \\007", title=evil, held=True, labels=[evil], group=evil)
    commons("job.release", id=job["id"])
    commons.ended(job)
    held = commons.submit("true", title=evil, held=True, metadata={"x": evil})
    for words in (["list"], ["show", str(job["id"])], ["show", str(held["id"])], ["history", str(job["id"])],
                  ["why", str(held["id"])], ["status"], ["logs", str(job["id"])], ["dead"]):  # fmt: skip
        shown = on_terminal([sys.executable, "-m", "opusctl", "--socket", str(commons.socket), *words], commons.env)
        rest = shown.replace(b"\r\n", b"\n").decode()
        for raw in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\r", "\x08", "\u202e", "\x1b[31m red"):
            assert raw not in rest, (words, rest)


def on_terminal(argv, env):
    """What a program writes when its output is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm", "NO_COLOR": "1"}
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 15)[0]:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the last one on the other side is gone
            break
        seen += data
    os.close(ours)
    process.wait(15)
    return seen


# --- the disk --------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path):
    """mounted(size): a disk of its own, if we may mount one."""
    places = []

    def make(size):
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("only root can mount a disk")
        places.append(place)
        return place

    yield make
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place, leave=0):
    path = place / "fill"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"f" * 4096)
        except OSError:
            pass
        if leave:
            file.truncate(max(0, path.stat().st_size - leave))
    return path


def test_on_a_full_disk_a_submit_is_refused_nothing_is_lost_and_work_goes_on_when_there_is_room(build, mounted):
    house = build(start=False)
    disk = mounted("24m")
    house.state = disk / "state"
    house.start()
    gate = house.gate()
    running = house.sh(f"{gate.wait}; exit 4")
    house.begun(running)
    acknowledged = [house.submit("true", held=True)["id"] for _ in range(5)]
    full = fill(disk)
    refused = None
    for number in range(2000):
        try:
            acknowledged.append(house.submit("true", held=True, payload={"x": "y" * 20000}, title=f"n{number}")["id"])
        except RpcError as error:
            refused = error
            break
    assert refused is not None
    assert (refused.code, refused.data["retryable"]) == (-32009, True)
    assert house.refused("job.submit", command=["true"]).code == -32009
    assert house.refused("job.release", id=acknowledged[0]).code == -32009
    gate.open()  # a fact: it is postponed, not lost
    assert [house.get(number)["status"] for number in acknowledged] == ["held"] * len(acknowledged)
    assert house("job.list", limit=1000)["jobs"]
    assert any("registry" in word for word in house("system.info")["degraded"])
    full.unlink()
    done = house.ended(running)
    assert done["error"]["exit_code"] == 4
    assert house.ended(house.submit("true"))["status"] == "completed"
    assert house("system.info")["degraded"] == []
    house.restart()
    assert [house.get(number)["status"] for number in acknowledged] == ["held"] * len(acknowledged)
    assert len(house("job.list", limit=1000)["jobs"]) == len(acknowledged) + 2
    gate.close()
    house.clean_up()


def test_a_registry_on_a_read_only_file_system_is_refused(build, mounted):
    house = build(start=False)
    disk = mounted("24m")
    house.state = disk / "state"
    house.start()
    house.submit("true", held=True)
    house.stop()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status, said = house.refuse()
    assert (status, "read-only" in said.lower()) == (78, True), said


def test_a_corrupt_registry_is_refused_and_left_alone(house):
    house.submit("true", held=True)
    house.stop()
    place = house.state / "opusd.db"
    for damage in (b"not a database at all" * 300, place.read_bytes()[:5000] + b"\xff" * 20000, b"x"):
        place.write_bytes(damage)
        for extra in house.state.glob("opusd.db-*"):
            extra.unlink()
        status, said = house.refuse()
        assert status == 78, said
        assert "opusd.db" in said
        assert "Traceback" not in said
        assert place.read_bytes() == damage


def test_a_registry_of_a_newer_version_is_refused_with_a_message(house):
    house.submit("true", held=True)
    house.stop()
    with sqlite3.connect(house.state / "opusd.db") as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()
    status, said = house.refuse()
    assert (status, "newer" in said) == (78, True), said


def test_a_registry_of_another_program_is_refused(house):
    house.stop()
    with sqlite3.connect(house.state / "opusd.db") as db:
        db.execute("PRAGMA application_id = 1")
    db.close()
    assert house.refuse()[0] == 78


# --- starting ----------------------------------------------------------------------------------------------


def test_a_second_daemon_ends_with_75_and_names_the_pid_of_the_first(build):
    first = build()
    second = build(start=False)
    second.state = first.state
    status, said = second.refuse()
    assert (status, str(first.process.pid) in said) == (75, True), said
    first("system.ping")
    second.state = second.folder / "state"


def test_a_stale_socket_is_replaced_and_one_that_answers_is_not(build):
    house = build()
    house.kill()
    assert house.socket.exists()
    house.start()
    other = build(start=False)
    other.socket = house.socket
    status, said = other.refuse()
    assert (status, str(house.socket) in said) == (78, True)
    house("system.ping")


def test_a_symbolic_link_or_a_file_at_the_sockets_place_is_left_alone(build):
    house = build(start=False)
    target = house.folder / "target"
    house.socket.symlink_to(target)
    status, said = house.refuse()
    assert (status, "symbolic link" in said, target.exists()) == (78, True, False)
    house.socket.unlink()
    house.socket.write_text("mine")
    assert house.refuse()[0] == 78
    assert house.socket.read_text() == "mine"


def test_a_socket_path_over_107_bytes_is_refused_with_its_length(build):
    house = build(start=False)
    house.socket = house.folder / ("s" * 108)
    status, said = house.refuse()
    assert (status, "107" in said) == (78, True), said


def test_the_socket_is_for_its_owner_alone(house):
    assert house.socket.stat().st_mode & 0o777 == 0o600
    assert house.state.stat().st_mode & 0o777 == 0o700
    assert (house.state / "opusd.db").stat().st_mode & 0o777 == 0o600


def test_a_socket_directory_in_which_others_may_write_is_refused(build):
    house = build(start=False)
    open_to_all = house.folder / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    house.socket = open_to_all / "s.sock"
    assert house.refuse()[0] == 78


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("max_concurrent = 2\n", 0o666, "written by others"),
        ("max_concurent = 2\n", 0o600, "max_concurrent"),
        ("max_concurrent = 'many'\n", 0o600, "max_concurrent"),
        ("[agents.x]\nargv = ['x', '{promt}']\n", 0o600, "{promt}"),
        ("= broken", 0o600, "TOML"),
    ],
)
def test_a_bad_configuration_is_refused_with_78_and_says_what_is_wrong(build, text, mode, words):
    house = build(text, start=False)
    (house.folder / "config.toml").chmod(mode)
    for extra in ([], ["--check"]):
        house.arguments += extra
        status, said = house.refuse()
        assert (status, words in said, "Traceback" in said) == (78, True, False), said


def test_a_good_configuration_is_checked_without_starting(build):
    house = build("max_concurrent = 2\n", start=False)
    house.arguments.append("--check")
    assert house.refuse()[0] == 0
    assert not house.state.exists()


def test_a_client_that_sends_nonsense_harms_nobody(commons):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(commons.socket))
        line.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": [1]}\n\xff\n[]\n')
        file = line.makefile("rb")
        assert [json.loads(file.readline())["error"]["code"] for _ in range(3)] == [-32600, -32700, -32600]
        file.close()
    assert commons("system.ping") == {}
