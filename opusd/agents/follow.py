"""Follows what running attempts print, each through the adapter of its program, and judges when they are over.

Reads behind the pool's back of an attempt's log, from its first byte: an adopted attempt is read anew, and says the
same. Tells what it hears as it hears it; must not know jobs, limits or the registry.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from opusd.agents.adapters.base import Adapter, Observation, Verdict, one_line
from opusd.agents.adapters.failures import ended
from opusd.agents.adapters.lines import Lines
from opusd.agents.attempt import Key
from opusd.agents.spec import Chunk, Exit
from opusd.core.retry import FailureClass

_CHUNK: Final = 256 << 10
_INLINE: Final = 16 << 10
"""Characters that are read on the loop; more is read in a thread."""
_WAIT_SECONDS: Final = 60.0
_REST_SECONDS: Final = 0.01
"""Between two full chunks of a program that prints faster than anybody reads."""

Read = Callable[[int, int, int, int, float], Awaitable[Chunk]]
Heard = Callable[[Key, list[Observation], bool], None]


class Listening(msgspec.Struct, frozen=True):
    """How one attempt is listened to. `sign`: the lines that show that it makes progress; None: any output does."""

    adapter: Adapter
    sign: re.Pattern[str] | None = None


class _Follow:
    def __init__(self, listening: Listening, task: asyncio.Task[None]) -> None:
        self.adapter = listening.adapter
        self.task = task


class Follower:
    """`read(job, attempt, offset, limit, wait_s)` gives output; `heard(key, observations, active)` is told of it.

    `active`: something was printed that shows that the agent is at work. `log(event, **fields)` takes faults of ours.
    """

    def __init__(self, read: Read, heard: Heard, log: Callable[..., None]) -> None:
        self._read = read
        self._heard = heard
        self._log = log
        self._follows: dict[Key, _Follow] = {}

    def follow(self, key: Key, listening: Listening) -> None:
        """Listen to this attempt until it is over; said again, it changes nothing."""
        if key not in self._follows:
            task = asyncio.get_running_loop().create_task(self._listen(key, listening))
            self._follows[key] = _Follow(listening, task)

    def forget(self, key: Key) -> None:
        """It never ran: there is nothing to hear."""
        follow = self._follows.pop(key, None)
        if follow is not None:
            follow.task.cancel()

    def close(self) -> None:
        """Stop listening; what was not judged is judged by the next daemon."""
        for key in list(self._follows):
            self.forget(key)

    async def verdict(self, key: Key, listening: Listening, how: Exit, now: int, tail: str) -> Verdict:
        """The attempt is over: read what is left, then judge its stream and its exit together."""
        self.follow(key, listening)
        follow = self._follows[key]
        try:
            await asyncio.wait([follow.task])
            follow.task.result()
            return follow.adapter.end(how, now, tail)
        except Exception as error:  # noqa: BLE001 - an adapter is fed what a program prints: no stream may lose a job
            self._log("output.unreadable", level="error", job=key[0], attempt=key[1], message=repr(error))
            failure = ended(how)
            words = f"its output can't be read: {one_line(repr(error), 200)}"
            return Verdict(
                failure=FailureClass.AGENT_ERROR if failure is None else failure.failure,
                message=words if failure is None else f"{failure.message}; {words}",
                summary=tail,
            )
        finally:
            self._follows.pop(key, None)

    async def _listen(self, key: Key, listening: Listening) -> None:
        adapter, loop = listening.adapter, asyncio.get_running_loop()
        signs = None if listening.sign is None else _Signs(listening.sign)
        offset = 0
        while True:
            chunk = await self._read(*key, offset, _CHUNK, _WAIT_SECONDS)
            size, offset = chunk.next_offset - chunk.offset, chunk.next_offset
            if chunk.dropped or chunk.truncated:
                adapter.gap()
            if chunk.verify:
                self._heard(key, [], True)  # a sign of life, but nothing that the agent says
            elif chunk.data:
                if len(chunk.data) <= _INLINE:
                    seen = adapter.feed(chunk.data)
                else:
                    seen = await loop.run_in_executor(None, adapter.feed, chunk.data)
                active = True if signs is None else signs.feed(chunk.data)
                self._heard(key, seen, active)
            if chunk.eof:
                return
            if size > _CHUNK // 2:
                pause = loop.create_future()
                await asyncio.wait((pause,), timeout=_REST_SECONDS)


class _Signs:
    """Whether one of the lines that have come to their end shows progress; a bar that is drawn anew is a line, too."""

    def __init__(self, sign: re.Pattern[str]) -> None:
        self._sign = sign
        self._lines = Lines()

    def feed(self, text: str) -> bool:
        lines = list(self._lines.feed(text.replace("\r", "\n")))
        return any(self._sign.search(line.text) is not None for line in lines)
