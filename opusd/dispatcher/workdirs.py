"""Where attempts work: the job's cwd, or a worktree of it; and which worktrees may go.

A worktree's place is on disk before it is made, so a crash in between neither loses it nor makes a second one. One
that an unfinished job works in is never removed. Git itself runs in threads of its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from opusd.agents.worktree import Place, Tree, WorktreeError
from opusd.threads import started

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opusd.agents.worktree import Worktrees
    from opusd.core.job import Job, Outcome
    from opusd.core.state import State
    from opusd.store.base import Record, Store

T = TypeVar("T")

_THREADS: Final = 16


class Workdirs:
    """`ready` before an attempt is launched; `remove` when its job is finished."""

    def __init__(self, worktrees: Worktrees, state: State, store: Store) -> None:
        self.worktrees = worktrees
        self._state = state
        self._store = store
        self._threads = started(_THREADS, "opusd-git")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def close(self) -> None:
        """What git does is ended."""
        self.worktrees.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ready(self, job: Job, record: Record, keep: Callable[[Outcome], Awaitable[None]]) -> Outcome:
        """The record's outcome with the folder for the attempt under way, which is there when this returns.

        `keep` commits the outcome with a new worktree's place. WorktreeError when there can't be one.
        """
        spec, outcome, name = record.spec, record.outcome, job.tree
        if not spec.worktree:
            return outcome
        async with self._lock(name):
            place = self._planned(name, outcome)
            if place is None:
                place = await self.in_thread(lambda: self.worktrees.plan(name, spec.cwd, spec.title))
                outcome = replace(outcome, workdir=place.workdir, branch=place.branch)
                await keep(outcome)
            found = place
            await self.in_thread(lambda: self.worktrees.make(name, spec.cwd, found))
        return outcome

    def _planned(self, name: str, outcome: Outcome) -> Place | None:
        """The place on record, when it is in the worktree that the job has now: a fresh start has another."""
        if outcome.workdir is None or outcome.branch is None:
            return None
        root = str(self.worktrees.path(name))
        inside = outcome.workdir == root or outcome.workdir.startswith(root + os.sep)
        return Place(workdir=outcome.workdir, branch=outcome.branch) if inside else None

    async def names(self) -> list[str]:
        return await self.in_thread(self.worktrees.names)

    async def look(self, name: str) -> Tree:
        return await self.in_thread(lambda: self.worktrees.look(name))

    async def remove(self, name: str, *, dry_run: bool = False, named: bool = False) -> tuple[Tree, str]:
        """Remove a worktree that nobody works in and that holds no work; how it was, and why it is kept, if it is.

        `named`: a person means this one, though the registry has forgotten its job.
        """
        async with self._lock(name):
            tree = await self.look(name)
            user = await self.user(name, named=named)
            if user is not None:
                return tree, user
            if not dry_run:
                try:
                    tree = await self.in_thread(lambda: self.worktrees.remove(name))
                except WorktreeError as error:
                    return tree, str(error)
            return tree, tree.words

    async def user(self, name: str, *, named: bool = False) -> str | None:
        """Why nobody may take a worktree away now: a job that is unfinished works in it, or may; None: nobody does.

        A chain of escalation works in one worktree, and what its agents submitted may run inside of it.
        """
        number: int | None = int(name.partition("-")[0])
        while number is not None:
            job = self._state.jobs.get(number)
            if job is None:
                records = await self._store.records([number])
                if not records and named:
                    return None
                if not records:
                    return f"job {number} is not in the registry any more"
                job = self._state.jobs.get(number, records[0].job)
            if not job.final and job.tree == name:
                return f"job {number} is {job.status}"
            if self._state.descendants.get(number):
                return (
                    f"job {next(iter(self._state.descendants[number]))}, which job {number} submitted, is not finished"
                )
            number = None if job.extra is None else job.extra.escalated_to
        return None

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _lock(self, name: str) -> asyncio.Lock:
        """One at a time makes or removes a worktree."""
        lock: Any = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock  # type: ignore[no-any-return]
