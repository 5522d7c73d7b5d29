"""When a running attempt last gave a sign of life, and which have been silent for too long.

In memory alone, on the monotonic clock: time that the machine slept, or the daemon was not there, is no silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opusd.core.lifecycle import Status

if TYPE_CHECKING:
    from opusd.agents.attempt import Key
    from opusd.core.job import Job
    from opusd.core.state import State


class Liveness:
    """Times are seconds of the monotonic clock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._heard: dict[Key, float] = {}

    def heard(self, key: Key, now: float) -> None:
        """It began, printed something, or sent a heartbeat."""
        self._heard[key] = now

    def counts(self, key: Key) -> bool:
        """Whether this attempt may be too long silent, so that there is a moment to wake at."""
        job = self._state.jobs.get(key[0])
        agent = None if job is None else self._state.limits.agents.get(job.terms.agent)
        return agent is not None and agent.stall_after is not None

    def forget(self, key: Key) -> None:
        self._heard.pop(key, None)

    def look(self, now: float) -> tuple[list[Job], float | None]:
        """The jobs whose attempts are stalled, and in how many seconds the next one would be."""
        stalled: list[Job] = []
        soonest: float | None = None
        for number, attempt in list(self._heard):
            job = self._state.jobs.get(number)
            if job is None or job.run is None or job.run.attempt != attempt:
                self.forget((number, attempt))
                continue
            agent = self._state.limits.agents.get(job.terms.agent)
            if agent is None or agent.stall_after is None or job.status is not Status.RUNNING or job.run.ending:
                continue
            if job.run.worker is not None:  # its lease tells
                continue
            if number in self._state.lent:  # it waits for its own children
                self.heard((number, attempt), now)
            left = self._heard[number, attempt] + agent.stall_after / 1e6 - now
            if left <= 0:
                stalled.append(job)
            elif soonest is None or left < soonest:
                soonest = left
        return stalled, soonest
