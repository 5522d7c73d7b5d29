"""Tells people: turns events into messages, and brings each message to its sink, again until it is taken.

The audit trail is the source. What is told of is written with the cursor up to which events were looked at, in one
transaction, so a daemon that dies goes on where it stopped. One message of a sink is under way at a time and no sink
waits for another; the daemon waits for none. Must not know what a message says or how it is sent.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
from msgspec.structs import asdict, replace

from opusd.api.results import NotificationInfo, NotificationTested
from opusd.core.errors import NotFound, OpusError
from opusd.core.times import from_rfc3339, to_rfc3339
from opusd.observers import messages
from opusd.observers.outbox import Entry, Outbox
from opusd.observers.sending import Sent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from opusd.clock import Clock
    from opusd.config.notifications import Sink
    from opusd.core.decision import Decision
    from opusd.core.job import Event
    from opusd.store.base import Record, Store

T = TypeVar("T")
_KEPT: Final = "notified"
_PAGE: Final = 200
_LAG: Final = 10_000
"""So many events that nobody is told of, and the cursor is written down without need: a restart reads no more."""
_LONGEST_SLEEP: Final = 30.0
_AGAIN: Final = 1.0


class Writer(Protocol):
    """The one that decides and commits."""

    def fact(self, decide: Callable[[Decision], T], actor: str = "scheduler") -> asyncio.Future[T]: ...


class Notified(msgspec.Struct, frozen=True):
    """How far events were looked at. `on`: the words of each sink then; a word that is new holds from now on.

    `drained`: up to where all that left the queue was told of; `owed`: something left it since. `cooling`: agents that
    people know to be limited, until when.
    """

    cursor: int
    on: dict[str, list[str]] = {}
    drained: int = 0
    owed: bool = False
    cooling: dict[str, int] = {}


class Health(msgspec.Struct):
    """Of a sink, since the daemon began or the configuration was read again."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    gone: bool = False
    problem: str = ""  # of the last try; empty when that went well
    rests_until: float = 0.0  # monotonic


