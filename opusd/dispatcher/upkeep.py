"""Pruning: what finished jobs leave behind goes, on demand and by retention; never what an unfinished job waits for."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Final

from opusd.api import results
from opusd.core.access import require_person
from opusd.core.errors import Conflict, InvalidParams, StorageUnavailable
from opusd.core.lifecycle import FINAL
from opusd.core.times import from_rfc3339
from opusd.dispatcher.desk import as_tuple, one_of
from opusd.dispatcher.intake import read
from opusd.store.base import CommitFailed, CommitRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from opusd.api import params as p
    from opusd.core.decision import Decision
    from opusd.dispatcher.desk import Desk, Session

_AT_ONCE: Final = 500


class Upkeep:
    """`finished` and `history` are microseconds or None (never); `every` is seconds."""

    def __init__(
        self,
        desk: Desk,
        runs: Path,
        *,
        finished: int | None,
        history: int | None,
        every: float,
        log: Callable[..., None],
    ) -> None:
        self._desk = desk
        self._runs = runs
        self._log = log
        self.configure(finished=finished, history=history, every=every)

    def configure(self, *, finished: int | None, history: int | None, every: float) -> None:
        """The configuration, read or read again."""
        self._finished = finished
        self._history = history
        self._every = every

    async def job_prune(self, session: Session, params: p.JobPrune) -> results.Pruned:
        require_person(session.caller, "pruning")
        one_of(ids=params.ids, before=params.before)
        statuses = list(as_tuple(params.status) or (final.value for final in FINAL))
        if not set(statuses) <= {final.value for final in FINAL}:
            message = "only finished jobs can be pruned: status is completed, failed, cancelled or expired"
            raise InvalidParams(message, path="$.status")
        async with session.turn:
            if params.ids is not None:
                jobs = [await self._prunable(ref) for ref in params.ids]
            else:
                assert params.before is not None
                before = read("$", "before", from_rfc3339, params.before)
                await self._desk.settled()
                jobs = await self._desk.store.prunable(before, statuses, 1 << 31)
            if not params.dry_run:
                for at in range(0, len(jobs), _AT_ONCE):
                    await self._prune(jobs[at : at + _AT_ONCE], session.caller.actor, command=True)
        return results.Pruned(jobs=jobs, dry_run=params.dry_run)

    async def _prunable(self, ref: int | str) -> int:
        number = await self._desk.find(ref, path="$.ids")
        job = self._desk.state.jobs.get(number)
        if job is not None:
            message = f"job {number} is {job.status}: only finished jobs can be pruned; cancel it first"
            raise Conflict(message, status=job.status)
        waiting = sorted(self._desk.state.dependents.get(number, ()))
        if waiting:
            message = f"job {waiting[0]} waits for job {number}: it can't be pruned before"
            raise Conflict(message, dependents=waiting)
        return number

    async def _prune(self, jobs: Sequence[int], actor: str, *, command: bool) -> None:
        state = self._desk.state

        def decide(decision: Decision) -> None:
            for number in jobs:
                if number not in state.jobs and not state.dependents.get(number):
                    decision.pruned.append((number, False))  # its key is shown still, and free
                    decision.note("job.pruned", job=number)

        writer = self._desk.writer
        await (writer.command(decide, actor) if command else writer.fact(decide))
        await asyncio.get_running_loop().run_in_executor(None, self._remove_runs, list(jobs))

    def _remove_runs(self, jobs: Sequence[int]) -> None:
        for number in jobs:
            shutil.rmtree(self._runs / str(number), ignore_errors=True)

    async def run(self) -> None:
        """Retention, for ever: first soon after the start, then each `every`."""
        never = asyncio.Event()
        while True:
            await self._desk.clock.wait(never, self._every)
            try:
                await self.once()
            except (StorageUnavailable, CommitFailed, CommitRefused) as error:  # it has time
                self._log("retention.postponed", level="warning", message=str(error))

    async def once(self) -> int:
        """Prune what is past its time now; how many jobs."""
        count, now = 0, self._desk.now()
        while self._finished is not None:
            await self._desk.settled()
            jobs = await self._desk.store.prunable(now - self._finished, [final.value for final in FINAL], _AT_ONCE)
            if not jobs:
                break
            await self._prune(jobs, "retention", command=False)
            count += len(jobs)
        if self._history is not None:
            while await self._desk.store.forget(now - self._history, _AT_ONCE):
                count += 1
        if count:
            self._log("retention.pruned", jobs=count)
        return count
