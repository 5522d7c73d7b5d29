"""What callers and routes may write for a priority, as a tier and a boost (contract, section 2)."""

from __future__ import annotations

from typing import Final

from opusd.core.job import Tier

_WORDS: Final = {
    "low": Tier.LOW,
    "normal": Tier.NORMAL,
    "urgent": Tier.URGENT,
    "high": Tier.URGENT,
    "critical": Tier.CRITICAL,
}
_LEVELS: Final = (
    *((Tier.LOW, boost) for boost in (-16, 0, 16)),
    *((Tier.NORMAL, boost) for boost in (-16, 0, 16)),
    *((Tier.URGENT, boost) for boost in (-16, 0, 16, 32)),
)


def parse_priority(value: str | int) -> tuple[Tier, int]:
    """A tier's name, or 1 to 10; ValueError for anything else."""
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value], 0
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= len(_LEVELS):
        return _LEVELS[value - 1]
    raise ValueError(f"a priority is one of {', '.join(_WORDS)}, or 1 to {len(_LEVELS)}; not {str(value)[:40]!r}")
