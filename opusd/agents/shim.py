"""The keeper of one attempt: a small process of its own that outlives the daemon and the launcher.

It claims the attempt, starts the agent, caps its output, records how it ended, and ends only when no
process of the attempt is left. Its end is the attempt's end. Standard library and `kernel` only: it runs in a
fork of the launcher (`python -I -S`), where opusd can't be imported. TERM ends all, USR1 kills all. In the folder
`runs/JOB/ATTEMPT` it writes `started`, `output.log` and `exit`, and reads `orders`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import resource
import signal
import traceback

from .kernel import (
    PAGE,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    PR_SET_PDEATHSIG,
    boot_id,
    descendants,
    monotonic_seconds,
    parent_and_start,
    pid_namespace,
    prctl,
    punch_hole,
    signal_verified,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

EXIT_CLAIMED = 75  # somebody else has claimed the attempt: nothing was launched
EXIT_CANNOT = 73  # the folder can't be written: nothing was launched
EXIT_BROKEN = 70  # a fault in this program

BUSY_SECONDS = 0.1  # between looks at an output that grows
QUIET_SECONDS = 1.0
SWEEP_SECONDS = 0.02  # between rounds over what is left; longer and longer while nothing changes
RECORD_BYTES = 512  # set aside at the start, so that a full disk can't swallow the record of the end
RECORD_PATIENCE = 60.0
DEFAULT_NOFILE = 1024  # the soft limit that programs expect; the daemon's own may be higher

_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1})


def claim(folder: str, record: dict[str, Any]) -> int | None:
    """Make `started` and hold its lock; None when it exists already.

    The file is locked and filled first and then linked into its place, which fails when the name is taken: as
    exclusive as O_EXCL, and whoever sees the name sees it whole and held.
    """
    own = f"{folder}/.started.{os.getpid()}"
    try:
        os.unlink(own)  # may be a second name of somebody's `started`, so it is never opened
    except FileNotFoundError:
        pass
    file = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
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
        self._agent = 0
        self._log: Log | None = None
        self._record: str | None = None
        self._recorded_by: float | None = None
        self._kill_at: float | None = None  # not None: the attempt is being ended
        self._told: set[tuple[int, int]] = set()
        self._round = SWEEP_SECONDS
        self._look_at = 0.0
        self._late = False
        deadline = launch["deadline_s"]
        self._deadline = None if deadline is None else monotonic_seconds() + deadline
        with open(f"{folder}/exit.new", "wb") as file:
            file.write(b" " * RECORD_BYTES)

    def spawn(self, stdin: bytes | None) -> None:
        """Start the agent in a session of its own, or record why it can't be."""
        where = "output.log"
        try:
            log = Log(
                f"{self._folder}/output.log", self._launch["head"], self._launch["tail"], punch=self._launch["punch"]
            )
            self._log = log
            where = self._launch["workdir"]
            workdir = os.open(_bytes(where), os.O_PATH | os.O_DIRECTORY)
            where = "stdin"
            feed = _feed(stdin)
            told, tell = os.pipe()
            where = "fork"
            keeper = os.getpid()
            agent = os.fork()
        except OSError as error:
            self._ended(f"spawn {error.errno} {where}: {os.strerror(error.errno or 0)}")
            return
        if agent == 0:
            _become(self._launch, (feed, log.file, workdir), tell, keeper)
        os.close(tell)
        os.close(feed)
        os.close(workdir)
        seen = parent_and_start(agent)
        os.write(self._started, json.dumps({"agent": [agent, seen[1] if seen else 0]}).encode() + b"\n")
        failure = os.read(told, 4096)  # empty once the exec has closed the other end
        os.close(told)
        if failure:
            os.waitpid(agent, 0)
            self._ended("spawn " + failure.decode("utf-8", "replace"))
        else:
            self._agent = agent

    def keep(self) -> None:
        """Until no child is left and the end is on record."""
        while True:
            childless = self._reap()
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
            heard = signal.sigtimedwait(_SIGNALS, pause)
            if heard is not None and heard.si_signo == signal.SIGTERM:
                self._heed_orders(monotonic_seconds(), told=True)
            elif heard is not None and heard.si_signo == signal.SIGUSR1:
                self._end_by(0.0)

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
            self._end_by(orders["kill_at"])
        elif told:
            self._end_by(now + self._launch["grace_s"])
        if self._kill_at is None and now >= self._overdue_at():
            self._late = True
            self._end_by(now + self._launch["grace_s"])

    def _overdue_at(self) -> float:
        return math.inf if self._deadline is None else float(self._deadline + self._launch["overtime_s"])

    def _end_by(self, when: float) -> None:
        self._kill_at = when if self._kill_at is None else min(when, self._kill_at)

    def _reap(self) -> bool:
        """Take in every child that ended; True when there is none left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._agent:
                self._agent = 0
                code = os.waitstatus_to_exitcode(status)
                why = " past its deadline, ended by its shim" if self._late else ""
                self._ended(f"exit {code}{why}" if code >= 0 else f"signal {-code}{why}")

    def _ended(self, record: str) -> None:
        self._record = record
        now = monotonic_seconds()
        self._recorded_by = now + RECORD_PATIENCE
        self._end_by(now + self._launch["grace_s"])

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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _feed(stdin: bytes | None) -> int:
    """What the agent reads: a file in memory, so that nobody waits for one that never reads."""
    if stdin is None:
        return os.open("/dev/null", os.O_RDONLY)
    file = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(stdin)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


def _become(launch: dict[str, Any], files: tuple[int, int, int], tell: int, keeper: int) -> NoReturn:
    """In the fork of the shim: turn into the agent, or tell the shim `ERRNO WHAT` and end."""
    where = ""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the agent never outlives its keeper
        if os.getppid() != keeper:  # which died before that
            os._exit(127)
        os.setsid()
        stdin, output, workdir = files
        where = launch["workdir"]
        os.fchdir(workdir)
        for number, file in enumerate((stdin, output, output)):
            os.dup2(file, number)
        where = launch["argv"][0]
        _reset(launch)
        environment = {_bytes(name): _bytes(value) for name, value in launch["env"].items()}
        argv = [_bytes(element) for element in launch["argv"]]
        if launch["prefix"]:
            _must_be_there(argv[0], environment)
        prefix = [_bytes(element) for element in launch["prefix"]]
        os.execvpe((prefix + argv)[0], prefix + argv, environment)  # noqa: S606 - that no shell is there is the point
    except OSError as error:
        os.write(tell, f"{error.errno} {where}: {os.strerror(error.errno or 0)}".encode("utf-8", "replace")[:400])
    except BaseException as error:  # noqa: BLE001 - the top of a process
        os.write(tell, f"{errno.EINVAL} {where}: {error}".encode("utf-8", "replace")[:400])
    finally:
        os._exit(127)


def _reset(launch: dict[str, Any]) -> None:
    """What the daemon, the launcher and Python changed for themselves is no agent's business."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DEFAULT_NOFILE if hard == resource.RLIM_INFINITY else min(DEFAULT_NOFILE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if launch["data_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (launch["data_limit"], launch["data_limit"]))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass  # it may not be lowered below what our parents were given
    if launch["nice"] is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, launch["nice"])
        except OSError:
            pass
    if launch["umask"] is not None:
        os.umask(launch["umask"])
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                pass
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _must_be_there(program: bytes, environment: dict[bytes, bytes]) -> None:
    """A program before the agent's would end with a code of its own where exec says ENOENT."""
    if b"/" in program:
        places = [program]
    else:
        places = [os.path.join(place, program) for place in environment.get(b"PATH", b"/bin:/usr/bin").split(b":")]
    if not any(os.access(place, os.X_OK) for place in places):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _live(launch: dict[str, Any], stdin: bytes | None, go: int) -> int:
    if os.read(go, 1) != b"g":  # the launcher died before it could say that we exist
        return EXIT_CLAIMED
    os.close(go)
    folder = launch["folder"]
    seen = parent_and_start(os.getpid())
    record = {
        "attempt_id": launch["attempt_id"],
        "boot": boot_id(),
        "pid_namespace": pid_namespace(),
        "shim": [os.getpid(), seen[1] if seen else 0],
    }
    try:
        os.makedirs(f"{folder}/out", 0o700, exist_ok=True)
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
        keeper.spawn(stdin)
        del stdin
        keeper.keep()
    except BaseException:
        with open(f"{folder}/shim.err", "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        raise
    return 0


def run(launch: dict[str, Any], stdin: bytes | None, go: int) -> NoReturn:
    """The whole life of a shim, in a fork whose signals TERM and USR1 are blocked; `go` says when it may begin."""
    code = EXIT_BROKEN
    try:
        os.setsid()
        os.dup2(1, 2)  # the launcher's stderr is the daemon's, and may be a pipe that somebody waits to see closed
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_NAME, b"opusd-shim")
        code = _live(launch, stdin, go)
    finally:
        os._exit(code)
