"""The verbs about worktrees: which there are, and removing those that hold no work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opusd.api import results
from opusd.core.access import require_person
from opusd.core.times import to_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opusd.agents.worktree import Tree
    from opusd.api import params as p
    from opusd.dispatcher.desk import Desk, Ref, Session
    from opusd.dispatcher.workdirs import Workdirs
    from opusd.store.base import Store


class WorktreeVerbs:
    def __init__(self, desk: Desk, workdirs: Workdirs) -> None:
        self._desk = desk
        self._workdirs = workdirs

    async def worktree_list(self, session: Session, params: p.WorktreeList) -> results.Worktrees:
        del session
        names = await self._named(params.ids)
        await self._desk.settled()
        return results.Worktrees(worktrees=await prune(self._workdirs, self._desk.store, names, dry_run=True))

    async def worktree_prune(self, session: Session, params: p.WorktreePrune) -> results.PrunedWorktrees:
        require_person(session.caller, "pruning worktrees")
        async with session.turn:
            names = await self._named(params.ids)
            await self._desk.settled()
            found = await prune(
                self._workdirs, self._desk.store, names, dry_run=params.dry_run, named=params.ids is not None
            )
        return results.PrunedWorktrees(
            removed=[one for one in found if one.kept is None],
            kept=[one for one in found if one.kept is not None],
            dry_run=params.dry_run,
        )

    async def _named(self, refs: Sequence[Ref] | None) -> list[str]:
        """The worktrees of these jobs, or all; NotFound for what is neither a job nor was one with a worktree."""
        names = await self._workdirs.names()
        if refs is None:
            return names
        owners = {owner(name) for name in names}
        jobs = [
            ref if ref in owners and isinstance(ref, int) else await self._desk.find(ref, path="$.ids") for ref in refs
        ]
        return await of_jobs(self._desk.store, names, jobs)


def owner(name: str) -> int:
    """The job that a worktree was made for."""
    return int(name.partition("-")[0])


async def of_jobs(store: Store, names: Sequence[str], jobs: Iterable[int]) -> list[str]:
    """Those of the names in which one of the jobs works or has worked."""
    wanted = set(jobs)
    if not names or not wanted:
        return []
    trees = {record.job.tree for record in await store.records(sorted(wanted))}
    return [name for name in names if owner(name) in wanted or name in trees]


async def prune(
    workdirs: Workdirs, store: Store, names: Sequence[str], *, dry_run: bool, named: bool = False
) -> list[results.WorktreeInfo]:
    """How each of them was, and why it is kept; the others are removed, unless it is a dry run."""
    looked = await asyncio.gather(*(workdirs.remove(name, dry_run=dry_run, named=named) for name in names))
    records = await store.records(sorted({owner(name) for name in names}))
    statuses = {record.job.id: record.job.status.value for record in records}
    return [_info(tree, statuses.get(owner(tree.name)), kept) for tree, kept in looked]


def _info(tree: Tree, status: str | None, kept: str) -> results.WorktreeInfo:
    return results.WorktreeInfo(
        job=owner(tree.name),
        status=status,
        path=tree.path,
        branch=tree.branch,
        repository=tree.repository,
        state=tree.state,
        changes=tree.changes,
        ahead=tree.ahead,
        created_at=to_rfc3339(tree.made_at) if tree.made_at else None,
        kept=kept or None,
    )
