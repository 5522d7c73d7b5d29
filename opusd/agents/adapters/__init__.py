"""One adapter an agent program: its stream as it comes into progress, usage and session, and at its end a verdict.

Pure: no I/O, no clock, no event loop. Chosen by `output = "claude"` in the configuration of an agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, tzinfo
from types import MappingProxyType
from typing import Final

from opusd.agents.adapters.aider import Aider
from opusd.agents.adapters.base import Adapter, Measures, Usage
from opusd.agents.adapters.claude import Claude
from opusd.agents.adapters.codex import Codex
from opusd.agents.adapters.opencode import OpenCode
from opusd.agents.adapters.text import Text

MEASURES: Final[Mapping[str, Measures]] = MappingProxyType(
    {
        "text": Measures(tokens=False, cost=False),
        "claude": Measures(tokens=True, cost=True),
        "codex": Measures(tokens=True, cost=False),
        "opencode": Measures(tokens=True, cost=True),
        "aider": Measures(tokens=True, cost=True),
    }
)
"""Every adapter's name, and which budgets it can measure."""


def adapter(name: str, zone: tzinfo = UTC, before: Usage | None = None) -> Adapter:
    """A new adapter for one attempt.

    `zone` is the one that the agent's clock times without a zone are in. `before` is what earlier attempts used in
    the session that this one resumes: Codex counts a whole session, and only what is new is this attempt's.
    """
    match name:
        case "text":
            return Text()
        case "claude":
            return Claude(zone)
        case "codex":
            return Codex(zone, before)
        case "opencode":
            return OpenCode(zone)
        case "aider":
            return Aider(zone)
        case _:
            raise ValueError(f"there is no output adapter {name!r}; there are {', '.join(MEASURES)}")
