"""The verbs about the daemon itself: info, reload, backup, shutdown (contract, section 7)."""

from __future__ import annotations

import os
import platform
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opusd import __version__
from opusd.api import results
from opusd.core import attempts
from opusd.core.access import require_person
from opusd.core.errors import InvalidParams, OpusError
from opusd.core.lifecycle import Status
from opusd.core.times import parse_duration
from opusd.dispatcher.intake import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.api import params as p
    from opusd.core.decision import Decision
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.waits import Waits

_LOOKED_AT: Final = 10_000
"""Unfinished jobs, oldest first, among which the longest waiting one is sought: a million would stop the loop."""


class SystemVerbs:
    """`reload` reads the configuration again, `stop` ends the daemon; `about` adds what only the daemon knows."""

    def __init__(
        self,
        desk: Desk,
        waits: Waits,
        *,
        about: Callable[[], dict[str, Any]],
        reload: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._waits = waits
        self._about = about
        self._reload = reload
        self._stop = stop
        self._started = desk.clock.monotonic()

    async def system_info(self, session: Session, params: p.SystemInfo) -> results.Info:
        del session, params
        desk = self._desk
        about = self._about()
        facts = await desk.store.facts()
        unavailable = [] if desk.writer.degraded is None else [f"the registry can't be written: {desk.writer.degraded}"]
        return results.Info(
            version=__version__,
            pid=os.getpid(),
            uptime=desk.clock.monotonic() - self._started,
            ready=True,
            degraded=[*unavailable, *about.pop("degraded", [])],
            store=str(facts.get("store", "")),
            db_bytes=int(facts.get("db_bytes", 0)),
            wal_bytes=int(facts.get("wal_bytes", 0)),
            free_disk=int(facts.get("free_disk", 0)),
            loop_lag_ms=round(desk.engine.loop_lag * 1e3, 3),
            commit_ms=round(desk.writer.commit_seconds * 1e3, 3),
            oldest_queued_seconds=self._oldest(),
            sqlite_version=facts.get("sqlite_version"),
            python=platform.python_version(),
            **about,
        )

    def _oldest(self) -> float | None:
        jobs = islice(self._desk.state.jobs.values(), _LOOKED_AT)
        queued = [job.ready_since for job in jobs if job.status is Status.QUEUED]
        now = self._desk.now() - self._desk.state.timeline.skew
        return None if not queued else max(0.0, (now - min(queued)) / 1e6)

    async def system_reload(self, session: Session, params: p.SystemReload) -> results.Done:
        del params
        require_person(session.caller, "reloading the configuration")
        async with session.turn:
            self._reload()
        return results.Done()

    async def system_backup(self, session: Session, params: p.SystemBackup) -> results.BackupMade:
        require_person(session.caller, "making a backup")
        path = Path(params.path)
        if not path.is_absolute() or "\x00" in params.path:
            message = f"{params.path!r} is not an absolute path: name a file, from the root folder on"
            raise InvalidParams(message, path="$.path")
        async with session.turn:
            await self._desk.settled()
        await self._desk.store.backup(path)
        return results.BackupMade(path=str(path), bytes=path.stat().st_size)

    async def system_shutdown(self, session: Session, params: p.SystemShutdown) -> results.Done:
        """Answered when the agents are as asked, or the time is over; then the daemon ends.

        Workers are no agents of the daemon: their leases outlive it.
        """
        require_person(session.caller, "shutting the daemon down")
        seconds = None if params.timeout is None else read("$", "timeout", parse_duration, params.timeout) / 1e6
        self._desk.state.draining = True
        if params.agents == "stop":
            try:
                await self._desk.writer.command(self._put_all_back, session.caller.actor)
            except OpusError:
                self._desk.state.draining = False
                raise
        if params.agents != "leave":
            await self._waits.idle(seconds, workers=False)
        self._stop()
        return results.Done()

    def _put_all_back(self, decision: Decision) -> None:
        for job in list(self._desk.state.pushed.values()):
            after = attempts.put_back(decision, job, self._desk.state.limits.grace)
            self._desk.engine.stop_after(decision, after)
