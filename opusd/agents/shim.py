"""The keeper of one attempt: a small process of its own that outlives the daemon and the launcher.

It claims the attempt, starts the agent, caps its output, runs what verifies its work, records how it ended, and ends
only when no process of the attempt is left. Its end is the attempt's end. Standard library, `kernel` and `shim_spawn`
only: it runs in a fork of the launcher (`python -I -S`), where opusd can't be imported. TERM ends all, USR1 kills all.
In the folder `runs/JOB/ATTEMPT` it writes `started`, `output.log`, `verify.log` and `exit`, and reads `orders`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import marshal
import math
import os
import signal
import struct
import traceback

from .kernel import (
    PAGE,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    boot_id,
    descendants,
    monotonic_seconds,
    oom_kills,
    parent_and_start,
    pid_namespace,
    prctl,
    punch_hole,
    signal_verified,
)
from .shim_spawn import NotStarted, limit_files, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

LAUNCH = struct.Struct("!IIQQ")  # lengths of the marshalled dict and of stdin, which follow; job, attempt
EXIT_CLAIMED = 75  # somebody else has claimed the attempt: nothing was launched
EXIT_CANNOT = 73  # the folder can't be written: nothing was launched
EXIT_BROKEN = 70  # a fault in this program

BUSY_SECONDS = 0.1  # between looks at an output that grows
QUIET_SECONDS = 1.0
SWEEP_SECONDS = 0.02  # between rounds over what is left; longer and longer while nothing changes
RECORD_BYTES = 512  # set aside at the start, so that a full disk can't swallow the record of the end
RECORD_PATIENCE = 60.0

SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1})
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def claim(folder: str, record: dict[str, Any]) -> int | None:
    """Make `started` and hold its lock; None when it exists already.

    The file is locked and filled first and then linked into its place, which fails when the name is taken: as
    exclusive as O_EXCL, and whoever sees the name sees it whole and held.
    """
    own = f"{folder}/.started.{os.getpid()}"
    try:
        file = os.open(own, _NEW, 0o600)
    except FileExistsError:
        os.unlink(own)  # may be a second name of somebody's `started`, so it is never opened
        file = os.open(own, _NEW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, json.dumps(record).encode() + b"\n")
        os.link(own, f"{folder}/started")
    except BaseException as error:
        os.close(file)
        if isinstance(error, FileExistsError):
            return None
        raise
    finally:
        os.unlink(own)
    return file


def set_aside(folder: str) -> None:
    """Room for the record of the end."""
    room = os.open(f"{folder}/exit.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(room, b" " * RECORD_BYTES)
    finally:
        os.close(room)


class Log:
    """The agent's output, with its middle given back once it is more than head and tail."""

    def __init__(self, path: str, head: int, tail: int, *, punch: bool) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._head = -(-head // PAGE) * PAGE
        self._tail = tail
        self._punch = punch
        self._punched = self._head
        self._size = -1

    def cap(self) -> bool:
        """Whether the output changed since the last look."""
        size = os.fstat(self.file).st_size
        if size == self._size:
            return False
        self._size = size
        if size < self._punched:  # the agent cut it short
            self._punched = self._head
        end = (size - self._tail) // PAGE * PAGE
        if end > self._punched:
            self._give_back(end)
        return True

    def _give_back(self, end: int) -> None:
        if self._punch:
            try:
                punch_hole(self.file, self._punched, end)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    return  # tried again at the next look
                self._punch = False
            else:
                self._punched = end
                return
        os.ftruncate(self.file, self._head)


class Keeper:
    """The life of one attempt from its claim to ECHILD."""

    def __init__(self, launch: dict[str, Any], folder: str, started: int) -> None:
        self._launch = launch
        self._folder = folder
        self._started = started
        self._program = 0  # the agent, then what verifies its work; 0 when it is over
        self._verify: list[str] = []  # due when nothing of the agent is left
        self._verifying = ""  # the program that does
        self._log: Log | None = None
        self._lines: list[str] = []
        self._record: str | None = None
        self._recorded_by: float | None = None
        self._kill_at: float | None = None  # not None: what runs is being ended
        self._asked = False  # somebody wants the attempt to end
        self._told: set[tuple[int, int]] = set()
        self._round = SWEEP_SECONDS
        self._look_at = 0.0  # when the daemon's orders are to be read, though no signal tells of any
        self._late = False
        deadline = launch["deadline_s"]
        self._deadline = None if deadline is None else monotonic_seconds() + deadline
        set_aside(folder)

    def start_agent(self, stdin: bytes | None) -> None:
        """Start the agent, or record why it can't be."""
        self._start("output.log", self._launch["argv"], self._launch["prefix"], stdin)

    def _start_verify(self) -> None:
        """Nothing of the agent is left: start what verifies its work, with its output in a log of its own."""
        argv, self._verify = self._verify, []
        self._verifying = " ".join(argv[0].split())[:100]
        if self._asked:
            self._ended(f"signal {signal.SIGTERM.value}")
            return
        agents = self._log
        self._kill_at = None
        self._told.clear()
        self._start("verify.log", argv, self._launch["verify_prefix"], None)
        if agents is not None:  # whoever waits for more output looks again
            os.ftruncate(agents.file, os.fstat(agents.file).st_size)
            os.close(agents.file)

    def _start(self, name: str, argv: list[str], prefix: list[str], stdin: bytes | None) -> None:
        path = f"{self._folder}/{name}"
        try:
            log = Log(path, self._launch["head"], self._launch["tail"], punch=self._launch["punch"])
            self._log = log
            if self._verifying:
                title = f"--- verify: {' '.join(' '.join(argv).split())[:400]} ---\n"
                os.write(log.file, self._line_end() + title.encode("utf-8", "surrogateescape"))
            self._program = spawn(self._launch, argv, prefix, stdin, log.file, self._born)
        except OSError as error:
            self._ended(f"spawn {error.errno} {path}: {os.strerror(error.errno or 0)}")
        except NotStarted as error:
            self._ended(f"spawn {error}")

    def _line_end(self) -> bytes:
        """What ends the last line of the agent's output, when it did not."""
        with open(f"{self._folder}/output.log", "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            return b"" if file.read(1) in (b"", b"\n") else b"\n"

    def _born(self, pid: int) -> None:
        seen = parent_and_start(pid)
        os.write(self._started, b'{"agent": [%d, %d]}\n' % (pid, seen[1] if seen else 0))

    def keep(self) -> None:
        """Until no child is left and the end is on record."""
        while True:
            childless = self._reap()
            if childless and self._verify:
                self._start_verify()
                continue
            grew = self._log.cap() if self._log is not None else False
            if self._write_record() and childless:
                return
            now = monotonic_seconds()
            if now >= min(self._look_at, self._overdue_at()):
                self._look_at = now + QUIET_SECONDS
                self._heed_orders(now, told=False)
            pause = BUSY_SECONDS if grew else QUIET_SECONDS
            if self._kill_at is not None:
                pause = min(pause, self._sweep(now, self._kill_at))
            else:
                pause = max(0.0, min(pause, self._overdue_at() - now))
            heard = signal.sigtimedwait(SIGNALS, pause)
            if heard is not None and heard.si_signo == signal.SIGTERM:
                self._heed_orders(monotonic_seconds(), told=True)
            elif heard is not None and heard.si_signo == signal.SIGUSR1:
                self._ask(0.0)

    def _heed_orders(self, now: float, *, told: bool) -> None:
        """What the daemon wrote down, since a signal carries no number: a deadline that moved, a time to kill."""
        orders: dict[str, Any] = {}
        try:
            with open(f"{self._folder}/orders", "rb") as file:
                orders = json.load(file)
        except (OSError, ValueError):
            pass
        if "deadline" in orders:
            self._deadline = orders["deadline"]
        if orders.get("kill_at") is not None:
            self._ask(orders["kill_at"])
        elif told:
            self._ask(now + self._launch["grace_s"])
        if self._kill_at is None and now >= self._overdue_at():
            self._late = True
            self._ask(now + self._launch["grace_s"])

    def _overdue_at(self) -> float:
        return math.inf if self._deadline is None else float(self._deadline + self._launch["overtime_s"])

    def _ask(self, when: float) -> None:
        self._asked = True
        self._end_by(when)

    def _end_by(self, when: float) -> None:
        self._kill_at = when if self._kill_at is None else min(when, self._kill_at)

    def _reap(self) -> bool:
        """Take in every child that ended; True when there is none left."""
        if self._launch["scope"] and self._program and not self._record:
            self._count_oom(self._launch["scope"])
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._program:
                self._program = 0
                code = os.waitstatus_to_exitcode(status)
                self._ended(f"exit {code}" if code >= 0 else f"signal {-code}")

    def _count_oom(self, scope: str) -> None:
        """The cgroup goes with its last process, but is still named by one that nobody has reaped."""
        ended = os.waitid(os.P_PID, self._program, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        kills = 0 if ended is None else oom_kills(self._program, scope)
        if kills:
            self._lines.append(f"oom {kills}")

    def _ended(self, how: str) -> None:
        """What ran is over, and what is left of it is swept; then comes the verification, or the record."""
        now = monotonic_seconds()
        self._end_by(now + self._launch["grace_s"])
        late = " past its deadline, ended by its shim" if self._late and not how.startswith("spawn") else ""
        if self._verifying:
            program = "" if how.startswith("spawn") else f"{late and ' late'} {self._verifying}"
            self._lines.append(f"verify {how}{program}")
        else:
            self._lines.insert(0, how + late)
            well = how == "exit 0" or (how.startswith("exit") and self._launch["verify_any_exit"])
            if well and not self._asked and self._launch["verify"]:
                self._verify = self._launch["verify"]
                return
        self._record = "\n".join(self._lines)
        self._recorded_by = now + RECORD_PATIENCE

    def _write_record(self) -> bool:
        """The end, on disk before its name; False while there is no end, or no room for it yet."""
        if self._record is None:
            return self._recorded_by is not None
        line = self._record.encode()[: RECORD_BYTES - 1] + b"\n"
        try:
            file = os.open(f"{self._folder}/exit.new", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(file, line, 0)
                os.ftruncate(file, len(line))
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(f"{self._folder}/exit.new", f"{self._folder}/exit")
        except OSError:
            return self._recorded_by is not None and monotonic_seconds() >= self._recorded_by
        self._record = None
        return True

    def _sweep(self, now: float, kill_at: float) -> float:
        """One round over all that is left: TERM and CONT to whom they are new, KILL to all when the grace is over."""
        family = set(descendants(os.getpid()))
        for pid, start in family:
            if now >= kill_at:
                signal_verified(pid, start, signal.SIGKILL)
            elif (pid, start) not in self._told:
                signal_verified(pid, start, signal.SIGTERM, signal.SIGCONT)
        self._round = SWEEP_SECONDS if family - self._told else min(self._round * 2, QUIET_SECONDS)
        self._told |= family
        return self._round if now >= kill_at else min(self._round, kill_at - now)


def _told(word: int, frame: bytes | None) -> tuple[dict[str, Any], bytes | None] | None:
    """The launch and its stdin, once the launcher has said that we exist; None when it died before that."""
    heard = b""
    while more := os.read(word, 1 << 16):
        heard += more
    os.close(word)
    if frame is None:
        frame = heard
    if not heard or len(frame) < LAUNCH.size:
        return None
    header, body, _, _ = LAUNCH.unpack_from(frame)
    end = LAUNCH.size + header
    if len(frame) != end + body:
        return None
    launch = marshal.loads(frame[LAUNCH.size : end])  # noqa: S302 - our own daemon wrote it
    return launch, frame[end:] if launch["has_stdin"] else None


def _live(word: int, frame: bytes | None) -> int:
    pid = os.getpid()
    seen = parent_and_start(pid)
    record = {"boot": boot_id(), "pid_namespace": pid_namespace(), "shim": [pid, seen[1] if seen else 0]}
    told = _told(word, frame)
    if told is None:
        return EXIT_CLAIMED
    if frame is None:  # whoever told it to end while it waited meant no attempt; what the daemon orders is in a file
        while signal.sigtimedwait(SIGNALS, 0.0) is not None:
            pass
    launch, stdin = told
    del told, frame
    record["attempt_id"] = launch["attempt_id"]
    folder = launch["folder"]
    try:
        try:
            os.mkdir(f"{folder}/out", 0o700)
        except FileExistsError:
            pass
        started = claim(folder, record)
        if started is None:
            return EXIT_CLAIMED
    except OSError:
        return EXIT_CANNOT
    try:
        keeper = Keeper(launch, folder, started)
    except OSError:
        os.write(started, b'{"never": true}\n')
        return EXIT_CANNOT
    try:
        keeper.start_agent(stdin)
        del stdin
        keeper.keep()
    except BaseException:
        with open(f"{folder}/shim.err", "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        raise
    return 0


def run(word: int, frame: bytes | None) -> NoReturn:
    """The whole life of a shim, in a fork in which SIGNALS are blocked.

    What is ready for any attempt is done first. Then it waits for what comes from the pipe `word` until its end: the
    launch's frame, or, when it has that already, any word at all.
    """
    code = EXIT_BROKEN
    try:
        os.setsid()
        os.dup2(1, 2)  # the launcher's stderr is the daemon's, and may be a pipe that somebody waits to see closed
        limit_files()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_NAME, b"opusd-shim")
        code = _live(word, frame)
    finally:
        os._exit(code)
