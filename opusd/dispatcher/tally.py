"""Counts of what is finished, kept beside the registry so that nobody has to count a million rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.core.job import Change
    from opusd.store.base import Forgotten, Snapshot


class Tally:
    """`finals`: jobs by final status. `attempts` and `succeeded`: ended attempts by agent."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.finals: Counter[str] = Counter(snapshot.finals)
        self.attempts = Counter({agent: ended for agent, (ended, _) in snapshot.attempts.items()})
        self.succeeded = Counter({agent: good for agent, (_, good) in snapshot.attempts.items()})

    def released(self, changes: Iterable[Change]) -> None:
        """These changes are on disk."""
        for change in changes:
            before, after = change.before, change.after
            if before is not None and before.final and before.status is not after.status:
                self.finals[before.status] -= 1
            if after.final and (before is None or before.status is not after.status):
                self.finals[after.status] += 1
            row = change.attempt
            if row is not None and row.ended_at is not None:
                self.attempts[row.agent] += 1
                self.succeeded[row.agent] += row.failure is None

    def forgotten(self, gone: Forgotten) -> None:
        """These are no longer in the registry, and a restart would not find them."""
        self.finals.subtract(gone.finals)
        for agent, (ended, good) in gone.attempts.items():
            self.attempts[agent] -= ended
            self.succeeded[agent] -= good

    def success_rate(self, agent: str) -> float | None:
        ended = self.attempts[agent]
        return None if not ended else self.succeeded[agent] / ended
