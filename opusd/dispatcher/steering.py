"""The verbs of the queue as a whole."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from opusd.api import results
from opusd.core import commands, sizes
from opusd.core.access import require_person
from opusd.core.errors import InvalidParams
from opusd.core.times import parse_duration
from opusd.dispatcher.intake import read
from opusd.dispatcher.shorter import shorter

if TYPE_CHECKING:
    from opusd.api import params as p
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.reads import ReadVerbs
    from opusd.dispatcher.waits import Waits


class SteeringVerbs:
    queue_pause_shorter = queue_resume_shorter = queue_drain_shorter = staticmethod(shorter)

    def __init__(self, desk: Desk, reads: ReadVerbs, waits: Waits) -> None:
        self._desk = desk
        self._reads = reads
        self._waits = waits

    async def queue_pause(self, session: Session, params: p.QueuePause) -> results.Status:
        require_person(session.caller, "pausing the queue")
        name = self._paused_name(params.agent, params.group)
        async with session.turn:
            future = self._desk.writer.command(partial(commands.pause, name=name), session.caller.actor)
        await future
        return await self._desk.eventually(self._reads.status)

    async def queue_resume(self, session: Session, params: p.QueueResume) -> results.Status:
        require_person(session.caller, "resuming the queue")
        name = self._paused_name(params.agent, params.group)
        async with session.turn:
            future = self._desk.writer.command(partial(commands.resume, name=name), session.caller.actor)
        await future
        self._desk.engine.poke()
        return await self._desk.eventually(self._reads.status)

    async def queue_drain(self, session: Session, params: p.QueueDrain) -> results.Status:
        require_person(session.caller, "draining the queue")
        seconds = None if params.timeout is None else read("$", "timeout", parse_duration, params.timeout) / 1e6
        async with session.turn:
            future = self._desk.writer.command(partial(commands.pause, name="*"), session.caller.actor)
        await future
        await self._waits.idle(seconds)
        return await self._desk.eventually(self._reads.status)

    async def pool_resize(self, session: Session, params: p.PoolResize) -> results.Pool:
        require_person(session.caller, "resizing the pool")
        if params.agent is not None and params.agent not in self._desk.state.slots:
            self._paused_name(params.agent, None)
        async with session.turn:
            future = self._desk.writer.command(
                partial(sizes.resize, max_concurrent=params.max_concurrent, agent=params.agent), session.caller.actor
            )
        await future
        self._desk.engine.poke()
        return await self._desk.writer.read(self._reads.pool)

    def _paused_name(self, agent: str | None, group: str | None) -> str:
        if agent is not None and group is not None:
            message = "give agent or group, not both"
            raise InvalidParams(message, path="$.group")
        if agent is not None:
            self._desk.require_agent(agent)
            return f"agent:{agent}"
        return "*" if group is None else f"group:{group}"
