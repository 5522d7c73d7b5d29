"""When agents and groups start jobs: outside their hours those wait, and what runs goes on.

Hours need a database of zones, which is outside of the core: configuration gives objects that know them. Who is shut
is noted once until that may change, so that dispatch looks at a table. Humans go first: no hours hold their messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opusd.core.limits import Limits
    from opusd.core.state import State


class Windows:
    """`shut`: `agent:NAME` or `group:NAME` -> when it opens, as far as `refresh` has seen."""

    def __init__(self, limits: Limits) -> None:
        self.relimit(limits)

    def relimit(self, limits: Limits) -> None:
        """Other hours: nobody is known to be shut until they are looked at."""
        self.hours = limits.hours
        self.shut: dict[str, int] = {}
        self._seen: tuple[int, int] | None = None  # from when until when `shut` is true

    def refresh(self, state: State, now: int) -> None:
        """Take note of who is shut at `now`; the jobs of groups that have opened are looked at again."""
        if not self.hours or (self._seen is not None and self._seen[0] <= now < self._seen[1]):
            return
        were, self.shut, until = self.shut, {}, None
        for name, hours in self.hours.items():
            is_open, moment = hours.at(now)
            until = moment if until is None else min(until, moment)
            if not is_open:
                self.shut[name] = moment
        assert until is not None
        self._seen = (now, until)
        for name in were.keys() - self.shut.keys():
            state.wake(name)

    def next_moment(self) -> int | None:
        """When to look again."""
        return None if self._seen is None else self._seen[1]


def opening(state: State, agent: str, now: int) -> int | None:
    """When this agent opens; None when it is within its hours."""
    state.windows.refresh(state, now)
    return state.windows.shut.get(f"agent:{agent}")


def holds(state: State, agent: str) -> bool:
    """Whether this agent is outside its hours: only messages of humans start."""
    shut = state.windows.shut
    return bool(shut) and f"agent:{agent}" in shut
