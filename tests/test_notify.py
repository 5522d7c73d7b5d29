import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from opusd.notify import Supervisor


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_each_word_as_one_datagram(tmp_path: Path, abstract: bool) -> None:
    address = f"@opusd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(5)
        supervisor = Supervisor.take({"NOTIFY_SOCKET": address})
        supervisor.ready("3 jobs adopted")
        supervisor.alive()
        supervisor.reloading(17)
        supervisor.stopping()
        assert [manager.recv(100) for _ in range(4)] == [
            b"READY=1\nSTATUS=3 jobs adopted",
            b"WATCHDOG=1",
            b"RELOADING=1\nMONOTONIC_USEC=17",
            b"STOPPING=1",
        ]


def test_without_a_manager_or_with_a_deaf_one_nothing_happens(tmp_path: Path) -> None:
    Supervisor.take({}).ready()
    Supervisor.take({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()


def test_the_variables_are_gone_once_they_were_read() -> None:
    environ = {
        "NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_PID": "1", "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "a", "HOME": "/root",
    }  # fmt: skip
    Supervisor.take(environ)
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
    ids=str,
)
def test_the_watchdog_counts_for_the_process_it_names(environ: dict[str, str], watchdog: float | None) -> None:
    assert Supervisor.take(dict(environ)).watchdog == watchdog


def test_sockets_for_another_process_are_not_ours() -> None:
    assert Supervisor.take({"LISTEN_PID": "1", "LISTEN_FDS": "2"}).listening == ()
    assert Supervisor.take({"LISTEN_FDS": "2"}).listening == ()
    assert Supervisor.take({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}).listening == ()


def test_a_socket_that_was_passed_is_ours_and_no_child_inherits_it(tmp_path: Path) -> None:
    program = (
        "import os, socket, sys; os.dup2(int(sys.argv[1]), 3);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "from opusd.notify import Supervisor; s = Supervisor.take();"
        "print(s.listening, os.get_inheritable(3), socket.socket(fileno=3).getsockname(), 'LISTEN_FDS' in os.environ)"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        output = subprocess.run(
            [sys.executable, "-c", program, str(listener.fileno())],
            pass_fds=[listener.fileno()], capture_output=True, text=True, timeout=20, check=True,
        ).stdout  # fmt: skip
    assert output.strip() == f"(3,) False {tmp_path}/s False"
