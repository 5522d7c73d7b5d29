"""The launcher: forks a shim for each launch that comes over its socket, and reaps it.

Runs as `python -I -S launcher_main.py` with the socket as stdin; standard library only, no module of opusd but
`shim`, `shim_spawn` and `kernel`, single-threaded. It ends when the daemon's end of the socket closes; its shims
live on.

Frames, both ways: two lengths (`!II`), a JSON object, raw bytes. Launches come in with the agent's stdin as
bytes. Out go `{ready}`, `{started, start, job, attempt}` with the shim's pidfd, `{refused, ...}` with an errno,
and `{reaped, status}`.
"""

from __future__ import annotations

import gc
import importlib
import json
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

    from opusd.agents import kernel, shim
else:  # a package of these few files alone, found beside this one; opusd itself is out of reach
    sys.modules["small"] = types.ModuleType("small")
    sys.modules["small"].__path__ = [os.path.dirname(os.path.abspath(__file__))]
    kernel = importlib.import_module("small.kernel")
    shim = importlib.import_module("small.shim")

_LENGTHS = struct.Struct("!II")
_HELD_BACK = (signal.SIGTERM, signal.SIGUSR1)


class Launches:
    """The daemon's requests as they arrive, and the shims that are not reaped yet."""

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._buffer = bytearray()
        self._shims: dict[int, int] = {}  # pidfd -> pid
        self._poll = select.poll()
        self._poll.register(daemon.fileno(), select.POLLIN)

    def serve(self) -> None:
        """Until the daemon is gone."""
        self._say({"ready": os.getpid()})
        while True:
            for file, _ in self._poll.poll():
                if file in self._shims:
                    self._reap(file)
                elif not self._listen():
                    return

    def _listen(self) -> bool:
        received = self._daemon.recv(1 << 18)
        if not received:
            return False
        self._buffer += received
        while len(self._buffer) >= _LENGTHS.size:
            header, body = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + header + body
            if len(self._buffer) < end:
                break
            launch = json.loads(self._buffer[_LENGTHS.size : _LENGTHS.size + header])
            stdin = bytes(self._buffer[_LENGTHS.size + header : end]) if launch["has_stdin"] else None
            del self._buffer[:end]
            self._fork(launch, stdin)
        return True

    def _fork(self, launch: dict[str, Any], stdin: bytes | None) -> None:
        """A shim that waits for `go`: it begins after the daemon can know of it, or, when we die here, never."""
        names = {"job": launch["job"], "attempt": launch["attempt"]}
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # a shim is not to die of what comes before it listens
        opened: list[int] = []
        pid = 0
        try:
            opened += os.pipe()
            pid = os.fork()
            if pid == 0:
                os.closerange(3, opened[0])
                os.closerange(opened[0] + 1, 1 << 16)
                shim.run(launch, stdin, opened[0])
            handle = os.pidfd_open(pid)
        except OSError as error:
            while opened:
                os.close(opened.pop())
            if pid:
                os.waitpid(pid, 0)  # it ends, for it was never told to go
            self._say({"refused": error.errno, **names})
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        seen = kernel.parent_and_start(pid)
        self._say({"started": pid, "start": seen[1] if seen else 0, **names}, handle)
        self._shims[handle] = pid
        self._poll.register(handle, select.POLLIN)
        try:
            os.write(opened[1], b"g")
        except BrokenPipeError:
            pass  # somebody ended the shim already
        finally:
            while opened:
                os.close(opened.pop())

    def _reap(self, handle: int) -> None:
        self._poll.unregister(handle)
        pid = self._shims.pop(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)
        self._say({"reaped": pid, "status": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any], handle: int | None = None) -> None:
        header = json.dumps(message).encode()
        frame = _LENGTHS.pack(len(header), 0) + header
        sent = socket.send_fds(self._daemon, [frame], [] if handle is None else [handle])
        if sent < len(frame):
            self._daemon.sendall(frame[sent:])


def main() -> int:
    daemon = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.chdir("/")
    kernel.boot_id()  # known to all shims
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
