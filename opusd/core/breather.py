"""A pause for all launches, after one that failed for something that says nothing of its job: a full disk, no process.

Whatever was refused for it is put back at no cost. The pause is a second, and twice as long each time that it did not
help, to half a minute. Memory alone keeps it: a restart tries at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from opusd.core.times import SECOND

if TYPE_CHECKING:
    from opusd.core.state import State

FIRST: Final = SECOND
LONGEST: Final = 30 * SECOND
_SAME: Final = 10 * SECOND
"""What fails so soon after a pause does so for what the pause was for."""
_TOLD: Final = SECOND
"""An attempt that was launched and can't begin says so sooner than this: that its shim lives is no sign yet."""


class Breather(msgspec.Struct, frozen=True):
    """`why` in words, with what the machine said."""

    until: int
    length: int
    why: str


def take(state: State, now: int, why: str) -> None:
    """Nothing is launched for a while. The rest of a crowd that failed in the same moment makes it no longer."""
    last, length = state.breather, FIRST
    if last is not None and now < last.until:
        return
    if last is not None and _lasts(state, last, now):
        length = min(2 * last.length, LONGEST)
    state.breather = Breather(now + length, length, why)


def ran(state: State, started_at: int) -> None:
    """An attempt that was launched then did begin, and is over: after such a one the next pause is short."""
    if state.breather is not None and started_at >= state.breather.until:
        state.breather = None


def _lasts(state: State, last: Breather, now: int) -> bool:
    """Whether what the pause was for may last: it is not long ago, and nothing that was launched since runs."""
    return now < last.until + _SAME and not any(
        job.run.worker is None and last.until <= job.run.started_at <= now - _TOLD
        for job in state.running.values()
        if job.run is not None
    )


def until(state: State, now: int) -> int | None:
    """When the next launch may be, where that is not now."""
    return state.breather.until if state.breather is not None and now < state.breather.until else None


def trouble(state: State, now: int) -> list[str]:
    """Why nothing could be launched, for as long as it is not known to be over."""
    last = state.breather
    return [words(last)] if last is not None and _lasts(state, last, now) else []


def words(breather: Breather) -> str:
    return f"nothing can be started now: {breather.why}"
