"""A daemon that is struck: strace kills it, or fails a system call of its, at the Nth one.

A Point names one strike. Of its family come the process and the files that are meant:

    registry   the daemon's writes to its registry, which holds jobs already
    recovery   the same, of a daemon that takes up what a killed one left
    creation   the daemon's first start, from nothing
    replies    what the daemon's loop sends to its clients
    threads    what the daemon's loop starts once it serves
    launcher   the launcher's forks and messages; `+` after the action: the daemon dies with it
    shims      what the shim of job N does with the files of its attempt
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import PATIENCE, House

DAEMON = (sys.executable, "-m", "opusd")


@dataclass(frozen=True)
class Point:
    """The `when`th `call` in a family; `action` is kill, or an errno; `lasting`: and all that follow."""

    family: str
    call: str
    action: str
    when: int
    lasting: bool = False

    def __str__(self):
        return f"{self.family}:{self.call}:{self.action}:{self.when}{'+' if self.lasting else ''}"

    @classmethod
    def read(cls, text):
        family, call, action, when = text.split(":")
        return cls(family, call, action, int(when.rstrip("+")), when.endswith("+"))

    @property
    def kills(self):
        return self.action == "kill"

    @property
    def injection(self):
        do = "signal=SIGKILL" if self.kills else f"error={self.action}"
        when = 1 if self.family == "shims" else self.when
        return f"inject={self.call}:{do}:when={when}{'+' if self.lasting else ''}"


class Stage(House):
    """One daemon's folder, its registry copied from `template` if there is one."""

    def __init__(self, folder, template, config):
        super().__init__(folder, config=config)
        self.work.joinpath("marks").touch()
        if template is not None:
            shutil.copytree(template, self.state)
        self.trace = folder / "trace"
        self.tracer = None
        self._alone = True

    def start_struck(self, point):
        """Start it with `point` ahead: False when it did not live to be ready."""
        spawned = point.family in ("registry", "recovery", "creation")
        if spawned:
            self.program = ("strace", "-D", "-f", *self._watch(point), *DAEMON)
        try:
            self.start()
        except AssertionError:
            if self.process is None or self.process.poll() is None:
                raise
            return False
        finally:
            self.program = DAEMON
        if not spawned:
            self._attach(point)
        return True

    def _watch(self, point):
        paths = []
        if point.family in ("registry", "recovery"):
            paths = [self.state / "opusd.db", self.state / "opusd.db-wal"]
        elif point.family == "shims":
            attempt = self.state / "runs" / str(point.when) / "1"
            paths = [attempt / "started", attempt / "exit", attempt / "exit.new"]
        only = [word for path in paths for word in ("-P", str(path))]
        return ["-o", str(self.trace), *only, "-e", f"trace={point.call}", "-e", "signal=none", "-e", point.injection]

    def _attach(self, point):
        (launcher,) = self.children()
        target = self.process.pid if point.family in ("replies", "threads") else launcher
        self._alone = point.family != "shims"
        follow = [] if self._alone else ["-f"]
        self.tracer = subprocess.Popen(
            ["strace", *follow, *self._watch(point), "-p", str(target)], stderr=subprocess.PIPE, text=True
        )
        line = self.tracer.stderr.readline()
        assert "attached" in line, f"strace may not attach: {line}"

    def struck(self, point, died):
        """Whether what was to happen happened; to be asked when the trace is whole."""
        if point.kills and point.family in ("registry", "recovery", "creation", "replies", "threads"):
            return died == -signal.SIGKILL
        mark = "= ?" if point.kills else "(INJECTED)"
        return self.trace.exists() and mark in self.trace.read_text(errors="replace")

    def strike_ends(self):
        """The daemon is gone: its exit status. Of a shim that lives on one strike may be due still."""
        status = self.kill()
        if self.tracer is not None and self._alone:
            self._end_tracer(PATIENCE)
        return status

    def clean_up(self):
        super().clean_up()
        if self.tracer is not None:
            self._end_tracer(1)

    def _end_tracer(self, patience):
        """It ends with what it traces. Asked to let go it may wait for ever for a process that waits in vfork."""
        try:
            self.tracer.wait(patience)
        except subprocess.TimeoutExpired:
            self.tracer.kill()
            self.tracer.wait()
        self.tracer.stderr.close()
        self.tracer = None

    def remove(self):
        self.clean_up()
        shutil.rmtree(self.folder)


def can_strike():
    """Why nothing can be struck here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "-e", "trace=getppid", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"strace may not trace: {tried.stderr.strip()}"


def marks(work: Path):
    """What agents noted: (word, job, attempt, exit code or None) in the order of the file."""
    lines = [line.split() for line in (work / "marks").read_text().splitlines()]
    return [(word, int(job), int(attempt), int(rest[0]) if rest else None) for word, job, attempt, *rest in lines]
