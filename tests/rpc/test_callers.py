import os
import socket
import subprocess
import sys

import pytest

from opusd.core.access import Caller
from opusd.core.errors import Forbidden
from opusd.rpc.callers import Callers

ME = os.getpid()
UID = os.geteuid()


@pytest.fixture
def peer():
    one, two = socket.socketpair()
    with one, two:
        yield one


class Proc:
    """A /proc of our making: process -> parent, with environ and cgroup."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, pid, parent, environ=b"HOME=/\0", cgroup="0::/user.slice\n", name="a) b"):
        place = self.folder / str(pid)
        place.mkdir()
        (place / "stat").write_text(f"{pid} ({name}) S {parent} " + "0 " * 17 + f"{pid * 10} 0 0\n")
        (place / "environ").write_bytes(environ)
        (place / "cgroup").write_text(cgroup)
        return self

    def callers(self, pids=None, ids=None, tokens=None, held=None, uid=UID):
        return Callers(
            attempt_of=(pids or {}).get,
            attempt_by_id=(ids or {}).get,
            attempt_by_token=(tokens or {}).get,
            held_by=lambda pid: (held or {}).get(pid, []),
            uid=uid,
            proc=self.folder,
        )


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


def test_a_person_is_no_agent(proc, peer):
    proc.add(ME, 500).add(500, 1)
    assert proc.callers().identify(peer) == Caller(uid=UID, pid=ME, start=ME * 10)


def test_a_descendant_of_a_shim_is_its_attempts_agent(proc, peer):
    proc.add(ME, 500).add(500, 400).add(400, 300).add(300, 1)
    caller = proc.callers({400: (41, 2)}).identify(peer)
    assert caller == Caller(uid=UID, pid=ME, agent=True, job=41, attempt=2)


def test_a_process_in_an_attempts_scope_is_its_agent(proc, peer):
    proc.add(ME, 1, cgroup="0::/user.slice/app.slice/opus-7-3.scope/inner\n")
    assert proc.callers().identify(peer) == Caller(uid=UID, pid=ME, agent=True, job=7, attempt=3)


@pytest.mark.parametrize("whose", ["its own", "an ancestor's"])
def test_an_attempt_id_in_the_environ_makes_an_agent(proc, peer, whose):
    carried = b"A=1\0OPUS_ATTEMPT_ID=abc\0B=2\0"
    own = whose == "its own"
    proc.add(ME, 500, carried if own else b"").add(500, 1, b"" if own else carried)
    assert proc.callers(ids={"abc": (5, 1)}).identify(peer) == Caller(uid=UID, pid=ME, agent=True, job=5, attempt=1)
    assert proc.callers().identify(peer) == Caller(uid=UID, pid=ME, agent=True)


def test_a_name_that_only_ends_like_the_attempt_id_is_no_evidence(proc, peer):
    proc.add(ME, 1, b"A=1\0NOT_OPUS_ATTEMPT_ID=abc\0")
    assert proc.callers(ids={"abc": (5, 1)}).identify(peer).agent is False


def test_who_cannot_be_looked_at_is_an_agent_without_a_job(proc, peer):
    assert proc.callers().identify(peer) == Caller(uid=UID, pid=ME, agent=True)
    proc.add(ME, 500)  # a parent that is not there
    assert proc.callers().identify(peer) == Caller(uid=UID, pid=ME, agent=True)


def test_a_circle_of_parents_ends(proc, peer):
    proc.add(ME, 500).add(500, ME)
    assert proc.callers().identify(peer) == Caller(uid=UID, pid=ME, agent=True)


def test_another_user_is_forbidden_and_root_is_not(proc, peer):
    proc.add(ME, 1)
    callers = proc.callers(uid=UID + 1)
    if UID == 0:
        assert callers.identify(peer).uid == 0
    else:
        with pytest.raises(Forbidden):
            callers.identify(peer)


def test_a_token_makes_its_attempts_agent_and_an_unknown_one_an_agent_without_a_job(proc):
    callers = proc.callers(tokens={"good": (9, 1)})
    person = Caller(uid=UID, pid=ME)
    assert callers.lower(person, "good") == Caller(uid=UID, pid=ME, agent=True, job=9, attempt=1)
    assert callers.lower(person, "bad") == Caller(uid=UID, pid=ME, agent=True)


def test_a_token_never_makes_a_known_agent_another_jobs(proc):
    callers = proc.callers(tokens={"good": (9, 1)})
    known = Caller(uid=UID, pid=ME, agent=True, job=3, attempt=1)
    assert callers.lower(known, "good") == known


CHILD = """
import os, socket, sys
if sys.argv[2] == "orphan" and (os.fork() or os.setsid() or os.fork()):
    os._exit(0)
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(b"x")
if sys.argv[2] != "gone":
    peer.recv(1)
"""


@pytest.fixture
def listening(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        listening.settimeout(20)
        yield listening


def real(ids, pids=None):
    return Callers(attempt_of=(pids or {}).get, attempt_by_id=ids.get, attempt_by_token=ids.get, held_by=lambda _: [])


@pytest.mark.parametrize("kind", ["plain", "orphan"])
def test_a_real_process_is_known_by_its_environ_even_as_an_orphan(listening, kind):
    argv = [sys.executable, "-I", "-S", "-c", CHILD, listening.getsockname(), kind]
    with subprocess.Popen(argv, env={"OPUS_ATTEMPT_ID": "an-id"}):
        peer, _ = listening.accept()
        with peer:
            caller = real({"an-id": (8, 2)}).identify(peer)
            assert (caller.job, caller.attempt) == (8, 2)


def test_a_real_process_is_known_by_its_parent(listening):
    argv = [sys.executable, "-I", "-S", "-c", CHILD, listening.getsockname(), "plain"]
    with subprocess.Popen(argv, env={}):
        peer, _ = listening.accept()
        with peer:
            assert real({}, {ME: (6, 1)}).identify(peer).job == 6


def test_a_process_that_connected_and_ended_is_an_agent_without_a_job(listening):
    argv = [sys.executable, "-I", "-S", "-c", CHILD, listening.getsockname(), "gone"]
    with subprocess.Popen(argv, env={"OPUS_ATTEMPT_ID": "an-id"}) as child:
        peer, _ = listening.accept()
        child.wait()
        with peer:
            caller = real({"an-id": (8, 2)}, {ME: (6, 1)}).identify(peer)
            assert caller == Caller(uid=UID, pid=child.pid, agent=True)
