"""Events for those who subscribed: nothing missed, nothing twice, only what is on disk (contract, section 7)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from opusd.api import results
from opusd.core.errors import NotFound, StorageUnavailable
from opusd.core.job import Event
from opusd.dispatcher.views import event_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.api import params as p
    from opusd.core.job import Change
    from opusd.dispatcher.desk import Desk, Session

_PAGE: Final = 500
_AGAIN: Final = 1.0
"""Seconds until a registry that can't be read is asked once more."""


class Sink(Protocol):
    """Where the events of one subscription go; `room` waits until more are taken."""

    subscription: int
    closed: bool
    on_close: Callable[[], None] | None

    def __call__(self, cursor: int, event: bytes) -> None: ...
    async def room(self) -> None: ...


class _Subscription:
    def __init__(self, sink: Sink, kinds: frozenset[str], jobs: frozenset[int], group: str | None) -> None:
        self.sink = sink
        self.kinds = kinds
        self.jobs = jobs
        self.group = group
        self.live = False

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
            if event.job is not None and event.job not in groups:
                self._read_on_from(event)
            self.publish(event, groups.get(event.job) if event.job is not None else None)

    def _read_on_from(self, event: Event) -> None:
        """Only the registry knows the group of a job that did not change: whoever asks for one reads on there."""
        desk = self._desk
        assert desk is not None
        for subscription in self._subscriptions.values():
            if subscription.live and subscription.group is not None:
                subscription.live = False
                desk.engine.spawn(self._catch_up(subscription, event.cursor - 1))

    def publish(self, event: Event, group: str | None) -> None:
        """To the live subscribers that want it; encoded once."""
        encoded: bytes | None = None
        for subscription in list(self._subscriptions.values()):
            if subscription.live and subscription.wants(event, group):
                encoded = encoded or msgspec.json.encode(event_view(event))
                subscription.sink(event.cursor, encoded)

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
                subscription.live = True
            else:
                desk.engine.spawn(self._catch_up(subscription, since))
        return results.Subscription(subscription=sink.subscription, cursor=since)

    def _forget(self, sink: Sink) -> None:
        self._subscriptions.pop(sink, None)

    async def _catch_up(self, subscription: _Subscription, since: int) -> None:
        """Page through what is kept, as soon as it can be read; live once nothing came in between.

        No await lies between that look and `live`.
        """
        desk, sink, never = self._desk, subscription.sink, asyncio.Event()
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
                await desk.clock.wait(never, _AGAIN)
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
                subscription.live = True
                return
