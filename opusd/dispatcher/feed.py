"""Events for those who subscribed: nothing missed, nothing twice, only what is on disk (contract, section 7).

A crowd is told in turns of the loop, so that nobody else has to wait for all of it; who can't be told as fast as things
happen reads on in the registry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from opusd.api import results
from opusd.core.errors import NotFound, StorageUnavailable
from opusd.core.job import Event
from opusd.dispatcher.views import event_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opusd.api import params as p
    from opusd.core.job import Change
    from opusd.dispatcher.desk import Desk, Session

_PAGE: Final = 500
_TOGETHER: Final = 100
"""Events that one subscriber is told at a time."""
_TURN: Final = 3000
"""Tellings, of one event to one subscriber, in one turn of the loop: about 3 ms."""
_BEHIND: Final = 20_000
"""Events that are kept in memory for those who are still to be told; beyond them all read on in the registry."""


class Sink(Protocol):
    """Where the events of one subscription go; `room` waits until more are taken."""

    subscription: int
    closed: bool
    on_close: Callable[[], None] | None

    def __call__(self, cursor: int, event: bytes) -> None: ...
    def tell(self, events: Sequence[tuple[int, bytes]]) -> None: ...
    async def room(self) -> None: ...


class _Told:
    """An event that is on its way to all who are live; `group` is that of its job, where it is `known`."""

    __slots__ = ("_encoded", "event", "group", "known", "serial")

    def __init__(self, serial: int, event: Event, group: str | None, *, known: bool) -> None:
        self.serial = serial
        self.event = event
        self.group = group
        self.known = known
        self._encoded: bytes | None = None

    def encoded(self) -> bytes:
        """Once for all."""
        if self._encoded is None:
            self._encoded = msgspec.json.encode(event_view(self.event))
        return self._encoded


class _Subscription:
    """While it is `live` it is told of all from the serial number `first` on; `cursor`: up to where it was told."""

    def __init__(self, sink: Sink, kinds: frozenset[str], jobs: frozenset[int], group: str | None) -> None:
        self.sink = sink
        self.kinds = kinds
        self.jobs = jobs
        self.group = group
        self.live = False
        self.first = 0
        self.cursor = 0

    def wants(self, event: Event, group: str | None) -> bool:
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self.jobs or event.job in self.jobs)
            and (self.group is None or group == self.group)
        )


class Feed:
    """`cursor` is that of the last event that is on disk."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self._subscriptions: dict[Sink, _Subscription] = {}
        self._desk: Desk | None = None
        self._serial = 0
        self._waiting: deque[_Told] = deque()
        self._together: list[_Told] = []  # these are being told
        self._ears: Iterator[_Subscription] = iter(())  # to these, still
        self._goes_on = False

    def attach(self, desk: Desk) -> None:
        self._desk = desk

    def released(self, changes: list[Change], events: list[Event]) -> None:
        """These are on disk: whoever is up to date gets them now; the others find them in the registry."""
        if events:
            self.cursor = max(self.cursor, events[-1].cursor)
        if not self._subscriptions:
            return
        groups = {change.after.id: change.after.terms.group for change in changes}
        for event in events:
            group = groups.get(event.job) if event.job is not None else None
            self._put(event, group, known=event.job is None or event.job in groups)
        self._tell()

    def publish(self, event: Event, group: str | None) -> None:
        """To the live subscribers that want it; it is not in the registry."""
        if self._subscriptions:
            self._put(event, group, known=True)
            self._tell()

    # --- telling the crowd --------------------------------------------------------------------------

    def _put(self, event: Event, group: str | None, *, known: bool) -> None:
        self._waiting.append(_Told(self._serial, event, group, known=known))
        self._serial += 1
        if len(self._waiting) > _BEHIND:
            self._waiting.clear()
            self._together = []
            for subscription in self._subscriptions.values():
                self._read_on(subscription, subscription.cursor)

    def _tell(self) -> None:
        """Some now, unless the next turn will go on anyway."""
        if not self._goes_on:
            self._take_turn()

    def _take_turn(self) -> None:
        left = _TURN
        try:
            while left > 0 and (self._together or self._begin()):
                subscription = next(self._ears, None)
                if subscription is None:
                    self._together = []
                else:
                    left -= len(self._together)
                    self._tell_one(subscription)
        finally:
            self._goes_on = bool(self._together or self._waiting)
            if self._goes_on:
                asyncio.get_running_loop().call_soon(self._take_turn)

    def _begin(self) -> bool:
        """The next events, to all that are there now: who comes later finds these in the registry."""
        while self._waiting and len(self._together) < _TOGETHER:
            self._together.append(self._waiting.popleft())
        self._ears = iter(list(self._subscriptions.values()))
        return bool(self._together)

    def _tell_one(self, subscription: _Subscription) -> None:
        if not subscription.live:
            return
        wanted: list[tuple[int, bytes]] = []
        for told in self._together:
            if told.serial < subscription.first:
                continue
            if not told.known and subscription.group is not None:
                # Only the registry knows the group of a job that did not change.
                self._read_on(subscription, told.event.cursor - 1)
                break
            if subscription.wants(told.event, told.group):
                wanted.append((told.event.cursor, told.encoded()))
            subscription.cursor = told.event.cursor
        if wanted:
            subscription.sink.tell(wanted)

    def _read_on(self, subscription: _Subscription, since: int) -> None:
        if subscription.live:
            assert self._desk is not None
            subscription.live = False
            self._desk.engine.spawn(self._catch_up(subscription, since))

    def _go_live(self, subscription: _Subscription, since: int) -> None:
        """It has all up to this cursor, which is the last."""
        subscription.live = not subscription.sink.closed
        subscription.first = self._serial
        subscription.cursor = since

    # --- subscribing --------------------------------------------------------------------------------

    async def events_subscribe(self, session: Session, params: p.EventsSubscribe, sink: Sink) -> results.Subscription:
        desk = self._desk
        assert desk is not None
        async with session.turn:
            jobs = frozenset([await desk.find(ref, path="$.jobs") for ref in params.jobs or ()])
            await desk.settled()
            since = self.cursor if params.since is None else params.since
            oldest = await desk.store.oldest_event() if params.since else 0
            if params.since and (since < oldest - 1 or since > self.cursor):
                where = (
                    f"was pruned: the oldest kept is {oldest}"
                    if since < oldest - 1
                    else f"is after the last one, {self.cursor}"
                )
                message = f"cursor {since} {where}"
                raise NotFound(message, oldest=oldest, cursor=self.cursor)
            subscription = _Subscription(sink, frozenset(params.kinds or ()), jobs, params.group)
            self._subscriptions[sink] = subscription
            sink.on_close = partial(self._forget, sink)
            if since >= self.cursor:
                self._go_live(subscription, since)
            else:
                desk.engine.spawn(self._catch_up(subscription, since))
        return results.Subscription(subscription=sink.subscription, cursor=since)

    def _forget(self, sink: Sink) -> None:
        subscription = self._subscriptions.pop(sink, None)
        if subscription is not None:
            subscription.live = False

    async def _catch_up(self, subscription: _Subscription, since: int) -> None:
        """Page through what is kept, as soon as it can be read; live once nothing came in between.

        No await lies between that look and `live`.
        """
        desk, sink = self._desk, subscription.sink
        assert desk is not None
        while not sink.closed:
            known = self.cursor
            try:
                page = await desk.store.events(
                    since,
                    _PAGE,
                    kinds=sorted(subscription.kinds),
                    jobs=sorted(subscription.jobs),
                    group=subscription.group,
                )
            except StorageUnavailable:
                await desk.unreadable()
                continue
            for event in page:
                if event.cursor > self.cursor:
                    break  # committed, but its release is still to come
                await sink.room()
                sink(event.cursor, msgspec.json.encode(event_view(event)))
                since = event.cursor
            if len(page) < _PAGE:
                since = max(since, known)
            if since >= self.cursor:
                self._go_live(subscription, since)
                return
