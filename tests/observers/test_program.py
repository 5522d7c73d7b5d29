"""The programs of notifications, as real processes."""

import asyncio
import json
import os
import sys
from contextlib import suppress

import pytest

from opusd.clock import SystemClock
from opusd.config.notifications import Sink
from opusd.observers.outbox import Entry
from opusd.observers.program import run_program
from opusd.observers.sending import Sender, Sent

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

PATH = {"PATH": os.environ["PATH"]}
BODY = json.dumps({"type": "job.failed", "timestamp": "", "data": {"text": "job 1 failed; $(id) 'x'"}})


async def run(*argv, stdin=b"", environ=PATH, seconds=10.0):
    async with asyncio.timeout(10):
        return await run_program(list(argv), stdin, environ, seconds)


async def test_it_gets_the_message_on_its_stdin_and_may_leave_it_unread():
    large = b"x" * 300_000
    assert await run("wc", "-c", stdin=large) == ("", "300000")
    assert await run("true", stdin=large) == ("", "")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (("sh", "-c", "exit 3"), "exit code 3"),
        (("sh", "-c", "kill -TERM $$"), "the program was ended by signal 15"),
        (("/nowhere/program",), "the program can't be started: No such file or directory"),
        (("/",), "the program can't be started: Permission denied"),
    ],
)
async def test_what_went_wrong_is_said(argv, problem):
    assert (await run(*argv))[0] == problem


async def test_its_output_is_kept_up_to_a_bound_and_never_holds_it_up():
    problem, output = await run("sh", "-c", "yes | head -c 500000; echo >&2 last")
    assert problem == ""
    assert output == ("y\n" * 1000).strip()


async def test_its_whole_group_is_killed_when_it_takes_too_long(tmp_path):
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        problem, _ = await run("sh", "-c", f"exec 3> {fifo}; sleep 60 & sleep 60", seconds=0.3)
        assert problem == "the program did not end within 0.3 s and was killed"
        assert await closed(reader), "a process of it is alive"
    finally:
        os.close(reader)


async def test_it_is_killed_when_nobody_waits_for_it_any_more(tmp_path):
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        task = asyncio.create_task(run("sh", "-c", f"exec 3> {fifo}; echo >&3 up; sleep 60 & sleep 60"))
        assert await readable(reader)
        assert os.read(reader, 10) == b"up\n"
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert await closed(reader)
    finally:
        os.close(reader)


async def test_a_child_that_it_leaves_behind_lives_and_holds_nobody_up(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    assert await run("sh", "-c", f"(read _ < {gate}; true) & exit 0") == ("", "")
    writer = os.open(gate, os.O_WRONLY)  # it opens, for the child is there
    os.close(writer)


async def test_its_environment_is_what_a_desktop_needs_and_no_more():
    environ = {
        **PATH, "HOME": "/", "LC_ALL": "C", "DISPLAY": ":0", "DBUS_SESSION_BUS_ADDRESS": "x", "XDG_DATA_HOME": "/d",
        "API_KEY": "secret", "OPUSD_SOCKET": "/s", "OPUS_TOKEN": "t", "LD_PRELOAD": "/x", "SSH_AUTH_SOCK": "/a",
    }  # fmt: skip
    _, output = await run(sys.executable, "-c", "import os; print(*sorted(os.environ))", environ=environ)
    assert output.split() == ["DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "HOME", "LC_ALL", "PATH", "XDG_DATA_HOME"]


async def test_it_has_no_descriptor_of_ours():
    own = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(own, True)
    try:
        _, output = await run("ls", "/proc/self/fd")
    finally:
        os.close(own)
    assert output.split() == ["0", "1", "2", "3"]  # 3 is the folder that ls reads


async def test_words_are_put_in_as_whole_arguments_and_no_shell_sees_them():
    said = []
    sender = Sender(PATH, SystemClock(), lambda event, **fields: said.append((event, fields)))
    argv = ("printf", "%s|", "{text}", "{type}", "a{text}", "{nothing}")
    sink = Sink(name="desk", on=frozenset(["failed"]), command=argv)
    assert await sender.send(sink, Entry("msg_1", 1, "desk", "job.failed", BODY, 0)) == Sent(ok=True)
    output = "job 1 failed; $(id) 'x'|job.failed|a{text}|{nothing}|"
    assert said == [("notification.output", {"level": "debug", "sink": "desk", "output": output})]


async def closed(reader):
    """Whether all who could write to this FIFO are gone, or go soon."""
    return await readable(reader) and os.read(reader, 10) == b""


async def readable(reader):
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(reader, ready.set)
    try:
        async with asyncio.timeout(5):
            return await ready.wait()
    finally:
        asyncio.get_running_loop().remove_reader(reader)
