"""opusctl against a real daemon that refuses, or is not there: what a person reads, what a script gets (section 10)."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest

from opus_client import RpcError

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[35;7m\x9b31m\r\x08\x7f\u202eevil"
# What may reach a terminal: text, newlines, and the colours of opusctl, of which 35;7 is none.
RAW = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202e]|\x1b(?!\\[[0-9;]*m)|\x1b\\[35;7m")


def opusctl(house, *words, stdin=None, **more):
    """Exit code, stdout, stderr."""
    ran = subprocess.run(
        [sys.executable, "-m", "opusctl", *words],
        env={**house.env, "OPUSD_SOCKET": str(house.socket), **more},
        cwd=house.work,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def on_terminal(house, *words):
    """Exit code, and all that reached the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "opusctl", *words],
        env={**house.env, "OPUSD_SOCKET": str(house.socket), "TERM": "xterm"},
        cwd=house.work, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        seen += data
    os.close(ours)
    return process.wait(10), seen.replace(b"\r\n", b"\n").decode()


@pytest.fixture(scope="module")
def shared(build_for_module):
    """A daemon with one finished job (1), one failed (2) and two held ones (3, 4, which waits for 3)."""
    house = build_for_module("max_concurrent = 4\n[agents.cat]\nargv = ['cat']\n")
    house.ended(house.submit("true"))
    house.ended(house.submit("false"))
    first = house.submit("true", held=True, key="first")
    house.submit("true", held=True, depends_on=[first["id"]])
    return house


REFUSED = [
    (["submit", "--agent", "nobody", "-p", "x"], None, 2, "invalid_params", ["nobody"]),
    (["submit", "--depends-on", "98765", "--", "true"], None, 2, "dependency_error", ["98765"]),
    (["submit", "--file", "-"], {"command": ["true"], "promt": "x"}, 2, None, ["promt", "prompt"]),
    (["submit", "--file", "-"], {"command": "true"}, 2, "invalid_params", ["command"]),
    (["submit", "--file", "-"], {"prompt": "a\0b", "agent": "cat"}, 2, "invalid_params", ["NUL", "prompt"]),
    (["submit", "--file", "-"], {"prompt": "x" * (2 << 20), "agent": "cat"}, 2, "invalid_params", ["1048576"]),
    (["submit", "--file", "-"], {"prompt": "x" * (5 << 20), "agent": "cat"}, 2, "usage", ["4,194,304"]),
    (["submit", "--boost", "50", "--", "true"], None, 2, None, ["boost"]),
    (["submit", "-p", "no agent is configured for prompts"], None, 2, None, ["default_agent"]),
    (["edit", "3", "--depends-on", "4"], None, 2, "dependency_error", ["3", "4"]),
    (["edit", "3", "--depends-on", "3"], None, 2, "dependency_error", ["itself"]),
    (["show", "98765"], None, 4, "not_found", ["98765"]),
    (["show", "no-such-key"], None, 4, "not_found", ["no-such-key"]),
    (["logs", "98765"], None, 4, "not_found", ["98765"]),
    (["release", "1"], None, 5, "conflict", ["1", "completed"]),
    (["hold", "1"], None, 5, "conflict", ["completed"]),
    (["retry", "1"], None, 5, "conflict", ["completed"]),
    (["edit", "3", "--version", "99", "--title", "x"], None, 5, "conflict", ["version"]),
    (["submit", "--key", "first", "--", "false"], None, 5, "conflict", ["first"]),
    (["wait", "1", "2"], None, 1, None, ["job 2 (false) failed: agent_error: exit code 1"]),
    (["submit", "--wait", "--", "sh", "-c", "exit 7"], None, 1, None, ["exit code 7"]),
    (["submit", "--wait", "--cwd", "/no/such/folder", "--", "true"], None, 1, None, ["/no/such/folder"]),
    (["submit", "--wait", "--", "no-such-program"], None, 1, None, ["failed: spawn: cannot start no-such-program"]),
    (["wait", "3", "--timeout", "0.1"], None, 124, None, ["timed out after 0.1 s"]),
]


