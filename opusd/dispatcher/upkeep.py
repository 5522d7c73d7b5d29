"""Pruning: what finished jobs leave behind goes, on demand and by retention; never what an unfinished job waits for."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from functools import partial
from typing import TYPE_CHECKING, Final

from opusd.api import results
from opusd.core.access import require_person
from opusd.core.errors import Conflict, InvalidParams, OpusError, StorageUnavailable
from opusd.core.lifecycle import FINAL
from opusd.core.times import from_rfc3339
from opusd.dispatcher import worktrees
from opusd.dispatcher.desk import as_tuple, one_of
from opusd.dispatcher.intake import read
from opusd.store.base import CommitFailed, CommitRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from opusd.api import params as p
    from opusd.core.decision import Decision
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.workdirs import Workdirs
    from opusd.store.base import Forgotten

_AT_ONCE: Final = 500
_ID: Final = re.compile(r"[1-9]\d{0,11}", re.ASCII)


class Upkeep:
    """`finished` and `history` are microseconds or None (never); `every` is seconds.

    `forgotten` is told what has left the registry. A pruned job's worktree goes with the rest when there is no work in
    it.
    """

    def __init__(
        self,
        desk: Desk,
        runs: Path,
        workdirs: Workdirs,
        *,
        finished: int | None,
        history: int | None,
        every: float,
        log: Callable[..., None],
        forgotten: Callable[[Forgotten], None] = lambda _: None,
    ) -> None:
        self._desk = desk
        self._runs = runs
        self._workdirs = workdirs
        self._forgotten = forgotten
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
            pruned: list[int] = []
            left = []
            for at in range(0, len(jobs), _AT_ONCE):
                some = jobs[at : at + _AT_ONCE]
                try:
                    if params.dry_run:
                        gone, kept = some, await self._prune_worktrees(some, dry_run=True)
                    else:
                        gone, kept = await self._prune(some, session.caller.actor, command=True)
                    pruned += gone
                    left += kept
                except OpusError as error:
                    if not at or params.dry_run:
                        raise
                    message = f"{len(pruned)} of {len(jobs)} jobs are pruned; for the others: {error.message}"
                    raise type(error)(message, **error.data, pruned=len(pruned)) from error
        return results.Pruned(jobs=pruned, worktrees=left, dry_run=params.dry_run)

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

    async def _prune(
        self, jobs: Sequence[int], actor: str, *, command: bool
    ) -> tuple[list[int], list[results.WorktreeInfo]]:
        """Those that were pruned, without those that somebody retried meanwhile; and the worktrees that are left."""
        state = self._desk.state
        gone: list[int] = []

        def decide(decision: Decision) -> None:
            gone.clear()  # it may be decided again
            for number in jobs:
                if number not in state.jobs and not state.dependents.get(number):
                    gone.append(number)
                    decision.pruned.append((number, False))  # its key is shown still, and free
                    decision.note("job.pruned", job=number)

        writer = self._desk.writer
        await (writer.command(decide, actor) if command else writer.fact(decide))
        await asyncio.get_running_loop().run_in_executor(None, self._remove_runs, gone)
        left = await self._desk.eventually(partial(self._prune_worktrees, gone, dry_run=False))
        for one in left:
            self._log("worktree.kept", level="warning", job=one.job, path=one.path, message=one.kept)
        return gone, left

    async def _prune_worktrees(self, jobs: Sequence[int], *, dry_run: bool) -> list[results.WorktreeInfo]:
        names = await worktrees.of_jobs(self._desk.store, await self._workdirs.names(), jobs)
        found = await worktrees.prune(self._workdirs, self._desk.store, names, dry_run=dry_run)
        return [one for one in found if one.kept is not None]

    def _remove_runs(self, jobs: Sequence[int]) -> None:
        for number in jobs:
            shutil.rmtree(self._runs / str(number), ignore_errors=True)

    async def run(self) -> None:
        """What an earlier daemon left half done, then retention, each `every`, for ever."""
        never = asyncio.Event()
        work: Callable[[], Awaitable[int | None]] = self.sweep
        while True:
            try:
                await work()
            except (StorageUnavailable, CommitFailed, CommitRefused, OSError) as error:  # it has time
                self._log("retention.postponed", level="warning", message=str(error))
            work = self.once
            await self._desk.clock.wait(never, self._every)

    async def sweep(self) -> None:
        """Remove the runs and clean worktrees of pruned jobs, which a crash between the commit and the removal leaves.

        Only of ids that were given out before: whatever else is in the folder is not ours to judge.
        """
        loop, state, last = asyncio.get_running_loop(), self._desk.state, self._desk.state.last_job
        found = await loop.run_in_executor(None, self._runs_of_jobs)
        known = [number for number in found if number <= last and number not in state.jobs]
        count = 0
        for at in range(0, len(known), _AT_ONCE):
            some = known[at : at + _AT_ONCE]
            gone = sorted(set(some) - await self._desk.store.unpruned(some))
            await loop.run_in_executor(None, self._remove_runs, gone)
            count += len(gone)
        if count:
            self._log("runs.swept", jobs=count)
        owners = {worktrees.owner(name) for name in await self._workdirs.names()}
        pruned = [record.job.id for record in await self._desk.store.records(sorted(owners)) if record.pruned]
        await self._prune_worktrees(pruned, dry_run=False)

    def _runs_of_jobs(self) -> list[int]:
        with os.scandir(self._runs) as entries:
            return sorted(int(entry.name) for entry in entries if _ID.fullmatch(entry.name))

    async def once(self) -> int:
        """Prune what is past its time now; how many jobs."""
        count, now = 0, self._desk.now()
        while self._finished is not None:
            await self._desk.settled()
            jobs = await self._desk.store.prunable(now - self._finished, [final.value for final in FINAL], _AT_ONCE)
            if not jobs:
                break
            gone, _ = await self._prune(jobs, "retention", command=False)
            count += len(gone)
        if self._history is not None:
            while forgotten := await self._desk.store.forget(now - self._history, _AT_ONCE):
                self._forgotten(forgotten)
                count += len(forgotten)
        if count:
            self._log("retention.pruned", jobs=count)
        return count
