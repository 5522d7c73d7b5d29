"""The launcher: forks a shim for each launch that comes over its socket, and reaps it.

Runs as `python -I -S launcher_main.py` with the socket as stdin; standard library only, no module of opusd but
`shim`, `shim_spawn` and `kernel`, single-threaded. It ends when the daemon's end of the socket closes; its shims
live on.

A launch comes in as `shim.LAUNCH` (two lengths, job, attempt), a marshalled dict, and the agent's stdin. Out go JSON
objects, each with its length before it (`!I`): `{ready}`, `{started, start, job, attempt}` with the shim's pidfd,
`{refused, why, machine, job, attempt}` with an errno (`machine`: so would any other be), and `{reaped, status}` of
a shim that did not end well.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import marshal
import os
import select
import signal
import socket
import struct
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from opusd.agents import kernel, shim, shim_spawn
else:  # a package of these few files alone, found beside this one; opusd itself is out of reach
    sys.modules["small"] = types.ModuleType("small")
    sys.modules["small"].__path__ = [os.path.dirname(os.path.abspath(__file__))]
    kernel = importlib.import_module("small.kernel")
    shim = importlib.import_module("small.shim")
    shim_spawn = importlib.import_module("small.shim_spawn")

_LENGTH = struct.Struct("!I")
_REST_SECONDS = 0.003  # from a launch to the making of the next spare
_NO_ROOM_SECONDS = 1.0  # until one is tried again
_DEAF_SECONDS = 2.0  # for a shim to take in what it was told, before it is given up
_HELD_BACK = shim.SIGNALS


class Untold:
    """A shim that waits at its pipe to be told what it is for; when the pipe ends without a word, it ends.

    We hold the reading end too: what it has not taken in yet can be taken back, and then it never learns of it.
    """

    def __init__(self, pid: int, pidfd: int, ear: int, pipe: int) -> None:
        seen = kernel.parent_and_start(pid)
        self.pid = pid
        self.start = seen[1] if seen else 0
        self.pidfd = pidfd
        self._ear = ear
        self._pipe = pipe
        self.holds = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)  # with more than that we would wait for a shim
        self.patience = 0.0  # until when it is to have taken in what it was told

    def tell(self, word: bytes) -> None:
        """Let it begin."""
        os.write(self._pipe, word)
        os.close(self._pipe)
        self.patience = kernel.monotonic_seconds() + _DEAF_SECONDS

    def is_deaf(self) -> bool:
        """Whether it has not taken in yet what it was told."""
        poll = select.poll()
        poll.register(self._ear, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def take_back(self) -> bool:
        """Take back what it was told, all at once: it will find nothing. False: it was faster."""
        return os.read(self._ear, self.holds) != b""  # nobody writes any more, so this waits for nothing

    def kill(self) -> None:
        """It is our child and not reaped, so its pid is its own."""
        os.kill(self.pid, signal.SIGKILL)

    def forget(self) -> None:
        """It has what it was told."""
        os.close(self._ear)

    def dismiss(self) -> None:
        """Let it end without a word."""
        os.close(self._ear)
        os.close(self._pipe)


class Launches:
    """The daemon's requests as they arrive, and the shims that are not reaped yet.

    While nothing is asked for, one more shim waits: a fork and what comes after it are half of the time that it takes
    until an agent runs. It is made a little after a launch, so as not to take the processor from the one that begins.

    One that was stopped is passed over. One that does not take in what it was told is killed once that is taken back:
    then the attempt can't have begun, which the daemon learns from the end of its shim, and puts the job back.
    """

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._buffer = bytearray()
        self._shims: dict[int, int] = {}  # pidfd -> pid
        self._spare: Untold | None = None
        self._spare_at = 0.0
        self._told: dict[int, Untold] = {}  # pid -> what may not have taken in its launch yet, the first told first
        self._poll = select.poll()
        self._poll.register(daemon.fileno(), select.POLLIN)

    def serve(self) -> None:
        """Until the daemon is gone."""
        self._say({"ready": os.getpid()})
        while True:
            for file, _ in self._poll.poll(self._patience()):
                if file in self._shims:
                    self._reap(file)
                elif not self._listen():
                    self._end_spare()
                    return

    def _patience(self) -> float | None:
        """Milliseconds until there is to be a spare, or a shim was deaf for too long; None: neither is to come."""
        now = kernel.monotonic_seconds()
        if self._spare is None and now >= self._spare_at:
            try:
                self._spare = self._fork(None)
            except OSError:
                self._spare_at = now + _NO_ROOM_SECONDS
        self._give_up(now)
        moments = [told.patience for told in self._told.values()]
        if self._spare is None:
            moments.append(self._spare_at)
        return max(0.0, min(moments) - now) * 1000 if moments else None

    def _give_up(self, now: float) -> None:
        """End those that were told too long ago and have taken nothing in; remember no more of those that have."""
        for pid, told in list(self._told.items()):
            deaf = told.is_deaf()
            if deaf and now < told.patience:
                continue
            if deaf and told.take_back():
                told.kill()
            told.forget()
            del self._told[pid]

    def _end_spare(self) -> None:
        if self._spare is not None:
            self._spare.kill()  # it may be stopped, and would not see its pipe end
            os.waitpid(self._spare.pid, 0)

    def _listen(self) -> bool:
        received = self._daemon.recv(1 << 18)
        if not received:
            return False
        self._buffer += received
        while len(self._buffer) >= shim.LAUNCH.size:
            header, body, job, attempt = shim.LAUNCH.unpack_from(self._buffer)
            end = shim.LAUNCH.size + header + body
            if len(self._buffer) < end:
                break
            launch = bytes(self._buffer[:end])
            del self._buffer[:end]
            names = {"job": job, "attempt": attempt}
            folder = marshal.loads(launch[shim.LAUNCH.size :])["folder"]  # noqa: S302 - of our own daemon
            try:
                make_folder(folder)
            except OSError as error:
                why = f"its folder {error.filename} can't be made"
                self._say({"refused": error.errno, "why": why, "machine": not has_parent(folder), **names})
            else:
                self._launch(names, launch)
        return True

    def _launch(self, names: dict[str, int], launch: bytes) -> None:
        """The shim is told after the daemon can know of it: it begins then, or, when we die before that, never."""
        self._pass_over_stopped()
        if self._spare is not None and len(launch) <= self._spare.holds:
            chosen, word = self._spare, launch
            self._spare = None
        else:
            try:
                chosen, word = self._fork(launch), b"begin"
            except OSError as error:
                self._say({"refused": error.errno, "why": "no process for it", "machine": True, **names})
                return
        self._say({"started": chosen.pid, "start": chosen.start, **names}, chosen.pidfd)
        chosen.tell(word)
        self._told[chosen.pid] = chosen
        self._spare_at = kernel.monotonic_seconds() + _REST_SECONDS

    def _pass_over_stopped(self) -> None:
        if self._spare is not None and kernel.is_stopped(self._spare.pid):
            self._spare.kill()
            self._spare.dismiss()
            self._spare = None

    def _fork(self, launch: bytes | None) -> Untold:
        """A shim that has its launch, or is told it later."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # a shim is not to die of what comes before it listens
        opened: list[int] = []
        pid = 0
        try:
            opened += os.pipe()
            pid = os.fork()
            if pid == 0:
                os.closerange(3, opened[0])
                os.closerange(opened[0] + 1, 1 << 16)
                shim.run(opened[0], launch)
            pidfd = os.pidfd_open(pid)
        except OSError:
            while opened:
                os.close(opened.pop())
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        self._poll.register(pidfd, select.POLLIN)
        self._shims[pidfd] = pid
        return Untold(pid, pidfd, *opened)

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid = self._shims.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        if pid in self._told:
            self._told.pop(pid).forget()
        if self._spare is not None and self._spare.pid == pid:  # somebody ended it
            self._spare.dismiss()
            self._spare = None
            self._spare_at = kernel.monotonic_seconds() + _NO_ROOM_SECONDS
            return
        if status:
            self._say({"reaped": pid, "status": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any], handle: int | None = None) -> None:
        header = json.dumps(message).encode()
        frame = _LENGTH.pack(len(header)) + header
        sent = socket.send_fds(self._daemon, [frame], [] if handle is None else [handle])
        if sent < len(frame):
            self._daemon.sendall(frame[sent:])


def make_folder(path: str) -> None:
    """That of an attempt, in that of its job."""
    try:
        _make(path)
    except FileNotFoundError:
        _make(os.path.dirname(path))
        _make(path)  # it may be there: the daemon had orders to leave there meanwhile


def has_parent(path: str) -> bool:
    """Whether what an attempt's folder would be in is there, if only as a file: then no other job is concerned."""
    try:
        os.lstat(os.path.dirname(path))
    except OSError:
        return False
    return True


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def main() -> int:
    daemon = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.chdir("/")
    kernel.boot_id()  # known to all shims, as is
    kernel.pid_namespace()
    shim_spawn.stop_ignoring()
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared with the shims
    gc.disable()
    try:
        Launches(daemon).serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon is gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
