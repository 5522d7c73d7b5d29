"""Threads that are there before they are needed, and get their turn beside the loop.

An executor starts its threads as work comes. Where the machine has no room for another one, that is in the middle of
something: the end of an attempt would find nobody to look at it. These are started at once, so it is the daemon that
does not start, and says why.
"""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

HAND_OVER: Final = 0.0002
"""Seconds after which the loop's thread gives the interpreter's lock to one that waits for it (sys.setswitchinterval).

A commit gives the lock up some eighty times, a read some six. While the loop never rests, for it tells a crowd of
something, each time costs the whole of Python's 5 ms: a commit of 4 ms took 170, and with it who waited for the disk.
"""
_NO_THREAD: Final = "can't start new thread"
_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.ENOMEM})


def started(count: int, name: str) -> ThreadPoolExecutor:
    """An executor of which all threads run. RuntimeError, and none is left, when the machine has no room for them."""
    executor = ThreadPoolExecutor(count, name)
    everyone = threading.Barrier(count + 1)
    try:
        for _ in range(count):  # each waits for the others, so none is free to take the next one's place
            executor.submit(everyone.wait)
        everyone.wait()
    except BaseException:
        everyone.abort()
        executor.shutdown()
        raise
    return executor


def lacks_room(error: BaseException) -> bool:
    """Whether no thread or process could be started for want of room: it says nothing of what it was to do."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return isinstance(error, RuntimeError) and str(error) == _NO_THREAD