@pytest.mark.parametrize(
    ("words", "stdin", "code", "word", "says"),
    REFUSED,
    ids=lambda value: " ".join(value) if type(value) is list else "",
)
def test_each_refusal_has_its_exit_code_and_says_what_is_wrong(shared, words, stdin, code, word, says):
    text = None if stdin is None else json.dumps(stdin)
    before = shared("queue.status")["counts"]["status"]
    ended, out, err = opusctl(shared, *words, stdin=text)
    assert ended == code, (out, err)
    assert "Traceback" not in err
    for each in says:
        assert each in err, err
    ended, out, _ = opusctl(shared, words[0], "--json", *words[1:], stdin=text)
    assert ended == code, out
    if word is not None:
        assert json.loads(out)["error"]["data"]["code"] == word
    if code in (2, 4, 5):  # nothing was changed
        assert shared("queue.status")["counts"]["status"] == before


def test_a_big_prompt_goes_in_whole_and_one_that_is_refused_leaves_the_connection_usable(shared):
    prompt = "".join(f"line {number} ä€🐙\n" for number in range(10_000))
    assert 190 << 10 < len(prompt.encode()) < 1 << 20
    code, out, err = opusctl(shared, "submit", "--agent", "cat", "--wait", "-q", "-p", "-", stdin=prompt)
    assert code == 0, err
    job = int(out.split()[0])
    assert opusctl(shared, "logs", str(job))[1] == prompt
    client = shared.client()
    with pytest.raises(Exception, match="1048576"):
        client.call("job.submit", prompt="x" * (2 << 20), agent="cat")
    assert client.call("job.get", id=job)["id"] == job


def test_an_agent_that_may_not_gets_exit_code_6(shared):
    program = f"{sys.executable} -m opusctl pause; echo code $?"
    job = shared.ended(shared.sh(program, env={"PYTHONPATH": shared.env["PYTHONPATH"]}))
    said = shared.logs(job)
    assert "code 6" in said, said
    assert "Traceback" not in said
    assert shared("queue.status")["paused"] is False


def test_a_full_queue_is_75(build):
    house = build("max_concurrent = 1\nmax_queued = 2\n")
    for _ in range(3):
        house.submit("sleep", "600")
    house.until(lambda: house("queue.status")["counts"]["status"].get("running") == 1)
    opusctl(house, "submit", "--", "true")
    code, out, err = opusctl(house, "submit", "--json", "--", "true")
    assert (code, json.loads(out)["error"]["data"]["code"]) == (75, "queue_full"), (out, err)
    code, out, err = opusctl(house, "submit", "--", "true")
    assert (code, "2" in err) == (75, True), err


def test_without_a_daemon_each_verb_ends_with_3_and_says_how_to_start_one(build):
    house = build()
    house.submit("true", held=True)
    house.kill()  # its socket is left
    for words in (["list"], ["status"], ["submit", "--", "true"], ["wait", "1"], ["logs", "-f", "1"]):
        code, out, err = opusctl(house, *words)
        assert (code, out, "start it" in err) == (3, "", True), (words, err)
    code, _, err = opusctl(house, "list", OPUSD_SOCKET=str(house.folder / ("s" * 108)))
    assert (code, "107" in err) == (3, True)
    house.start()
    assert opusctl(house, "list", "-q")[:2] == (0, "1\n")


