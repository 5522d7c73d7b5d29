"""What two States must have in common to be equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opusd.core.state import State


def shape_of(state: State) -> dict[str, object]:
    """Everything that a rebuild must give again; for tests and for nothing else."""
    return {
        "jobs": state.jobs,
        "keys": state.keys,
        "lanes": {name: list(lane.order) for name, lane in state.lanes.items() if len(lane.order)},
        "running": state.running,
        "dependents": {up: sorted(ids) for up, ids in state.dependents.items()},
        "descendants": {up: sorted(ids) for up, ids in state.descendants.items()},
        "groups": {group: sorted(ids) for group, ids in state.groups.items()},
        "statuses": +state.statuses,
        "tiers": +state.tiers,
        "agents": +state.agents,
        "needs": +state.held_needs,
        "quotas": (+state.accounts.queued, +state.accounts.running),
        "heirs": {job: (heir.tier, heir.since) for job, heir in state.inheritance.known().items()},
        "timers": sorted((at, job.id) for at, job in state.timers.standing()),
        "timeline": state.timeline,
        "pauses": state.pauses.names,
        "cooling": state.cooling,
        "days": state.days,
    }
