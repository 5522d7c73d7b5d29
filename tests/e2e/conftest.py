"""Daemons as real processes, each in a folder of its own, spoken to over their sockets.

`house` is a daemon for one test, `build` makes several (with a configuration, an environment, or not started yet),
and `commons` is shared by the tests of a module that leave the queue as they found it. Whatever a test leaves
running is ended by the pid of its shim; a traceback in a daemon's log fails the test.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from opus_client import Client, RpcError
from opusd.agents.kernel import signal_verified
from opusd.agents.traces import bury, read_claim

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0
NOISE = ("Traceback", "call.failed", "task.failed", "launch.failed", "decision.refused")


def soon(happened):
    """What `happened()` gives once that is true, of what no event tells."""
    end = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return found


class House:
    """A daemon with its folder: state, socket, log, and the agents it started."""

    program = (sys.executable, "-m", "opusd")

    def __init__(self, folder, *, config=None, env=None, arguments=()):
        self.folder = folder
        self.state = folder / "state"
        self.socket = folder / "s.sock"
        self.log = folder / "log"
        self.work = folder / "work"
        self.work.mkdir()
        self.noise = ()  # words of NOISE that this test means to provoke
        self.process = None
        self.env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}", "HOME": str(self.work), **(env or {})}
        self.env.pop("OPUSD_SOCKET", None)
        self.env.pop("XDG_CONFIG_HOME", None)
        self.arguments = list(arguments)
        if config is not None:
            self.configure(config)
        self._clients = []
        self._lock = threading.Lock()

    def configure(self, text):
        path = self.folder / "config.toml"
        path.write_text(text)
        path.chmod(0o600)
        if "--config" not in self.arguments:
            self.arguments += ["--config", str(path)]

    # --- the process ------------------------------------------------------------------------------

    def spawn(self, **options):
        """Start the process and do not wait for it to be ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "--state-dir", str(self.state), "--socket", str(self.socket), *self.arguments],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=self.env, **options,
            )  # fmt: skip
        return self.process

    def start(self):
        """Start it and wait until it says that it is ready."""
        place = self.folder / "notify"
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(str(place))
            self.env["NOTIFY_SOCKET"] = str(place)
            self.spawn()
            pidfd = os.pidfd_open(self.process.pid)
            try:
                while True:
                    ready, _, _ = select.select([ear, pidfd], [], [], PATIENCE)
                    assert ready, f"not ready in {PATIENCE} s\n{self.said()}"
                    assert ear in ready, f"it ended with {self.process.wait()}\n{self.said()}"
                    if b"READY=1" in ear.recv(4096):
                        return self
            finally:
                os.close(pidfd)

    def refuse(self):
        """Start it, expecting that it ends by itself: (exit status, what it said)."""
        self.env.pop("NOTIFY_SOCKET", None)
        before = len(self.said())
        status = self.spawn().wait(PATIENCE)
        self._reaped()
        return status, self.said()[before:]

    def kill(self, number=signal.SIGKILL):
        """End the daemon, without a chance to do anything about it, and wait until it is gone."""
        self.forget_clients()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(number)
            status = self.process.wait(PATIENCE)
            self._reaped()
            return status
        return None

    def stop(self):
        """SIGTERM: its exit status."""
        return self.kill(signal.SIGTERM)

    def restart(self):
        self.kill()
        return self.start()

    def _reaped(self):
        self.process.stdout.close()
        self.process = None

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def children(self, pid=None):
        """The processes whose parent is this one, or the daemon."""
        pid = self.process.pid if pid is None else pid
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it is over
                if int(place.read_bytes().rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(place.parent.name))
        return found

    def spare(self):
        """The launcher, and the shim that waits for the next launch."""
        (launcher,) = self.children()
        (spare,) = soon(lambda: self.children(launcher))
        return launcher, spare

    def end_spare(self):
        """So that the next launch, if it is soon, is a fork; the launcher."""
        launcher, spare = self.spare()
        os.kill(spare, signal.SIGKILL)
        soon(lambda: not self.children(launcher))
        return launcher

    # --- speaking with it -------------------------------------------------------------------------

    def client(self):
        """A connection of its own; closed at the end of the test."""
        client = Client(self.socket, timeout=PATIENCE + 5).connect()
        with self._lock:
            self._clients.append(client)
        return client

    def forget_clients(self):
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()
        self._own = None

    _own = None

    def __call__(self, method, /, **params):
        """A call on the test's own connection."""
        if self._own is None:
            self._own = self.client()
        try:
            return self._own.call(method, **params)
        except OSError:
            self._own = None  # it is of no use any more
            raise

    def refused(self, method, /, **params):
        """The refusal of a call that must be refused."""
        with pytest.raises(RpcError) as caught:
            self(method, **params)
        return caught.value

    def submit(self, *command, **fields):
        """A new job; one that runs `command`, or none."""
        if command:
            fields["command"] = list(command)
        fields.setdefault("cwd", str(self.work))
        return self("job.submit", **fields)["job"]

    def sh(self, script, **fields):
        return self.submit("sh", "-c", script, **fields)

    def python(self, program, **fields):
        return self.submit(sys.executable, "-c", program, **fields)

    def ended(self, *jobs, **fields):
        """These jobs (ids or Jobs) once all have ended; one alone is given alone."""
        ids = [job["id"] if isinstance(job, dict) else job for job in jobs]
        found = self("job.wait", ids=ids, timeout=PATIENCE, **fields)
        assert found["done"], found["jobs"]
        return found["jobs"][0] if len(ids) == 1 else found["jobs"]

    def begun(self, *jobs):
        return self.ended(*jobs, until="started")

    def get(self, job):
        return self("job.get", id=job["id"] if isinstance(job, dict) else job)

    def until(self, happened, seconds=PATIENCE):
        """What `happened()` gives once that is true; it is asked again after each event."""
        with Client(self.socket, timeout=seconds) as ear:
            events = ear.events()
            end = time.monotonic() + seconds
            while not (found := happened()):
                assert time.monotonic() < end, "it did not happen"
                next(events)
            return found

    def output(self, job, words, attempt=1):
        """The output of a job once it holds these words."""
        seen, offset = "", 0
        number = job["id"] if isinstance(job, dict) else job
        self.begun(number)
        while words not in seen:
            chunk = self("job.logs", id=number, attempt=attempt, offset=offset, wait=PATIENCE)
            seen, offset = seen + chunk["data"], chunk["next_offset"]
            assert not chunk["eof"] or words in seen, seen
        return seen

    def logs(self, job, **fields):
        return self("job.logs", id=job["id"] if isinstance(job, dict) else job, **fields)["data"]

    def until_workers(self, name):
        """Until the daemon knows a worker of this name: its claim has come."""
        end = time.monotonic() + PATIENCE
        while name not in [worker["worker"] for worker in self("worker.list")["workers"]]:
            assert time.monotonic() < end, f"worker {name} did not come"

    def gate(self, name="gate"):
        return Gate(self.work / name)

    # --- the end ----------------------------------------------------------------------------------

    def clean_up(self):
        self.kill()
        for started in self.state.glob("runs/*/*/started"):
            claim = read_claim(started.parent)
            if claim is None or claim.never or not claim.here:
                continue
            if not (started.parent / "exit").exists():
                for number in (signal.SIGUSR1, signal.SIGCONT):
                    signal_verified(*claim.shim, number)
                wait_for_lock(started)
                bury(claim, claim.attempt_id)
        said = self.said()
        for word in NOISE:
            assert word in self.noise or word not in said, said


