"""The verbs about schedules: for people alone, but for the list."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec.structs import replace

from opusd.api import results
from opusd.core.access import require_person
from opusd.dispatcher.shorter import shorter

if TYPE_CHECKING:
    from opusd.api import params as p
    from opusd.dispatcher.desk import Desk, Session

_MOST_BYTES: Final = 3 << 20
_LONG: Final = frozenset({"prompt", "command", "env", "payload", "metadata", "verify"})


class Schedules(Protocol):
    """What was decided is given when it is on disk."""

    async def add(self, sent: p.ScheduleAdd, actor: str) -> asyncio.Future[results.Schedule]: ...
    def remove(self, name: str, actor: str) -> asyncio.Future[None]: ...
    def pause(self, name: str, actor: str) -> asyncio.Future[results.Schedule]: ...
    def resume(self, name: str, actor: str) -> asyncio.Future[results.Schedule]: ...
    async def submit(self, name: str) -> asyncio.Future[int]: ...
    def shown(self, name: str | None) -> list[results.Schedule]: ...


class ScheduleVerbs:
    schedule_run_shorter = staticmethod(shorter)

    def __init__(self, desk: Desk, schedules: Schedules) -> None:
        self._desk = desk
        self._schedules = schedules

    async def schedule_add(self, session: Session, params: p.ScheduleAdd) -> results.Schedule:
        require_person(session.caller, "adding a schedule")
        async with session.turn:
            future = await self._schedules.add(params, session.caller.actor)
        return await future

    async def schedule_list(self, session: Session, params: p.ScheduleList) -> results.Schedules:
        del session
        found = await self._desk.writer.read(lambda: self._schedules.shown(params.name))
        return results.Schedules(schedules=_that_fit(found))

    async def schedule_remove(self, session: Session, params: p.ScheduleRemove) -> results.Done:
        require_person(session.caller, "removing a schedule")
        async with session.turn:
            future = self._schedules.remove(params.name, session.caller.actor)
        await future
        return results.Done()

    async def schedule_pause(self, session: Session, params: p.SchedulePause) -> results.Schedule:
        require_person(session.caller, "pausing a schedule")
        async with session.turn:
            future = self._schedules.pause(params.name, session.caller.actor)
        return await future

    async def schedule_resume(self, session: Session, params: p.ScheduleResume) -> results.Schedule:
        require_person(session.caller, "resuming a schedule")
        async with session.turn:
            future = self._schedules.resume(params.name, session.caller.actor)
        return await future

    async def schedule_run(self, session: Session, params: p.ScheduleRun) -> results.Submitted:
        require_person(session.caller, "running a schedule")
        async with session.turn:
            future = await self._schedules.submit(params.name)
        return await self._desk.eventually(partial(self._made, await future))

    async def _made(self, number: int) -> results.Submitted:
        [job] = await self._desk.show_all([await self._desk.look(number)])
        return results.Submitted(job=job, created=True)


def _that_fit(found: list[results.Schedule]) -> list[results.Schedule]:
    """All of them; what is long of their jobs is left out where one reply of at most 4 MiB would not hold it."""
    size = 0
    shown: list[results.Schedule] = []
    for one in found:
        size += len(msgspec.json.encode(one.job))
        if size > _MOST_BYTES and shown:
            one = replace(one, job={name: value for name, value in one.job.items() if name not in _LONG})  # noqa: PLW2901
        shown.append(one)
    return shown
