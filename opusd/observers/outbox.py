"""Messages on their way, kept in the registry: none is lost, and one that is sent twice bears the same id.

An entry is written in the same transaction as the cursor up to which events were looked at, and goes when it was
taken. It holds no secret and no address: only the name of its sink. Must not know how anything is sent.
"""

from __future__ import annotations

import heapq
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict, replace

from opusd.core.times import HOUR, MINUTE, SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opusd.core.decision import Decision

DELAYS: Final = (5 * SECOND, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24)))
"""Before the second try and those after it: the schedule that Standard Webhooks recommends."""
JITTER: Final = 0.1
MOST: Final = 10_000
"""Entries of all sinks together; for one more the oldest goes."""
_PREFIX: Final = "outbox:"


class Entry(msgspec.Struct, frozen=True):
    """`id` is the webhook-id of every try; `kind` and `job` are for the log; `due` is microseconds of wall time."""

    id: str
    number: int
    sink: str
    kind: str
    body: str
    due: int
    job: int | None = None
    tries: int = 0


class Outbox:
    """The entries, and what is due of each sink. Changes are made by decisions and undone with them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        kept = [msgspec.convert(value, Entry) for name, value in settings.items() if name.startswith(_PREFIX)]
        self._entries: dict[str, Entry] = {}
        self._due: dict[str, list[tuple[int, int, str]]] = {}  # by sink; stale ones are told by their entry
        self._waiting: dict[str, int] = {}
        self._number = max((entry.number for entry in kept), default=0)
        for entry in sorted(kept, key=_number):
            self._set(entry.id, entry)

    def __len__(self) -> int:
        return len(self._entries)

    def waiting(self, sink: str) -> int:
        """How many entries a sink has."""
        return self._waiting.get(sink, 0)

    def first(self, sink: str) -> Entry | None:
        """The entry of this sink that is due first."""
        line = self._due.get(sink, [])
        while line:
            due, _, name = line[0]
            entry = self._entries.get(name)
            if entry is not None and entry.due == due:
                return entry
            heapq.heappop(line)
        return None

    def add(self, decision: Decision, sink: str, kind: str, body: str, job: int | None = None) -> None:
        """A new message, due at once. An id is random: another registry must not use it again."""
        self._number += 1
        name = "msg_" + secrets.token_hex(16)
        entry = Entry(name, self._number, sink, kind, body, decision.now, job)
        self._put(decision, name, entry)

    def postpone(self, decision: Decision, entry: Entry, chance: float, rest: int = 0) -> Entry | None:
        """A try failed: the entry as it waits now, for `rest` at least; None when that was the last and it is gone.

        One that went meanwhile stays gone.
        """
        if entry.id not in self._entries:
            return entry
        if entry.tries >= len(DELAYS):
            self.remove(decision, entry)
            return None
        delay = max(rest, int(DELAYS[entry.tries] * (1 + JITTER * chance)))
        later = replace(entry, tries=entry.tries + 1, due=decision.now + delay)
        self._put(decision, entry.id, later)
        return later

    def remove(self, decision: Decision, entry: Entry) -> None:
        if entry.id in self._entries:
            self._put(decision, entry.id, None)

    def overflow(self) -> list[Entry]:
        """The oldest, as many as there are too many."""
        return heapq.nsmallest(max(0, len(self) - MOST), self._entries.values(), key=_number)

    def of_others(self, sinks: Iterable[str]) -> list[Entry]:
        """Entries of sinks that are none of these."""
        known = set(sinks)
        return [entry for entry in self._entries.values() if entry.sink not in known]

    def _put(self, decision: Decision, name: str, entry: Entry | None) -> None:
        old = self._entries.get(name)
        self._set(name, entry)
        decision.keep(_PREFIX + name, None if entry is None else asdict(entry), partial(self._set, name, old))

    def _set(self, name: str, entry: Entry | None) -> None:
        old = self._entries.get(name)
        if old is not None:
            self._waiting[old.sink] -= 1
        if entry is None:
            self._entries.pop(name, None)
            return
        self._entries[name] = entry
        self._waiting[entry.sink] = self.waiting(entry.sink) + 1
        heapq.heappush(self._due.setdefault(entry.sink, []), (entry.due, entry.number, name))


def _number(entry: Entry) -> int:
    return entry.number
