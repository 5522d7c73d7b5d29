"""The demo's stage: a scratch folder with a copy of the sources, a daemon of its own in it, and the clearing up.

It ends only what it started: the daemon by its own handle, and processes whose environment names the scratch folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import demo_proof as proof
import demo_work as work

from opus_client import Client

HERE = Path(__file__).resolve().parent
LIMIT = 55.0  # seconds for the whole story
CONFIG = """\
max_concurrent = 3
default_agent = "scribe"

[agents.scribe]
argv = {argv}
env = {{ DEMO_SCRATCH = {scratch} }}
env_pass = ["PYTHONPATH"]

[agents.exec]
env = {{ DEMO_SCRATCH = {scratch} }}
env_pass = ["PYTHONPATH"]
"""
OTHERS = ("OPUS_", "OPUSD_", "NOTIFY_", "LISTEN_", "WATCHDOG_")
"""Variables of another daemon, or of systemd, that are not for ours."""


class TooLong(Exception):
    """What should have happened did not."""


class Stage:
    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.sources = scratch / "sources"
        self.socket = scratch / "opusd.sock"
        self.begin = time.monotonic()
        self.down = (0.0, 0.0)
        self.promises: list[proof.Promise] = []
        self._gap = ""
        self._daemon: subprocess.Popen[bytes] | None = None
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        self._env["OPUSD_SOCKET"] = str(self.socket)
        for part in ("opusd", "clients", "tests", "examples"):
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(HERE.parent / part, self.sources / part, ignore=ignored)
        shutil.copy(HERE.parent / "pyproject.toml", self.sources)
        argv = json.dumps([sys.executable, str(HERE / "demo_work.py"), "answer"])
        (scratch / "config.toml").write_text(CONFIG.format(argv=argv, scratch=json.dumps(str(scratch))))

    def promise(self, text: str, held: object, evidence: str) -> None:
        self.promises.append(proof.Promise(text, bool(held), evidence))

    # ------------------------------------------------------------------------------------------- the daemon

    def start(self) -> None:
        places = ["--config", "config.toml", "--state-dir", "state", "--socket", str(self.socket)]
        with (self.scratch / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "opusd", *places],
                cwd=self.scratch,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for us: we end the daemon in order
            )
        self.until("the daemon answers", self._answers)

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise TooLong(f"opusd ended with {self._daemon.returncode}")
        try:
            self.call("system.ping")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self.down = (time.time(), 0.0)

    def restart(self) -> None:
        self.start()
        self.down = (self.down[0], time.time())

    def call(self, method: str, **params: object) -> Any:
        with Client(self.socket, timeout=max(1.0, self.begin + LIMIT - time.monotonic())) as opus:
            return opus.call(method, **params)

    def opusctl(self, *words: str) -> int:
        """An opusctl command as one would type it, with what it prints."""
        self._gap = "\n"
        print("\n$ opusctl", *(f"'{word}'" if " " in word else word for word in words), flush=True)
        argv = [sys.executable, "-m", "opusctl", *words]
        done = subprocess.run(argv, cwd=self.sources, env=self._env, stderr=subprocess.STDOUT, check=False)
        return done.returncode

    # ---------------------------------------------------------------------------------------------- waiting

    def until(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until `holds`; TooLong when the story's time is over."""
        while not holds():
            if time.monotonic() > self.begin + LIMIT:
                raise TooLong(f"waited in vain: {what}")
            time.sleep(0.01)

    def open_gate(self, name: str) -> None:
        (self.scratch / name).touch()

    def runs(self) -> list[proof.Run]:
        try:
            lines = (self.scratch / "witness").read_text().splitlines()
        except FileNotFoundError:
            return []
        return proof.runs_of([json.loads(line) for line in lines])

    def say(self, text: str) -> None:
        print(f"{self._gap}{time.monotonic() - self.begin:4.1f} s  {text}", flush=True)
        self._gap = ""

    # ------------------------------------------------------------------------------------------- the clearing up

    def clear(self) -> tuple[int | None, int]:
        """End the daemon as one should, then what a broken one left; its exit status, and how much had been left."""
        status = None
        if self._daemon is not None:
            self._daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._daemon.wait(5)
            self._daemon.kill()
            self._daemon.wait()
        until = time.monotonic() + 2  # the launcher hears of the daemon's end by a closed socket
        while (left := self._left()) and time.monotonic() < until:
            time.sleep(0.02)
        stubborn, until = left, time.monotonic() + 5
        while stubborn and time.monotonic() < until:
            for pid, born in stubborn:
                with contextlib.suppress(OSError):
                    handle = os.pidfd_open(pid)
                    if work.process_start(pid) == born:
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                    os.close(handle)
            time.sleep(0.02)
            stubborn = self._left()
        return status, len(left)

    def _left(self) -> list[tuple[int, int]]:
        """Processes, as (pid, born), with a file of our folder open, or an environment that names our socket."""
        found = []
        mark = b"OPUSD_SOCKET=" + os.fsencode(self.socket) + b"\0"
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # another user's, or over
                files = [str(file.readlink()) for file in (process / "fd").iterdir()]
                if mark in (process / "environ").read_bytes() or any(map(self._is_in_scratch, files)):
                    born = work.process_start(int(process.name))
                    found += [] if born is None else [(int(process.name), born)]
        return found

    def _is_in_scratch(self, file: str) -> bool:
        return file.startswith(f"{self.scratch}/")


@contextlib.contextmanager
def scratch_folder(*, keep: bool) -> Iterator[Path]:
    """A folder of our own. A socket's path has room for 107 bytes, which the one of some $TMPDIR exceeds."""
    folder = Path(tempfile.mkdtemp(prefix="opusd-demo-")).resolve()
    if len(os.fsencode(folder)) > 90:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="opusd-demo-", dir="/tmp"))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