def wait_for_lock(path):
    """Until no shim holds it: then its last process is gone."""
    end = time.monotonic() + PATIENCE
    with path.open() as file:
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.01)


class Gate:
    """A FIFO that agents wait at: `cat GATE` ends when the gate is opened."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self._hold = None

    def __str__(self):
        return str(self.path)

    @property
    def wait(self):
        """Shell words that wait here."""
        return f"read _ < {self.path}"

    def open(self, times=1):
        """Let so many through that wait, or will."""
        if self._hold is None:
            self._hold = os.open(self.path, os.O_RDWR)
        os.write(self._hold, b"\n" * times)

    def close(self):
        if self._hold is not None:
            with suppress(OSError):
                os.close(self._hold)
            self._hold = None


@contextmanager
def building(tmp_path_factory):
    built = []

    def make(config=None, *, env=None, start=True, arguments=()):
        house = House(tmp_path_factory.mktemp("o"), config=config, env=env, arguments=arguments)
        built.append(house)
        return house.start() if start else house

    yield make
    problems = []
    for house in built:
        try:
            house.clean_up()
        except AssertionError as error:
            problems.append(error)
    if problems:
        raise problems[0]


@pytest.fixture
def build(tmp_path_factory):
    """build(config=None, env=None, start=True, arguments=()): another daemon."""
    with building(tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="module")
def build_for_module(tmp_path_factory):
    """The same, for all tests of a module."""
    with building(tmp_path_factory) as make:
        yield make


@pytest.fixture
def house(build):
    return build()


@pytest.fixture(scope="module")
def _commons(build_for_module):
    return build_for_module("max_concurrent = 8\n")


@pytest.fixture
def commons(_commons):
    """A daemon with room for 8, for tests that end all their jobs."""
    yield _commons
    for job in _commons("job.list", status=["running", "queued", "held", "blocked", "scheduled", "retrying"])["jobs"]:
        with suppress(RpcError):
            _commons("job.cancel", id=job["id"], grace=0)
    with suppress(RpcError):
        running = [job["id"] for job in _commons("job.list", status=["running", "cancelling"])["jobs"]]
        if running:
            _commons("job.wait", ids=running, timeout=PATIENCE)


def pytest_collection_modifyitems(items):
    """What takes long is run on one Python in CI: see .ci/run."""
    for item in items:
        if item.path.name in {
            "test_kill.py",
            "test_faults.py",
            "test_daemon.py",
            "test_agents_rights.py",
            "test_stalls.py",
            "test_programs.py",
            "test_clock.py",
        }:
            item.add_marker(pytest.mark.slow)
