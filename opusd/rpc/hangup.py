"""Whether a client is gone altogether, or only shut down its writing side: read() tells no difference, poll() does.

Must not know what follows from it.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def is_gone(fd: int) -> bool:
    """Looked up without a descriptor of its own: most are gone, thousands of them at once."""
    now = select.poll()
    now.register(fd, 0)  # hang-ups are reported even when nothing is asked for
    return bool(now.poll(0))


class Watch:
    """Calls `gone` when the client at `fd` is gone, until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, gone: Callable[[], object]) -> None:
        self._loop = loop
        self._ends = select.epoll()
        self._ends.register(fd, 0)
        loop.add_reader(self._ends.fileno(), gone)

    def close(self) -> None:
        self._loop.remove_reader(self._ends.fileno())
        self._ends.close()
