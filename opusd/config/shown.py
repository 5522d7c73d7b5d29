"""What `opusctl config` shows of the configuration: the numbers that people ask about, and none of the programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

if TYPE_CHECKING:
    from opusd.config import Config


def shown(config: Config, max_concurrent: int) -> dict[str, Any]:
    """`max_concurrent` as it is now: people resize the pool. What is not limited is left out of the tables."""
    return {
        "bound_hours": round(config.longest_wait_hours(), 2),
        "max_concurrent": max_concurrent,
        "interactive_slots": config.interactive_slots,
        "max_queued": config.max_queued,
        "max_depth": config.max_depth,
        "max_children": config.max_children,
        "max_submissions_per_minute": config.max_submissions_per_minute,
        "min_free_memory": config.min_free_memory or "off",
        "min_free_disk": config.min_free_disk or "off",
        "default_agent": config.default_agent,
        "agents": sorted(config.agents),
        "windows": {name: str(window) for name, window in config.hours.items()},
        "notifications": [sink.name for sink in config.notifications],
        "routes": [route.name for route in config.routes],
        "budgets": {name: found for name, agent in config.agents.items() if (found := _given(asdict(agent.budget)))},
        "resources": config.resources,
        "quotas": _given(msgspec.to_builtins(config.quotas)),
        "groups": {name: _given(msgspec.to_builtins(group)) for name, group in config.groups.items()},
    }


def _given(table: dict[str, Any]) -> dict[str, Any]:
    found = {name: _given(value) if isinstance(value, dict) else value for name, value in table.items()}
    return {name: value for name, value in found.items() if value not in (None, {})}
