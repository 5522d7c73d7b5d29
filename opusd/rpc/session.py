"""One connection as the commands see it: who is asking, the order of its calls, and its subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from opusd.core.access import Caller

if TYPE_CHECKING:
    from opusd.rpc.subscriptions import EventSink


class Session:
    """`caller` was looked at when the connection was made; a token may make it a job's agent later, never more.

    `turn` is held by a command while it decides: it is granted in the order in which the calls came.
    `gone` is true when nobody will read a reply any more.
    """

    def __init__(self, caller: Caller, lower: Callable[[Caller, str], Caller]) -> None:
        self.caller = caller
        self.turn = asyncio.Lock()
        self.sinks: dict[int, EventSink] = {}
        self.gone = False
        self._lower = lower

    def show_token(self, token: str) -> None:
        """The token of `system.hello`: the caller is that attempt's agent from now on."""
        self.caller = self._lower(self.caller, token)
