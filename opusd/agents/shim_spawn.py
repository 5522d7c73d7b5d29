"""How the shim starts a program: forked, in a session of its own, with nothing of ours but what it is to have.

Standard library only: it runs in a fork of the launcher (`python -I -S`). Must not know what becomes of the program.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal

from .kernel import PR_SET_PDEATHSIG, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

DEFAULT_NOFILE = 1024  # the soft limit that programs expect; the daemon's own may be higher
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_OOM_SCORE = "/proc/self/oom_score_adj"


def spared() -> bool:
    """Whether the kernel is told to end us sooner or later than others when memory is short."""
    try:
        with open(_OOM_SCORE, "rb", buffering=0) as file:
            return file.read(16) != b"0\n"
    except OSError:
        return False


_SPARED = spared()
"""As it is of the launcher, which looks once for all."""


def stop_ignoring() -> None:
    """What Python ignores, and what the launcher was started with, is held back instead: nobody after it ignores it."""
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)


def limit_files() -> None:
    """The soft limit on open files that programs expect: the shim's own, and so that of whatever it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DEFAULT_NOFILE if hard == resource.RLIM_INFINITY else min(DEFAULT_NOFILE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class NotStarted(Exception):
    """`ERRNO WHERE: WHY`, as the record of the end has it."""


def spawn(
    launch: dict[str, Any],
    argv: list[str],
    prefix: list[str],
    stdin: bytes | None,
    output: int,
    born: Callable[[int], None],
) -> int:
    """The pid of a program that runs in the launch's workdir and environment; NotStarted when it can't.

    `born` is told of the process while it is not yet the program. `output` stays ours.
    """
    where = launch["workdir"]
    try:
        workdir = os.open(_bytes(where), os.O_PATH | os.O_DIRECTORY)
        where = "stdin"
        feed = _feed(stdin)
        told, tell = os.pipe()
        where = argv[0]
        environment = {_bytes(name): _bytes(value) for name, value in launch["env"].items()}
        whole = [_bytes(element) for element in prefix + argv]
        if prefix:  # it would end with a code of its own where exec says ENOENT
            _must_be_there(_places(_bytes(where), environment, workdir), workdir)
        places = _places(whole[0], environment, workdir)
        where = "fork"
        keeper = os.getpid()
        pid = os.fork()
    except OSError as error:
        raise NotStarted(f"{error.errno} {where}: {os.strerror(error.errno or 0)}") from None
    if pid == 0:
        _become(launch, argv[0], (places, whole, environment), (feed, output, workdir, tell), keeper)
    for file in (tell, feed, workdir):
        os.close(file)
    born(pid)
    failure = os.read(told, 4096)  # empty once the exec has closed the other end
    os.close(told)
    if failure:
        os.waitpid(pid, 0)
        raise NotStarted(failure.decode("utf-8", "replace"))
    return pid


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


def _become(
    launch: dict[str, Any],
    name: str,
    program: tuple[list[bytes], list[bytes], dict[bytes, bytes]],
    files: tuple[int, int, int, int],
    keeper: int,
) -> NoReturn:
    """In the fork of the shim: turn into the agent, or tell the shim `ERRNO WHAT` and end.

    What can be done before the fork is done there: here each object that is looked at is a page to copy.
    """
    where = ""
    stdin, output, workdir, tell = files
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the agent never outlives its keeper
        if os.getppid() != keeper:  # which died before that
            os._exit(127)
        os.setsid()
        where = launch["workdir"]
        os.fchdir(workdir)
        for number, file in enumerate((stdin, output, output)):
            os.dup2(file, number)
        where = name
        _reset(launch)
        _execute(*program)
    except OSError as error:
        os.write(tell, f"{error.errno} {where}: {os.strerror(error.errno or 0)}".encode("utf-8", "replace")[:400])
    except BaseException as error:  # noqa: BLE001 - the top of a process
        os.write(tell, f"{errno.EINVAL} {where}: {error}".encode("utf-8", "replace")[:400])
    finally:
        os._exit(127)


def _reset(launch: dict[str, Any]) -> None:
    """What the daemon, the launcher and Python changed for themselves is no agent's business."""
    if launch["data_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (launch["data_limit"], launch["data_limit"]))
    if _SPARED:
        try:
            with open(_OOM_SCORE, "wb", buffering=0) as file:
                file.write(b"0")
        except OSError:
            pass  # it may not be lowered below what our parents were given
    if launch["nice"] is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, launch["nice"])
        except OSError:
            pass
    if launch["umask"] is not None:
        os.umask(launch["umask"])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _places(program: bytes, environment: dict[bytes, bytes], workdir: int) -> list[bytes]:
    """Where a program is, as execvp looks for it; all places where it might be when it is nowhere."""
    if b"/" in program:
        return [program]
    path = environment.get(b"PATH", b"/bin:/usr/bin").split(b":")
    places = [folder + b"/" + program if folder else program for folder in path]
    return [place for place in places if os.access(place, os.F_OK, dir_fd=workdir)] or places


def _execute(places: list[bytes], argv: list[bytes], environment: dict[bytes, bytes]) -> None:
    """Turn into the first that can be executed; the error of the first that is there and can't."""
    failed: OSError | None = None
    for place in places:
        try:
            os.execve(place, argv, environment)  # noqa: S606 - that no shell is there is the point
        except OSError as error:
            if failed is None or failed.errno in _NOT_THERE:
                failed = error
    if failed is not None:
        raise failed


def _must_be_there(places: list[bytes], workdir: int) -> None:
    if not any(os.access(place, os.X_OK, dir_fd=workdir) for place in places):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
