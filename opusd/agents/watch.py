"""Waking whoever waits for an output to grow: one inotify descriptor for the whole daemon.

Arm first, then read to the end, then wait: nothing that is written in between is missed. A watch fires once;
it is armed again no sooner than 10 ms later, so a chatty agent costs a hundred wake-ups a second at most.
Without inotify sizes are looked at every 250 ms, for as long as somebody waits. Must not know attempts.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from pathlib import Path

_IN_MODIFY = 0x00000002
_IN_IGNORED = 0x00008000
_IN_Q_OVERFLOW = 0x00004000
_IN_ONESHOT = 0x80000000
_EVENT = struct.Struct("iIII")
_LOOK_SECONDS = 0.25
_REST_SECONDS = 0.01

Waiter = asyncio.Future[None]


class OutputWatch:
    """`arm` gives a future that is done when the file may have changed; give it back with `disarm`."""

    def __init__(self, *, inotify: bool = True) -> None:
        self._wanted = inotify
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = -1
        self._armed: dict[int, set[Waiter]] = {}  # by watch
        self._looked_at: dict[Waiter, tuple[Path, int]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._rested: dict[Path, float] = {}

    def open(self) -> None:
        """Get the descriptor; without one, sizes are looked at."""
        if self._wanted:
            self._inotify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify >= 0:
            asyncio.get_running_loop().add_reader(self._inotify, self._fired)

    def rest(self, path: Path) -> float:
        """Seconds to wait before `path` should be armed again."""
        until = self._rested.get(path)
        return 0.0 if until is None else max(0.0, until - asyncio.get_running_loop().time())

    def arm(self, path: Path, size: int) -> Waiter:
        """Watch a file of which `size` bytes are known; one that is not there yet will be soon."""
        loop = asyncio.get_running_loop()
        self._rested[path] = loop.time() + _REST_SECONDS
        waiter: Waiter = loop.create_future()
        watch = -1
        if self._inotify >= 0:
            mask = ctypes.c_uint32(_IN_MODIFY | _IN_ONESHOT)
            watch = self._libc.inotify_add_watch(self._inotify, os.fsencode(path), mask)
        if watch >= 0:
            self._armed.setdefault(watch, set()).add(waiter)
        elif self._inotify >= 0 and ctypes.get_errno() == errno.ENOENT:
            loop.call_later(_REST_SECONDS, _wake, {waiter})
        else:
            self._looked_at[waiter] = (path, size)
            if self._look is None:
                self._look = loop.call_later(_LOOK_SECONDS, self._look_again)
        return waiter

    def disarm(self, waiter: Waiter) -> None:
        """Forget a waiter, done or not."""
        waiter.cancel()
        self._looked_at.pop(waiter, None)
        for watch, waiters in list(self._armed.items()):
            if waiter in waiters:
                waiters.discard(waiter)
                if not waiters:
                    self._libc.inotify_rm_watch(self._inotify, watch)
                    del self._armed[watch]

    def forget(self, path: Path) -> None:
        """No more will be written to this file."""
        self._rested.pop(path, None)

    def close(self) -> None:
        """Give the descriptor back; nobody is woken any more."""
        if self._look is not None:
            self._look.cancel()
        if self._inotify >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1
        self._armed.clear()
        self._looked_at.clear()

    def _fired(self) -> None:
        try:
            data = os.read(self._inotify, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                for known in list(self._armed):
                    _wake(self._armed[known])
            elif mask & _IN_IGNORED:
                _wake(self._armed.pop(watch, set()))
            else:
                _wake(self._armed.get(watch, set()))

    def _look_again(self) -> None:
        for waiter, (path, size) in list(self._looked_at.items()):
            try:
                grown = path.stat().st_size != size
            except OSError:
                grown = True
            if grown:
                del self._looked_at[waiter]
                _wake({waiter})
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(_LOOK_SECONDS, self._look_again) if self._looked_at else None


def _wake(waiters: set[Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
