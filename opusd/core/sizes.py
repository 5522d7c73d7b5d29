"""How much the pool and each agent hold: as it is configured, unless a person has said otherwise.

A size that a person set is kept, and holds as long as the configured one is what it was then. An agent of which
nothing can be started has no slots, whatever was set.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict

from opusd.core.errors import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opusd.core.decision import Decision
    from opusd.core.limits import Limits
    from opusd.core.state import State

_POOL: Final = "pool"
_SLOTS: Final = "slots:"


class Size(msgspec.Struct, frozen=True):
    """What a person set, and what was configured then."""

    value: int
    configured: int


def restore(state: State, kept: Mapping[str, Any]) -> None:
    """From the settings of the registry."""
    names = [name for name in kept if name == _POOL or name.startswith(_SLOTS)]
    state.sized = {name: msgspec.convert(kept[name], Size) for name in names}
    settle(state)


def settle(state: State) -> None:
    """The sizes that hold, of what is configured and what people set."""

    def size(name: str, configured: int) -> int:
        found = state.sized.get(name)
        return configured if found is None or holding.get(name) != found.configured else found.value

    limits, holding = state.limits, _configured(state.limits)
    state.max_concurrent = size(_POOL, limits.max_concurrent)
    state.slots = {name: size(_SLOTS + name, agent.slots) for name, agent in limits.agents.items()}


def _configured(limits: Limits) -> dict[str, int]:
    """The sizes that a person may change, as they are configured."""
    slots = {_SLOTS + name: agent.slots for name, agent in limits.agents.items() if agent.starts}
    return {_POOL: limits.max_concurrent, **slots}


def resize(decision: Decision, max_concurrent: int | None, agent: str | None) -> None:
    """`max_concurrent` of the pool, or of one agent's slots; nothing that runs is ended."""
    limits = decision.state.limits
    if max_concurrent is None:
        return
    if agent is None:
        _keep(decision, _POOL, Size(max_concurrent, limits.max_concurrent))
    else:
        if agent not in limits.agents:
            message = f"agent {agent!r} is not configured; there are: {', '.join(sorted(limits.agents))}"
            raise InvalidParams(message, path="$.agent")
        if not limits.agents[agent].starts:
            message = f"workers claim the jobs of agent {agent}, and it has no argv: opusd starts nothing of it"
            raise InvalidParams(message, path="$.agent")
        _keep(decision, _SLOTS + agent, Size(max_concurrent, limits.agents[agent].slots))
    decision.note("pool.resized", detail={"max_concurrent": max_concurrent, **({"agent": agent} if agent else {})})


def forget(decision: Decision) -> None:
    """Another size is configured than the one that a person changed: that does not come back when it is again."""
    configured = _configured(decision.state.limits)
    for name, size in list(decision.state.sized.items()):
        if configured.get(name) != size.configured:
            _keep(decision, name, None)


def _keep(decision: Decision, name: str, size: Size | None) -> None:
    state = decision.state
    old = state.sized.get(name)
    _set(state, name, size)
    decision.keep(name, None if size is None else asdict(size), partial(_set, state, name, old))


def _set(state: State, name: str, size: Size | None) -> None:
    if size is None:
        state.sized.pop(name, None)
    else:
        state.sized[name] = size
    settle(state)
