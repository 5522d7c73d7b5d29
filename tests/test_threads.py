"""A machine without room for another thread: the daemon does not start, and says so; and the turns that threads get."""

import errno
import sys
import threading
from concurrent.futures import wait

import pytest

from opusd import __main__ as program
from opusd.config import load
from opusd.daemon import Settings
from opusd.notify import Supervisor
from opusd.threads import HAND_OVER, lacks_room, started

TOLD = "can't start new thread"


def run_in(folder):
    config = load(folder / "config.toml")
    settings = Settings(state_dir=folder / "state", socket=folder / "s.sock", load=lambda: config)
    return program._run(settings, config, Supervisor())


def running(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.fixture(autouse=True)
def as_before():
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


def test_all_threads_are_there_before_there_is_work():
    executor = started(5, "early")
    try:
        assert len(running("early")) == 5
        everyone = threading.Barrier(5)
        done, _ = wait([executor.submit(everyone.wait, 10) for _ in range(5)], 10)
        assert sorted(future.result() for future in done) == [0, 1, 2, 3, 4]
    finally:
        executor.shutdown()


def test_without_room_for_all_of_them_none_is_left(monkeypatch):
    start = threading.Thread.start

    def third_fails(thread):
        if len(running("late")) == 2:
            raise RuntimeError(TOLD)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", third_fails)
    with pytest.raises(RuntimeError, match=TOLD):
        started(4, "late")
    assert running("late") == []


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (RuntimeError(TOLD), True),
        (BlockingIOError(errno.EAGAIN, "fork"), True),
        (OSError(errno.ENOMEM, "fork"), True),
        (RuntimeError("something else"), False),
        (OSError(errno.EIO, "read"), False),
    ],
)
def test_want_of_room_is_told_from_other_faults(error, lacking):
    assert lacks_room(error) is lacking


@pytest.mark.parametrize("error", [RuntimeError(TOLD), BlockingIOError(errno.EAGAIN, "no process")])
def test_a_daemon_that_finds_no_room_ends_with_71_and_says_what_to_do(monkeypatch, tmp_path, capsys, error):
    def run(daemon):
        daemon.close()
        raise error

    monkeypatch.setattr(program.uvloop, "run", run)
    assert run_in(tmp_path) == 71
    said = capsys.readouterr().err
    assert str(error) in said
    assert "raise the limit" in said


def test_another_fault_is_not_taken_for_want_of_room(monkeypatch, tmp_path):
    def run(daemon):
        daemon.close()
        raise RuntimeError("a fault")

    monkeypatch.setattr(program.uvloop, "run", run)
    with pytest.raises(RuntimeError, match="a fault"):
        run_in(tmp_path)


def test_a_thread_that_waits_for_the_interpreter_beside_a_busy_loop_gets_it_soon(tmp_path, monkeypatch):
    meanwhile = []

    def run(daemon):
        daemon.close()
        meanwhile.append(sys.getswitchinterval())

    monkeypatch.setattr(program.uvloop, "run", run)
    assert run_in(tmp_path) == 0
    assert meanwhile == [pytest.approx(HAND_OVER)]
    assert HAND_OVER < 0.001