class Notifier:
    """`send(sink, entry)` is one try. `settings` and `cursor` are the registry's at the start."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        clock: Clock,
        *,
        send: Callable[[Sink, Entry], Awaitable[Sent]],
        log: Callable[..., None],
        settings: Mapping[str, Any],
        cursor: int,
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._send = send
        self._log = log
        self._outbox = Outbox(settings)
        kept = settings.get(_KEPT)
        self._notified = Notified(cursor) if kept is None else msgspec.convert(kept, Notified)
        self._written = None if kept is None else self._notified.cursor
        self._born = self._latest = cursor
        self._sinks: dict[str, Sink] = {}
        self._kinds: frozenset[str] = frozenset()
        self._health: dict[str, Health] = {}
        self._busy: set[str] = set()
        self._news = True
        self._wake = asyncio.Event()

    def configure(self, sinks: Sequence[Sink]) -> None:
        """The configuration, read or read again: sinks that were given up are tried again."""
        if not self._sinks and self._written is None:
            self._notified = Notified(self._latest)  # nobody was to be told of what was before
        self._sinks = {sink.name: sink for sink in sinks}
        self._kinds = messages.kinds_of(tuple(sinks))
        self._health = {sink.name: Health() for sink in sinks}
        self._look()

    def released(self, events: Sequence[Event]) -> None:
        """These are on disk."""
        if events:
            self._latest = events[-1].cursor
            lag = self._latest - self._notified.cursor > _LAG
            if self._sinks and (lag or any(messages.matters(event, self._kinds) for event in events)):
                self._look()

    def trouble(self) -> list[str]:
        """What a person should know of: for each sink that does not take what it is sent."""
        found = []
        for name, health in self._health.items():
            if health.problem:
                waiting = self._outbox.waiting(name)
                end = "given up until a reload" if health.gone else f"{waiting} wait, {health.dropped} were given up"
                found.append(f"notification {name}: {health.problem}; {end}")
        return found

    def about(self) -> list[NotificationInfo]:
        """Each sink, and how it is doing."""
        return [
            NotificationInfo(
                name=sink.name,
                to="command" if sink.url is None else "webhook",
                on=sorted(sink.on),
                waiting=self._outbox.waiting(sink.name),
                sent=health.sent,
                failed=health.failed,
                dropped=health.dropped,
                gone=health.gone,
                problem=health.problem or None,
            )
            for sink, health in ((sink, self._health[sink.name]) for sink in self._sinks.values())
        ]

    async def test(self, name: str) -> NotificationTested:
        """Send a message that says it is a test, now and once; NotFound for a sink that there is not."""
        sink = self._sinks.get(name)
        if sink is None:
            known = ", ".join(self._sinks) or "none"
            raise NotFound(f"there is no notification {name!r}; there are: {known}", path="$.name")
        now = self._clock.now()
        trial = Entry(f"msg_test_{now}", 0, name, messages.TEST, messages.trial(now, name), now)
        sent = await self._tried(sink, trial)
        return NotificationTested(ok=sent.ok, problem=sent.message or None)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                pause = _LONGEST_SLEEP
                if self._news:
                    self._news = False
                    try:
                        await self._turn()
                    except OpusError as error:  # the registry can't be read; it has time
                        self._log("notification.postponed", level="warning", message=error.message)
                        self._news = True
                        pause = _AGAIN
                for sink in self._sinks.values():
                    entry, seconds = self._due(sink)
                    if entry is not None:
                        self._busy.add(sink.name)
                        group.create_task(self._deliver(sink, entry))
                    pause = min(pause, seconds)
                await self._clock.wait(self._wake, pause)

    def _look(self) -> None:
        self._news = True
        self._wake.set()

    # --- from events to messages --------------------------------------------------------------------

    async def _turn(self) -> None:
        """Look at the events since the cursor, page by page."""
        full = True
        while full:
            through = self._latest  # all up to here is on disk, and so in what is read next
            page: list[Event] = []
            if self._kinds:
                page = await self._store.events(self._notified.cursor, _PAGE, kinds=sorted(self._kinds))
            full = len(page) == _PAGE
            if page:
                through = page[-1].cursor if full else max(through, page[-1].cursor)
            page = [event for event in page if messages.matters(event, self._kinds)]
            jobs = sorted({event.job for event in page if event.job is not None})
            records = {record.job.id: record for record in await self._store.records(jobs)} if jobs else {}
            await self._writer.fact(partial(self._decide, page, records, through, full), "notifications")

    def _decide(
        self, page: list[Event], records: dict[int, Record], through: int, full: bool, decision: Decision
    ) -> None:
        notified = self._notified
        owed, cooling = notified.owed, dict(notified.cooling)
        for event in page:
            known = _known(event, cooling)
            owed = owed or (messages.leaves(event) and event.cursor > notified.drained)
            record = None if event.job is None else records.get(event.job)
            for sink in () if known else self._sinks.values():
                word = messages.word_of(sink, event, record)
                if word is not None and self._holds(sink, word, event.cursor):
                    body = messages.body_of(sink, event, record)
                    self._outbox.add(decision, sink.name, messages.type_of(event), body, event.job)
        drained = notified.drained
        if owed and not full and not any(decision.state.statuses[status] for status in messages.AT_WORK):
            owed, drained = False, decision.state.last_event
            body = messages.drained(decision.now, len(decision.state.jobs))
            for sink in self._sinks.values():
                if "drained" in sink.on and self._holds(sink, "drained", through):
                    self._outbox.add(decision, sink.name, messages.DRAINED, body)
        self._tidy(decision)
        words = {name: sorted(sink.on) for name, sink in self._sinks.items()}
        cooling = {agent: until for agent, until in cooling.items() if until > decision.now}
        self._keep(decision, Notified(through, words, drained, owed and "job.held" in self._kinds, cooling))

    def _holds(self, sink: Sink, word: str, cursor: int) -> bool:
        """Of what came before this daemon a sink is told what it was to be told then."""
        return cursor > self._born or word in self._notified.on.get(sink.name, ())

    def _tidy(self, decision: Decision) -> None:
        """Messages of sinks that are no more, and the oldest of too many, go."""
        for why, gone in (
            ("there is no such notification any more", self._outbox.of_others(self._sinks)),
            ("too many wait", self._outbox.overflow()),
        ):
            for entry in gone:
                self._outbox.remove(decision, entry)
            if gone:
                decision.effects.append(partial(self._dropped, gone, why))

    def _dropped(self, entries: list[Entry], why: str) -> None:
        for entry in entries:
            if entry.sink in self._health:
                self._health[entry.sink].dropped += 1
        sinks = ", ".join(sorted({entry.sink for entry in entries}))
        job = entries[0].job if len(entries) == 1 else None
        self._log("notification.dropped", level="error", sink=sinks, messages=len(entries), job=job, message=why)

    def _keep(self, decision: Decision, new: Notified) -> None:
        """Write it down, unless that says no more than what is written: to look again costs less."""
        back = partial(self._restore, self._notified, self._written)
        same = self._written is not None and replace(new, cursor=self._notified.cursor) == self._notified
        if self._sinks and not (same and not decision.settings and new.cursor - (self._written or 0) < _LAG):
            self._restore(new, new.cursor)
            decision.keep(_KEPT, asdict(new), back)
        elif not self._sinks and self._written is not None:
            self._restore(new, None)
            decision.keep(_KEPT, None, back)
        else:
            self._notified = new
            decision.undone_by(back)

    def _restore(self, notified: Notified, written: int | None) -> None:
        self._notified, self._written = notified, written

    # --- from messages to sinks ---------------------------------------------------------------------

    def _due(self, sink: Sink) -> tuple[Entry | None, float]:
        """What is to be sent to it now; else in how many seconds to look again."""
        health = self._health[sink.name]
        if health.gone or sink.name in self._busy:
            return None, _LONGEST_SLEEP
        entry = self._outbox.first(sink.name)
        if entry is None:
            return None, _LONGEST_SLEEP
        seconds = max((entry.due - self._clock.now()) / 1e6, health.rests_until - self._clock.monotonic())
        return (entry, _LONGEST_SLEEP) if seconds <= 0 else (None, seconds)

    async def _deliver(self, sink: Sink, entry: Entry) -> None:
        health = self._health[sink.name]
        try:
            sent = await self._tried(sink, entry)
            health.problem = sent.message
            if sent.ok:
                health.sent += 1
                await self._writer.fact(partial(self._taken, entry), "notifications")
                about = {"job": entry.job, "kind": entry.kind}
                self._log("notification.sent", level="debug", sink=sink.name, **about)
                return
            health.failed += 1
            health.gone = sent.gone
            health.rests_until = self._clock.monotonic() + sent.rest
            later = await self._writer.fact(partial(self._refused, entry, sent.rest), "notifications")
            self._say_failed(entry, sent, later)
        except OpusError as error:
            self._log("notification.unsettled", level="error", sink=sink.name, message=error.message)
            health.rests_until = self._clock.monotonic() + _LONGEST_SLEEP
        finally:
            self._busy.discard(sink.name)
            self._wake.set()

    async def _tried(self, sink: Sink, entry: Entry) -> Sent:
        try:
            return await self._send(sink, entry)
        except Exception as error:  # noqa: BLE001 - a fault of one sink must not end the daemon
            return Sent(ok=False, message=f"it can't be sent: {type(error).__name__}")

    def _taken(self, entry: Entry, decision: Decision) -> None:
        self._outbox.remove(decision, entry)

    def _refused(self, entry: Entry, rest: float, decision: Decision) -> Entry | None:
        return self._outbox.postpone(decision, entry, random(), int(rest * 1e6))

    def _say_failed(self, entry: Entry, sent: Sent, later: Entry | None) -> None:
        again = None if later is None else to_rfc3339(later.due)
        about = {"sink": entry.sink, "kind": entry.kind, "job": entry.job, "tries": entry.tries + 1}
        self._log("notification.failed", level="warning", **about, message=sent.message, again=again)
        if later is None:
            self._dropped([entry], f"given up after {entry.tries + 1} tries")


def _known(event: Event, cooling: dict[str, int]) -> bool:
    """Whether this says again that an agent is limited; `cooling` learns of it."""
    detail = event.detail or {}
    agent = str(detail.get("agent"))
    if event.kind == "agent.ready":
        cooling.pop(agent, None)
    if event.kind != "agent.cooling":
        return False
    until = cooling.get(agent, 0)
    with suppress(ValueError):  # of another version
        cooling[agent] = max(until, from_rfc3339(str(detail.get("until"))))
    return event.time < until
