"""The daemon's side of the launcher: start it, ask it to launch, hear what became of it.

The launcher is executed before the daemon is big and again whenever it died; it gets an end of a socket pair
and nothing else of ours. Never blocks the loop; what can't be sent yet waits in memory. Must not know what
an attempt means.
"""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opusd.agents.shim import LAUNCH

_PROGRAM = Path(__file__).with_name("launcher_main.py")
_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 16
_ANCILLARY_BYTES = socket.CMSG_SPACE(4)

Message = dict[str, Any]


class Launcher:
    """`heard(message, pidfd)` is called for each message, `gone()` when the launcher died; both on the loop.

    A pidfd that is handed over belongs to the callee; it is None when we had no descriptor left for it. After
    `gone` nothing that was sent is answered any more.
    """

    def __init__(self, heard: Callable[[Message, int | None], None], gone: Callable[[], None]) -> None:
        self._heard = heard
        self._gone = gone
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._handles: deque[int] = deque()
        self._unsent: deque[memoryview] = deque()

    @property
    def pid(self) -> int | None:
        """The launcher's process, None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Execute the launcher; OSError when that can't be done. A running one is left alone."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                cwd="/",
                start_new_session=True,  # a ^C at the daemon's terminal is not for the launcher
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive)  # one attempt's answer in a turn

    def send(self, message: Message, body: bytes = b"") -> None:
        """Ask for something; a launcher that died unnoticed answers with `gone`."""
        assert self._socket is not None
        header = marshal.dumps(message)
        lengths = LAUNCH.pack(len(header), len(body), message["job"], message["attempt"])
        waits = bool(self._unsent)
        self._unsent.append(memoryview(lengths + header + body))
        if not waits and not self._write():
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._write_on)

    def pump(self) -> None:
        """Take in all that the launcher has said by now."""
        while self._receive():
            pass

    def _receive(self) -> bool:
        """Take in one message that brings a descriptor, with what stands before it; whether there may be more."""
        if self._socket is None:
            return False
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:
            data, ancillary = b"", []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) // 4
                self._handles.extend(struct.unpack(f"{whole}i", content[: whole * 4]))
        if not data:
            self._forget()
            self._gone()
            return False
        self._received += data
        self._parse()  # at once: the kernel gives one message's descriptors at a time
        return True

    async def close(self) -> None:
        """Let the launcher end; shims live on."""
        process = self._process
        if process is None:
            return
        self._process = None
        self._hang_up()
        await asyncio.get_running_loop().run_in_executor(None, _wait, process)

    def _parse(self) -> None:
        while len(self._received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                return
            message: Message = json.loads(self._received[_LENGTH.size : end])
            del self._received[:end]
            self._heard(message, self._handles.popleft() if "started" in message and self._handles else None)

    def _write_on(self) -> None:
        if self._socket is not None and self._write():
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _write(self) -> bool:
        """Whether nothing is left to be sent."""
        assert self._socket is not None
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent[0])
            except BlockingIOError:
                return False
            except OSError:  # the reader sees the end of it
                self._unsent.clear()
                break
            if sent == len(self._unsent[0]):
                self._unsent.popleft()
            else:
                self._unsent[0] = self._unsent[0][sent:]
        return True

    def _forget(self) -> None:
        process, self._process = self._process, None
        self._hang_up()
        if process is not None:
            process.kill()  # it closed its socket, so it is ending or broken; its shims don't mind
            process.wait()

    def _hang_up(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        while self._handles:
            os.close(self._handles.popleft())
        self._received.clear()
        self._unsent.clear()


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