def test_a_bad_configuration_at_sighup_is_named_in_the_log_and_the_old_one_stays(build):
    house = build("max_concurrent = 1\n[agents.echo]\nargv = ['cat']\n")

    def told(word):
        """What the log says from here on, once it holds this word after a SIGHUP."""
        before, end = len(house.said()), time.monotonic() + 10
        house.process.send_signal(signal.SIGHUP)
        while word not in house.said()[before:]:
            house("system.ping")  # the signal is taken between two turns of the loop
            assert time.monotonic() < end
        return house.said()[before:]

    good = "max_concurrent = 4\n[agents.echo]\nargv = ['cat']\n"
    for text, mode, words in (
        ("max_concurent = 3\n", 0o600, "max_concurrent"),
        ("max_concurrent = 3\n[agents.echo]\nargv = ['{promt}']\n", 0o600, "promt"),
        ("= broken", 0o600, "TOML"),
        (good, 0o666, "written by others"),
    ):
        (house.folder / "config.toml").write_text(text)
        (house.folder / "config.toml").chmod(mode)
        assert words in told("config.refused")
        code, out, _ = opusctl(house, "config", "--json")
        assert (code, json.loads(out)["max_concurrent"]) == (0, 1)
        assert house.ended(house.submit(prompt="still", agent="echo"))["result"]["summary"] == "still"
    house.configure(good)
    told("config.reloaded")
    assert house("queue.status")["pool"]["max_concurrent"] == 4


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_75_and_neither_reading_nor_retention_minds(build, small_disk):
    house = build("[retention]\nfinished = '0.1s'\nhistory = '0.1s'\nevery = '0.1s'\n", start=False)
    house.state = small_disk / "state"
    house.start()
    gate = house.gate()
    running = house.sh(gate.wait)
    house.begun(running)
    full = small_disk / "full"
    with full.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"f" * 4096):
            pass
    kept = running
    with suppress(RpcError):
        while kept["id"] < 2000:
            kept = house.submit("true", held=True, payload={"x": "y" * 20000})
    code, out, err = opusctl(house, "submit", "--", "true")
    assert (code, out, "nothing was changed" in err) == (75, "", True), err
    code, out, _ = opusctl(house, "cancel", "--json", str(kept["id"]))
    assert (code, json.loads(out)["error"]["data"]["code"]) == (75, "storage_unavailable")
    assert opusctl(house, "list", "-q", "--limit", "1")[:2] == (0, f"{kept['id']}\n")
    code, out, err = opusctl(house, "status")
    assert (code, "registry" in out + err) == (0, True), out + err
    assert house.process.poll() is None
    gate.open()
    full.unlink()
    house.ended(running)  # the registry was tried again
    gate.close()
    pruned = house.client().events(kinds=["job.pruned"])
    house.submit("true")
    assert next(pruned)["kind"] == "job.pruned"
    house.clean_up()


@pytest.fixture(scope="module")
def evil(build_for_module):
    """A daemon whose jobs are malicious in every text that a caller or an agent can give."""
    house = build_for_module("[agents.cat]\nargv = ['cat']\n")
    text = {
        "title": EVIL, "group": EVIL, "labels": [EVIL], "metadata": {EVIL: EVIL}, "payload": {EVIL: [EVIL]},
        "needs": {EVIL: 1}, "type": EVIL, "env": {"X": EVIL},
    }  # fmt: skip
    good = house.submit(prompt=f"{EVIL}\n{EVIL}", agent="cat", **text)
    bad = house.submit("sh", "-c", f"printf '%s' '{EVIL}'; printf '%s' '{EVIL}' >&2; exit 3", **text)
    gone = house.submit(EVIL, cwd=f"/{EVIL}", **text)
    house.ended(good, bad, gone)
    waiting = house.submit("true", held=True, **text)
    house.submit("true", depends_on=[waiting["id"]], **text)
    cancelled = house.submit("true", held=True, **text)
    house("job.cancel", id=cancelled["id"], reason=EVIL)
    house("queue.pause", group=EVIL)
    house.submit("true", **text)
    return house


@pytest.mark.parametrize(
    "words",
    [
        "list", "list --json", "show 1 2 3", "show --full 1 2 3", "show --json 1 2 3", "show 4 5 6 7", "why 4", "why 5",
        "why 7", "why --json 7", "history 1 2 3", "history 6", "history --json 6", "logs 1", "logs 2", "logs --json 2",
        "wait 1 2 3", "wait --json 1 2 3", "dead", "status", "status --json", "events --since 0",
        "events --since 0 --json", "agents", "prune --before 2000-01-01T00:00:00Z", "release 1", "edit 1 --title x",
        "capacity", "list -q", "resume",
    ],
)  # fmt: skip
def test_what_a_job_says_never_reaches_a_terminal_raw(evil, words):
    code, seen = on_terminal(evil, *words.split())
    assert code in (0, 1, 2, 5), seen
    assert seen or words == "list -q"
    found = RAW.search(seen)
    assert found is None, (found, seen)
    assert "Traceback" not in seen


def test_output_that_is_followed_reaches_a_terminal_as_harmless(evil):
    evil("queue.resume", group=EVIL)
    code, seen = on_terminal(evil, "submit", "--follow", "--title", EVIL, "--", "printf", "%s\\n", EVIL)
    assert code == 0, seen
    assert RAW.search(seen) is None, seen
    assert "\\x1b[2J" in seen


def test_a_name_that_is_not_there_is_repeated_harmlessly(evil):
    for words in (["show", EVIL.replace(" ", "")], ["list", "--agent", EVIL], [EVIL], ["show", f"--{EVIL}"]):
        code, seen = on_terminal(evil, *words)
        assert RAW.search(seen) is None, seen
        assert code in (0, 2, 4)
