"""A notification's program: run with the message on its stdin, and ended when it takes too long.

It is the daemon's own child, unlike an attempt: it takes seconds, its end is all that is wanted, and one that a dying
daemon leaves behind does no harm, for the message is sent again. It is started by vfork and exec (subprocess takes
that way when nothing is to be done in between), so none of the daemon's memory is copied, whatever its size, none of
its descriptors goes along, and the loop stops for less than a millisecond (0.2 ms, at 1 GiB too).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Final

_PASSED: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "XDG_*", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY",
    "WAYLAND_DISPLAY", "XAUTHORITY",
)  # fmt: skip
"""What a program needs to reach a person's desktop, and none of the secrets that agents are given."""
_MOST_OUTPUT: Final = 2000
_READ: Final = 1 << 16
_DYING_SECONDS: Final = 2.0


async def run_program(argv: list[str], stdin: bytes, environ: Mapping[str, str], seconds: float) -> tuple[str, str]:
    """What went wrong, or nothing; and the first of what it printed. Its group ends when its time does, or with us."""
    env = {name: value for name, value in environ.items() if any(fnmatchcase(name, glob) for glob in _PASSED)}
    hear, say = os.pipe()
    ear = _Ear(hear)
    try:
        feed = _in_memory(stdin)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - see above; asyncio's own forks
                argv, stdin=feed, stdout=say, stderr=say, env=env, cwd=env.get("HOME") or "/", start_new_session=True
            )
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            return f"the program can't be started: {reason}", ""
        finally:
            os.close(feed)
        problem = await _ended(process, seconds)
        return problem, ear.heard()
    finally:
        os.close(say)
        ear.close()


async def _ended(process: subprocess.Popen[bytes], seconds: float) -> str:
    """How the program ended, when that was not well."""
    handle = os.pidfd_open(process.pid)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, over.set)
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        _kill(process)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DYING_SECONDS):
                await over.wait()
        return f"the program did not end within {seconds:g} s and was killed"
    finally:
        loop.remove_reader(handle)
        os.close(handle)
        if not over.is_set():
            _kill(process)
        with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: whoever starts the next reaps it
            process.wait(_DYING_SECONDS)
    code = process.returncode
    return "" if code == 0 else f"the program was ended by signal {-code}" if code < 0 else f"exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """All of its group. It is not reaped yet, so the number is still its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class _Ear:
    """Takes all that is printed, so that nobody waits for a reader, and keeps the first of it."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._kept = bytearray()
        os.set_blocking(file, False)
        asyncio.get_running_loop().add_reader(file, self._hear)

    def _hear(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self._file, _READ)
        except BlockingIOError:
            return False
        self._kept += data[: _MOST_OUTPUT - len(self._kept)]
        return bool(data)

    def heard(self) -> str:
        """All that is there by now, as far as it is kept."""
        while len(self._kept) < _MOST_OUTPUT and self._hear():
            pass
        return self._kept.decode("utf-8", "replace").strip()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)


def _in_memory(data: bytes) -> int:
    """A file in memory: nobody waits for a program that does not read."""
    file = os.memfd_create("message", os.MFD_CLOEXEC)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file
