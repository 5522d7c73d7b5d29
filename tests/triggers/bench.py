"""Schedules on a real registry, with a clock that the test turns. Nothing is dispatched unless the test says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any

from opusd.api.params import ScheduleAdd
from opusd.api.types import JobSpec
from opusd.core.retry import PRESETS
from opusd.core.times import from_rfc3339
from opusd.dispatcher.entrance import Entrance
from opusd.dispatcher.intake import Intake
from opusd.triggers.schedules import Schedules
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, EngineBench, turns

if TYPE_CHECKING:
    from opusd.api.results import Schedule
    from opusd.store.base import Record

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class ScheduleBench(EngineBench):
    """It is the first of January 2026, midnight in UTC."""

    schedules: Schedules
    local: tzinfo = UTC  # the zone of the machine
    _firing: asyncio.Task[None] | None = None

    async def up(self) -> None:
        """What the daemon does when it starts, or starts again."""
        if self.writing is None:
            await self.begin(dispatch=False)
        intake = Intake(policies=PRESETS, env_secret=("*_KEY",), home="/home")
        self.schedules = Schedules(
            self.writer, Entrance(self.desk, intake), self.clock, log=self.say,
            settings=(await self.store.load_active()).settings, local=lambda: (self.local, "here"),
        )  # fmt: skip
        self._firing = asyncio.create_task(self.schedules.run())
        await self.quiet()

    async def down(self) -> None:
        """As kill -9 does: at once, with nothing said."""
        if self._firing is not None:
            self._firing.cancel()
            with suppress(asyncio.CancelledError):
                await self._firing
            self._firing = None

    async def quiet(self) -> None:
        """Until the schedules sleep, with nothing left to do now."""
        assert self._firing is not None
        await turns(5)
        sleeping = asyncio.create_task(self.clock.until_waiting())
        async with asyncio.timeout(BOUND):
            await asyncio.wait((sleeping, self._firing), return_when=asyncio.FIRST_COMPLETED)
        if self._firing.done():
            sleeping.cancel()
            self._firing.result()

    async def later(self, seconds: float) -> None:
        """So much time passes, and what is due then is done."""
        self.clock.advance(seconds)
        await self.quiet()

    async def at(self, time: str) -> None:
        await self.later((from_rfc3339(time) - self.clock.now()) / 1e6)

    async def add(self, name: str = "nightly", cron: str = "0 3 * * *", **fields: Any) -> Schedule:
        names = ("timezone", "misfire", "overlap", "replace")
        given = {key: fields.pop(key) for key in names if key in fields}
        job = fields or {"prompt": "tidy up"}
        async with asyncio.timeout(BOUND):
            future = await self.schedules.add(
                ScheduleAdd(name=name, cron=cron, job=JobSpec(**job), **given), PERSON.actor
            )
            added = await future
        await self.quiet()
        return added

    def one(self, name: str = "nightly") -> Schedule:
        return self.schedules.shown(name)[0]

    async def jobs(self) -> list[Record]:
        await self.desk.settled()
        return await self.store.records(range(1, self.state.last_job + 1))

    async def fired(self) -> list[str]:
        """The firings that made a job, as the keys of the jobs say, in the order of submission."""
        return [(record.job.key or "").partition(":")[2].partition(":")[2] for record in await self.jobs()]

    def said_of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.log if name == event]
