"""A scripted daemon on a real Unix socket, and ways to run opusctl against it.

The scripted daemon holds opusctl to the table of methods: parameters that the table does not have are refused as
the daemon refuses them and fail the test, and what a test lets it answer must be a result of the method.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opusctl.__main__ import main
from opusd.api.methods import METHODS
from opusd.api.types import Job, Policy

ROOT = Path(__file__).parents[2]
NOW = "2025-11-24T09:00:00.000000Z"


class Refusal(Exception):
    """What a script raises to answer with an error."""

    def __init__(self, code: int, word: str, message: str = "no", **data: Any) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": {"code": word, "retryable": False, **data}}


class HangUp(Exception):
    """What a script raises to close the connection without an answer."""


class ScriptedDaemon:
    """`answers[method]` is a result, or a function of the parameters that gives one, or a list of these in turn."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answers: dict[str, Any] = {"system.ping": {}}
        self.odd: dict[str, Any] = {}  # method -> the answer of a peer that does not keep to the table
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.wrong: list[str] = []
        self.under_way: set[str] = set()
        self.notify_after: dict[str, list[dict[str, Any]]] = {}  # method -> notifications sent behind its reply
        self.called = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def sent(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every call of a method so far."""
        return [params for name, params in self.calls if name == method]

    def wait_for(self, method: str, times: int = 1) -> None:
        with self.called:
            assert self.called.wait_for(lambda: len(self.sent(method)) >= times, timeout=10), self.calls

    def drop_connections(self) -> None:
        """What a restart looks like: the connections end, and new ones are taken."""
        for one in self._connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._connections):
            one.close()
        assert not self.wrong, self.wrong

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self._answer(connection, json.loads(line))
            except (HangUp, OSError):
                pass
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        name, params = request["method"], request["params"]
        with self.called:
            self.under_way.add(name)
            self.called.notify_all()
        try:
            result = self._result(name, params)
            reply = {"jsonrpc": "2.0", "id": request["id"], "result": result}
        except Refusal as refusal:
            reply = {"jsonrpc": "2.0", "id": request["id"], "error": refusal.error}
        finally:
            with self.called:
                self.under_way.discard(name)
                self.calls.append((name, params))
                self.called.notify_all()
        connection.sendall(json.dumps(reply).encode() + b"\n")
        for message in self.notify_after.pop(name, ()):
            connection.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def _result(self, name: str, params: dict[str, Any]) -> Any:
        method = METHODS.get(name)
        if method is None:
            self.wrong.append(f"no such method: {name}")
            raise Refusal(-32601, "method_not_found")
        try:
            msgspec.convert(params, method.params)
        except msgspec.ValidationError as error:
            self.wrong.append(f"{name}: {error}")
            raise Refusal(-32602, "invalid_params", str(error)) from None
        if name in self.odd:
            return self.odd[name]
        answer = self.answers.get(name)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if callable(answer):
            answer = answer(params)
        if answer is None:
            self.wrong.append(f"the script has no answer to {name}")
            raise Refusal(-32603, "internal_error")
        of_group = method.group_result if params.get("group") is not None else None
        try:
            msgspec.convert(answer, of_group or method.result)
        except msgspec.ValidationError as error:
            self.wrong.append(f"result of {name}: {error}")
        return answer


def a_job(number: int = 5, status: str = "queued", **fields: Any) -> dict[str, Any]:
    """A Job as the daemon would send it."""
    job = Job(
        id=number, status="queued", reason="", title="Fix the login", type="task", source="user", interactive=False,
        priority="normal", tier="normal", boost=0, agent="claude", root=number, cwd="/srv/app", max_retries=3,
        retry=Policy(strategy="exponential", base=1, cap=300, jitter=0.1, max_retries=3, on=["agent_error"]),
        created_at=NOW, queued_at=NOW, submitted_by="user:1000", version=1,
    )  # fmt: skip
    record = msgspec.to_builtins(job)
    record["status"] = status
    if status == "queued":
        record |= {"position": 1, "ahead": 0, "score": 100.0, "reason": "waits for a slot"}
    if status in ("running", "completed", "failed"):
        record |= {"attempts": 1, "started_at": NOW}
    if status in ("completed", "failed", "cancelled", "expired"):
        record["completed_at"] = NOW
    if status == "failed":
        record["error"] = {"class": "agent_error", "message": "it broke", "exit_code": 1, "signal": None}
    return record | fields


@pytest.fixture
def job():
    return a_job


@pytest.fixture
def refusal():
    return Refusal


@pytest.fixture
def hang_up():
    return HangUp


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    path = str(tmp_path / "opusd.sock")
    monkeypatch.setenv("OPUSD_SOCKET", path)
    scripted = ScriptedDaemon(path)
    yield scripted
    scripted.close()


@pytest.fixture
def status():
    """The result of queue.status, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        counts = {
            "status": {"queued": 12, "running": 1, "completed": 40},
            "tier": {"normal": 12, "urgent": 1},
            "agent": {},
        }
        pool = {"max_concurrent": 3, "busy": 1, "interactive_slots": 1}
        running = [a_job(5, "running", progress={"fraction": 0.4, "message": "tests"})]
        return {"counts": counts, "running": running, "pool": pool, "paused": False, "uptime": 7200.0} | changes

    return make


@pytest.fixture
def info():
    """The result of system.info, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "version": "0.1.0", "pid": 4711, "uptime": 7200.0, "ready": True, "degraded": [], "store": "sqlite",
            "db_bytes": 4096, "wal_bytes": 0, "free_disk": 50 << 30, "loop_lag_ms": 0.2, "commit_ms": 1.5,
            "connections": 1, "oldest_queued_seconds": None,
        } | changes  # fmt: skip

    return make


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def opusctl(capsysbinary, monkeypatch):
    """Run a verb in this process; stdout is no terminal."""
    for name in ("OPUS_JOB_ID", "OPUS_TOKEN", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Ran:
        capsysbinary.readouterr()
        try:
            code = main(list(words))
        except SystemExit as leaving:  # --help
            code = int(leaving.code or 0)
        out, err = capsysbinary.readouterr()
        return Ran(code, out.decode("utf-8", "surrogateescape"), err.decode())

    return run


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "clients"), str(ROOT)])
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OPUS_", "COLUMNS", "NO_COLOR"))}
    return {**ours, "PYTHONPATH": path, "TERM": "xterm", "LC_ALL": "C.UTF-8", **more}


@pytest.fixture
def spawn():
    """Start opusctl as a program of its own."""
    running: list[subprocess.Popen[bytes]] = []

    def start(
        *words: str, stdout: Any = subprocess.PIPE, under: Sequence[str] = (), **env: str
    ) -> subprocess.Popen[bytes]:
        program = [*under, sys.executable, "-m", "opusctl", *words]
        running.append(
            subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=environment(**env),
                cwd=ROOT,
            )
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run_python():
    """Run a program that imports opusctl, without site-packages: what they import at start is not opusctl's doing."""

    def run(program: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-c", program]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, check=True)

    return run


@pytest.fixture
def on_terminal(spawn):
    """Run opusctl with its stdout on a terminal of so many columns; what the terminal got."""

    def run(*words: str, columns: int = 80, **env: str) -> Ran:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = spawn(*words, stdout=theirs, **env)
        os.close(theirs)
        got = bytearray()
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # EIO: the other side is closed
                break
            if not data:
                break
            got += data
        os.close(ours)
        _, err = process.communicate(timeout=20)
        return Ran(process.returncode, got.decode().replace("\r\n", "\n"), err.decode())

    return run
