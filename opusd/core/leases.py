"""Workers: outside processes that claim jobs of agents without slots, under a lease that is fenced by a token.

A lease that is over is a lost attempt; whoever comes with its token afterwards changes nothing. An attempt that is
being ended is not renewed any more: its worker stops, or its lease runs out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from opusd.core import attempts, scheduler, windows
from opusd.core.errors import LeaseLost
from opusd.core.order import job_of
from opusd.core.ready import COMMON

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.decision import Decision
    from opusd.core.job import Job
    from opusd.core.ready import Signature
    from opusd.core.state import State


class Wanted(msgspec.Struct, frozen=True):
    """Which jobs a claim takes. None: any; `labels`: with at least one of them; `min_tier`: of this tier or above."""

    agents: tuple[str, ...] | None = None
    types: frozenset[str] | None = None
    labels: frozenset[str] | None = None
    group: str | None = None
    min_tier: int = 0


def claim(
    decision: Decision, worker: str, wanted: Wanted, count: int, lease: int, mint: Callable[[], tuple[str, bytes]]
) -> list[Job]:
    """Start up to `count` of the jobs that are wanted, best first, under a lease of so many microseconds."""
    started: list[Job] = []
    while len(started) < count and (job := best(decision.state, wanted, decision.now)) is not None:
        attempt_id, token_hash = mint()
        decision.state.last_start[job.terms.agent] = decision.now
        started.append(
            attempts.start(decision, job, attempt_id=attempt_id, token_hash=token_hash, lease=(worker, lease))
        )
    return started


def best(state: State, wanted: Wanted, now: int) -> Job | None:
    """The first job in the order of dispatch that this claim may take; looks at what became first since it asked."""
    if state.draining or state.pauses.everything():
        return None
    reserved = scheduler.reserve(state, now)

    def lacks(signature: Signature, key: int) -> str | None:
        return scheduler.lacking(state, signature, None if key == reserved else reserved, key)

    found: int | None = None
    for name in claimed_agents(state) if wanted.agents is None else wanted.agents:
        lane = state.lanes.get(name)
        if lane is None or not len(lane.order) or not scheduler.may_start(state, name, now, interactive=True):
            continue
        outside = windows.holds(state, name)
        key = lane.best_of(wanted, partial(_matches, wanted), lacks, interactive_only=outside)
        if key is not None and (found is None or key < found):
            found = key
    return None if found is None else state.jobs[job_of(found)]


def claimed_agents(state: State) -> list[str]:
    """The agents whose jobs workers claim: those without slots in the configuration."""
    return [name for name, agent in state.limits.agents.items() if not agent.slots]


def _matches(wanted: Wanted, signature: Signature) -> bool:
    type_, tier, labels = signature.traits or COMMON
    return (
        (wanted.types is None or type_ in wanted.types)
        and (wanted.labels is None or not wanted.labels.isdisjoint(labels))
        and (wanted.group is None or signature.group == wanted.group)
        and tier >= wanted.min_tier
    )


def holder(state: State, number: int, token_hash: bytes, now: int) -> Job:
    """The job whose running attempt, a worker's or a pushed one, has this token; LeaseLost when its time is over."""
    job = state.jobs.get(number)
    run = None if job is None else job.run
    if job is None or run is None or run.token_hash != token_hash:
        message = (
            f"this token is not that of a running attempt of job {number}: what it does there is not wanted any more"
        )
        raise LeaseLost(message, job=number)
    if run.worker is not None and (run.lease_until is None or run.lease_until <= now):
        message = f"the lease on job {number} is over: somebody else may have it by now"
        raise LeaseLost(message, job=number)
    return job


def renew(decision: Decision, job: Job, lease: int | None) -> Job:
    """A heartbeat: the lease runs anew, for `lease` microseconds or as long as before."""
    run = job.run
    assert run is not None
    if run.worker is None or run.ending is not None:
        return job
    length = run.lease if lease is None else lease
    renewed = replace(run, lease_until=decision.now + length, lease=length)
    return job if renewed == run else decision.renew(job, replace(job, run=renewed))
