"""The roll of workers: who was here since the daemon's start, what they did, and which process holds what.

It is kept in memory alone: a worker that goes on after a restart is entered again by its next heartbeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from opusd.agents.kernel import parent_and_start
from opusd.api.results import WorkerInfo
from opusd.core.times import to_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.core.access import Caller
    from opusd.core.attempts import End
    from opusd.core.job import Change, Job
    from opusd.core.state import State

    Key = tuple[int, int]  # job, attempt

_MOST_SEEN: Final = 10_000


class _Seen(msgspec.Struct):
    agents: tuple[str, ...]
    last_seen: int
    completed: int = 0
    failed: int = 0


class Roll:
    def __init__(self, state: State) -> None:
        self._state = state
        self._seen: dict[str, _Seen] = {}
        self._holders: dict[Key, int] = {}  # the pid of its worker
        self._held: dict[int, dict[Key, int]] = {}  # by pid; with the start of that process

    # --- what they hold -----------------------------------------------------------------------------

    def holds(self, caller: Caller, job: Job) -> None:
        """The process that claims an attempt or sends its heartbeats holds it, unless it is an agent's."""
        current = self._state.running.get(job.id)
        if caller.agent or not caller.start or job.run is None or current is None or current.run is None:
            return
        if current.run.attempt != job.run.attempt:
            return
        key = (job.id, job.run.attempt)
        if self._holders.get(key) != caller.pid:
            self._let_go(key)
            self._holders[key] = caller.pid
        self._held.setdefault(caller.pid, {})[key] = caller.start

    def held_by(self, pid: int) -> list[Key]:
        """The attempts whose worker is this process: what descends from it is their agent."""
        held = self._held.get(pid)
        known = None if held is None else parent_and_start(pid)
        return [] if held is None or known is None else [key for key, start in held.items() if start == known[1]]

    def released(self, changes: Iterable[Change]) -> None:
        """These changes are on disk: whoever held an attempt that is over holds it no longer."""
        if not self._holders:
            return
        for change in changes:
            before = change.before
            if before is not None and before.run is not None and change.after.run is None:
                self._let_go((before.id, before.run.attempt))

    def _let_go(self, key: Key) -> None:
        pid = self._holders.pop(key, None)
        if pid is not None:
            del self._held[pid][key]
            if not self._held[pid]:
                del self._held[pid]

    # --- who they are -------------------------------------------------------------------------------

    def see(self, worker: str, now: int, agents: tuple[str, ...] | None = None) -> None:
        """It is here; of too many workers those are forgotten that were here first."""
        seen = self._seen.pop(worker, None) or _Seen((), 0)
        seen.last_seen = now
        if agents is not None:
            seen.agents = agents
        self._seen[worker] = seen
        if len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]

    def count(self, worker: str, now: int, end: End) -> None:
        """It said how an attempt ended."""
        self.see(worker, now)
        if end.failure is None:
            self._seen[worker].completed += end.question is None
        elif not end.never_ran:
            self._seen[worker].failed += 1

    def call(self, now: int) -> list[WorkerInfo]:
        """All of them by name, and those that hold something and have not been here since the start."""
        held: dict[str, list[int]] = {}
        for job in self._state.running.values():
            if job.run is not None and job.run.worker is not None:
                held.setdefault(job.run.worker, []).append(job.id)
        known = {**{worker: _Seen((), now) for worker in held}, **self._seen}
        return [
            WorkerInfo(
                worker=worker,
                agents=list(seen.agents),
                jobs=sorted(held.get(worker, ())),
                last_seen=to_rfc3339(seen.last_seen),
                completed=seen.completed,
                failed=seen.failed,
            )
            for worker, seen in sorted(known.items())
        ]
