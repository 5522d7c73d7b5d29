"""Lets those of a crowd through that do the same at the same moment: so many in one turn of the loop.

A thousand clients that call something that changes things, or that read again, would else be served in one go, and
whoever only looks at something would wait for all of them. The others follow in the next turns, in the order in which
they came. What is done is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turnstile:
    """Lets `most` through in one turn, of those that weigh 1."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._line: deque[tuple[Callable[[], None], int]] = deque()
        self._turns = False

    def enter(self, begin: Callable[[], None], weight: int) -> None:
        """`begin` is called now when there is room in this turn, else in a later one; what is heavy ends its turn."""
        if self._left > 0 and not self._line:
            self._left -= weight
            begin()
        else:
            self._line.append((begin, weight))
        if not self._turns:
            self._turns = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._left = self._most
        while self._line and self._left > 0:
            begin, weight = self._line.popleft()
            self._left -= weight
            begin()
        self._turns = self._left < self._most
        if self._turns:
            asyncio.get_running_loop().call_soon(self._turn)
