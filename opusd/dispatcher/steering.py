"""The verbs of the queue as a whole, and of an agent that reports on itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from opusd.api import results
from opusd.core import commands
from opusd.core.access import require_person
from opusd.core.errors import Forbidden, InvalidParams, LeaseLost, NotFound
from opusd.core.times import parse_duration
from opusd.dispatcher.intake import read

if TYPE_CHECKING:
    from opusd.api import params as p
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.hearing import Hearing
    from opusd.dispatcher.reads import ReadVerbs
    from opusd.dispatcher.waits import Waits


class SteeringVerbs:
    def __init__(self, desk: Desk, reads: ReadVerbs, waits: Waits, hearing: Hearing) -> None:
        self._desk = desk
        self._reads = reads
        self._waits = waits
        self._hearing = hearing

    async def queue_pause(self, session: Session, params: p.QueuePause) -> results.Status:
        require_person(session.caller, "pausing the queue")
        name = self._paused_name(params.agent, params.group)
        async with session.turn:
            future = self._desk.writer.command(partial(commands.pause, name=name), session.caller.actor)
        await future
        return await self._reads.status()

    async def queue_resume(self, session: Session, params: p.QueueResume) -> results.Status:
        require_person(session.caller, "resuming the queue")
        name = self._paused_name(params.agent, params.group)
        async with session.turn:
            future = self._desk.writer.command(partial(commands.resume, name=name), session.caller.actor)
        await future
        self._desk.engine.poke()
        return await self._reads.status()

    async def queue_drain(self, session: Session, params: p.QueueDrain) -> results.Status:
        require_person(session.caller, "draining the queue")
        seconds = None if params.timeout is None else read("$", "timeout", parse_duration, params.timeout) / 1e6
        async with session.turn:
            future = self._desk.writer.command(partial(commands.pause, name="*"), session.caller.actor)
        await future
        await self._waits.idle(seconds)
        return await self._reads.status()

    async def pool_resize(self, session: Session, params: p.PoolResize) -> results.Pool:
        require_person(session.caller, "resizing the pool")
        if params.agent is not None and params.agent not in self._desk.state.slots:
            self._paused_name(params.agent, None)
        async with session.turn:
            future = self._desk.writer.command(
                partial(commands.resize, max_concurrent=params.max_concurrent, agent=params.agent), session.caller.actor
            )
        await future
        self._desk.engine.poke()
        return await self._desk.writer.read(self._reads.pool)

    async def worker_heartbeat(self, session: Session, params: p.WorkerHeartbeat) -> results.Heartbeat:
        """A pushed agent says how far it is; its attempt has no lease, so `expires_at` is null."""
        desk = self._desk
        number = await desk.find(params.id)
        named = desk.engine.attempt_by_token(params.token)
        job = desk.state.jobs.get(number)
        if named is None or named[0] != number or job is None or job.run is None:
            message = f"this token is not that of a running attempt of job {number}"
            raise LeaseLost(message, job=number)
        caller = session.caller
        if caller.agent and caller.job not in (None, number):
            message = f"the agent of job {caller.job} may report on itself alone"
            raise Forbidden(message)
        desk.engine.liveness.heard(named, desk.clock.monotonic())
        if params.progress is not None:
            fraction = params.progress.fraction
            if fraction is not None and not 0 <= fraction <= 1:
                message = "progress.fraction is between 0 and 1"
                raise InvalidParams(message, path="$.progress.fraction")
            self._hearing.progress(job, job.run.attempt, params.progress)
        return results.Heartbeat(expires_at=None, cancel=job.run.ending is not None)

    def _paused_name(self, agent: str | None, group: str | None) -> str:
        if agent is not None and group is not None:
            message = "give agent or group, not both"
            raise InvalidParams(message, path="$.group")
        if agent is not None:
            agents = self._desk.state.limits.agents
            if agent not in agents:
                message = f"agent {agent!r} is not configured; there are: {', '.join(sorted(agents))}"
                raise NotFound(message, path="$.agent")
            return f"agent:{agent}"
        return "*" if group is None else f"group:{group}"
