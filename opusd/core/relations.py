"""Which unfinished jobs belong together: by key, by tree, by group, and by who waits for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opusd.core.dependencies import unsatisfied

if TYPE_CHECKING:
    from collections import deque

    from opusd.core.job import Job

Ids = dict[int, None]
"""A set in the order of entry."""


class Relations:
    """`dependents`, `descendants` and `groups`: the ids of those that wait for a job, descend from it, are of a group.

    `tree_sizes`: how many descend from a root, finished ones too, where that was asked for. `submissions`: when the
    agents of a root's tree submitted, of the last minute.
    """

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.dependents: dict[int, Ids] = {}
        self.descendants: dict[int, Ids] = {}
        self.groups: dict[str, Ids] = {}
        self.tree_sizes: dict[int, int] = {}
        self.submissions: dict[int, deque[int]] = {}

    def add(self, job: Job) -> None:
        """It is there; its edges are a matter of `link`."""
        if job.key is not None:
            self.keys[job.key] = job.id
        for ancestor in job.ancestors:
            self.descendants.setdefault(ancestor, {})[job.id] = None
        if job.terms.group is not None:
            self.groups.setdefault(job.terms.group, {})[job.id] = None

    def remove(self, job: Job) -> None:
        """It is gone, or final."""
        if job.key is not None:
            self.keys.pop(job.key, None)
        for ancestor in job.ancestors:
            _drop(self.descendants, ancestor, job.id)
        if job.terms.group is not None:
            _drop(self.groups, job.terms.group, job.id)

    def link(self, old: Job | None, new: Job | None) -> None:
        """What it waits for has changed."""
        job = new or old
        assert job is not None
        before, after = unsatisfied(old), unsatisfied(new)
        for upstream in before - after:
            _drop(self.dependents, upstream, job.id)
        for upstream in after - before:
            self.dependents.setdefault(upstream, {})[job.id] = None

    def grow(self, job: Job, by: int) -> None:
        """Its tree has so many members more."""
        if job.ancestors and job.root in self.tree_sizes:
            self.tree_sizes[job.root] += by

    def forget_tree(self, root: int) -> None:
        """Nobody of this tree is left to submit more; should one be retried, the registry tells its size again."""
        self.tree_sizes.pop(root, None)
        self.submissions.pop(root, None)


def _drop(index: dict[int, Ids] | dict[str, Ids], name: int | str, job: int) -> None:
    entries: Ids = index[name]  # type: ignore[index]
    entries.pop(job, None)
    if not entries:
        del index[name]  # type: ignore[arg-type]
