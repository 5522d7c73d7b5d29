"""What running attempts say of themselves: progress, session, usage for those who look; limits met, budgets used up.

Nothing of it is kept but limits and budgets: the end of an attempt brings it to the registry.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import asdict

from opusd.agents.adapters.base import Limited, Progress, Session, UsageSeen
from opusd.api import types as wire
from opusd.core import budgets, cooling
from opusd.core.job import Event
from opusd.dispatcher.views import Live

if TYPE_CHECKING:
    from opusd.agents.adapters.base import Observation
    from opusd.agents.attempt import Key
    from opusd.core.decision import Decision
    from opusd.core.job import Job
    from opusd.dispatcher.desk import Desk
    from opusd.dispatcher.feed import Feed


class Hearing:
    def __init__(self, desk: Desk, feed: Feed) -> None:
        self._desk = desk
        self._feed = feed

    def heard(self, key: Key, seen: list[Observation]) -> None:
        """What an adapter saw in the output of a running attempt; of several words on one thing the last counts."""
        number, attempt = key
        job = self._desk.state.jobs.get(number)
        if job is None or job.run is None or job.run.attempt != attempt:
            return
        live = self._live(number)
        told: Progress | None = None
        limited: Limited | None = None
        used: UsageSeen | None = None
        for one in seen:
            match one:
                case Progress():
                    told = one
                case Session(session_id=session_id):
                    live.session_id = session_id
                case UsageSeen(usage=usage):
                    live.usage, used = usage, one
                case Limited():
                    limited = one
                case _:
                    pass
        if told is not None:
            self.progress(job, attempt, wire.Progress(fraction=told.fraction, message=told.message))
        if used is not None and budgets.budget_of(self._desk.state, job.terms.agent) is not None:
            self._desk.writer.fact(partial(self._used, number, attempt, used))
        if limited is not None:
            self._desk.writer.fact(partial(self._met, number, attempt, limited.until))

    def progress(self, job: Job, attempt: int, progress: wire.Progress) -> None:
        """Show it, and tell who subscribed; it is no row of the audit trail."""
        self._live(job.id).progress = progress
        event = Event(
            cursor=self._feed.cursor,
            time=self._desk.now(),
            kind="job.progress",
            job=job.id,
            attempt=attempt,
            actor=f"job:{job.id}",
            detail=msgspec.to_builtins(progress),
        )
        self._feed.publish(event, job.terms.group)

    def _live(self, number: int) -> Live:
        return self._desk.live.setdefault(number, Live())

    def _used(self, number: int, attempt: int, seen: UsageSeen, decision: Decision) -> None:
        job = decision.state.jobs.get(number)
        if job is not None and job.run is not None and job.run.attempt == attempt:
            ended = budgets.use(decision, job, asdict(seen.usage), final=seen.final)
            if ended is not None:
                self._desk.engine.stop_after(decision, ended)

    def _met(self, number: int, attempt: int, until: int | None, decision: Decision) -> None:
        job = decision.state.jobs.get(number)
        if job is not None and job.run is not None and job.run.attempt == attempt:
            cooling.met(decision, job, until)
