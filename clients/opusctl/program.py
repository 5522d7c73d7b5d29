"""The program that does one job of a worker: its session, its environment, what it leaves behind.

It reads the Job on stdin and writes its result to the file $OPUS_RESULT. It ends with the worker, whatever becomes
of that; what it leaves running in its process group ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile

import msgspec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Job = dict[str, Any]

SUMMARY = 2048  # bytes at the end of its output that are kept
MOST_RESULT = 1 << 20
DEEPEST = 100  # what the daemon reads nests 128 deep at most, and this lies inside of it
CHUNK = 65536
PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class NotStarted(Exception):
    """Why the program can't be started; `failure` is the class of the attempt's end."""

    def __init__(self, failure: str, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class Program:
    """Start it in a running loop. `ended` is set when it is over; then `code` is known, negative for a signal."""

    def __init__(self, argv: Sequence[str], job: Job, own: Mapping[str, str]) -> None:
        self.code = 0
        self.ended = asyncio.Event()
        self._tail = b""
        self._killing: asyncio.TimerHandle | None = None
        self._folder = tempfile.mkdtemp(prefix="opus-worker-")
        self._result = os.path.join(self._folder, "result.json")
        try:
            env = environment(job, {**own, "OPUS_RESULT": self._result}, os.environ)
            self._process = self._spawn(argv, job, env)
        except BaseException:
            self.clean_up()
            raise
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._pidfd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._output, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._output, self._read)
        loop.add_reader(self._pidfd, self._exited)

    def _spawn(self, argv: Sequence[str], job: Job, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile(dir=self._folder) as stdin:  # a file, for a pipe would have to be written to
            stdin.write(json.dumps(job).encode())
            stdin.seek(0)
            try:
                return subprocess.Popen(
                    argv,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=job["cwd"],
                    env=env,
                    start_new_session=True,
                    preexec_fn=_end_with_the_worker,  # noqa: PLW1509 - this process has one thread
                )
            except OSError as error:
                what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
                raise NotStarted("spawn", f"the worker can't start {argv[0]}: {what}") from error
            except (ValueError, subprocess.SubprocessError) as error:
                raise NotStarted("spawn", f"the worker can't start {argv[0]}: {error}") from error

    # --- its end ----------------------------------------------------------------------------------

    def stop(self, grace: float) -> None:
        """SIGTERM to its process group, and after the grace SIGKILL; a later call may shorten the grace."""
        if self.ended.is_set():
            return
        loop = asyncio.get_running_loop()
        if self._killing is None:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
        elif self._killing.when() <= loop.time() + grace:
            return
        else:
            self._killing.cancel()
        self._killing = loop.call_later(max(grace, 0.0), self.kill)

    def kill(self) -> None:
        if not self.ended.is_set():
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To the group, whose number is not given out again before `_exited` has reaped its leader."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _exited(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._signal(signal.SIGKILL)  # what it left behind
        self.code = self._process.wait()
        self._read(to_the_end=True)
        loop.remove_reader(self._output)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._killing is not None:
            self._killing.cancel()
        self.ended.set()

    # --- what it leaves ---------------------------------------------------------------------------

    def _read(self, *, to_the_end: bool = False) -> None:
        while True:
            try:
                chunk = os.read(self._output, CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                asyncio.get_running_loop().remove_reader(self._output)
                return
            self._tail = (self._tail + chunk)[-SUMMARY:]
            if not to_the_end:
                return  # the other slots have their turn

    def summary(self) -> str:
        """The end of what it printed; a character that was cut through is left out."""
        data = self._tail
        while data and len(self._tail) == SUMMARY and data[0] & 0xC0 == 0x80:
            data = data[1:]
        return data.decode("utf-8", "replace").replace("\0", "\ufffd").strip()

    def result(self) -> tuple[Any, str | None]:
        """What it wrote to $OPUS_RESULT, or why that can't be used."""
        try:
            data = _read_result(self._result)
            if data is None:
                return None, None
            value = msgspec.json.decode(data)
        except OSError as error:
            return None, f"$OPUS_RESULT can't be used: {error.strerror}"
        except (ValueError, RecursionError) as error:
            return None, f"$OPUS_RESULT can't be used: {error}"
        if _deeper_than(value, DEEPEST):
            return None, f"$OPUS_RESULT can't be used: it nests more than {DEEPEST} deep"
        return value, None

    def clean_up(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _end_with_the_worker() -> None:
    """Between fork and exec: should the worker be killed, the kernel kills this."""
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


# ------------------------------------------------------------------------------------------- environment


def environment(job: Job, own: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment without what belongs to opusd, the job's `env` resolved here and now, and `own`."""
    env = {name: value for name, value in base.items() if not name.startswith(("OPUS_", "OPUSD_"))}
    for name, given in (job.get("env") or {}).items():
        env[name] = _resolved(name, given, base)
    return {**env, **own}


def _resolved(name: str, given: Any, base: Mapping[str, str]) -> str:
    if isinstance(given, str):
        return given
    source = given.get("from_env")
    if source is not None:
        if source not in base:
            raise NotStarted("config", f"env {name}: the worker's environment has no {source}")
        return base[source]
    path = given["from_file"]
    try:
        with open(path, "rb") as file:
            return file.read(131072).decode().removesuffix("\n")
    except (OSError, ValueError) as error:
        raise NotStarted("config", f"env {name}: {path} can't be read: {error}") from error


# ------------------------------------------------------------------------------------------------ result


def _read_result(path: str) -> bytes | None:
    """None: there is none. It is opened as if by an enemy: no links, a regular file with one name, of bounded size."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(file, "rb") as stream:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise ValueError("it is not a regular file with one name")
        data = stream.read(MOST_RESULT + 1)
    if len(data) > MOST_RESULT:
        raise ValueError(f"it is larger than {MOST_RESULT} bytes")
    return data


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)
