"""What was measured, and what was promised of it. No measuring here."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """opusd's figure is at least (at most, where less is better) `ratio` times that of `peers`, the best of them."""

    ratio: float
    peers: tuple[str, ...]
    name: str = ""
    row: str = ""  # the peers' figures are those of another row


@dataclass
class Row:
    """One line of the table: a sample a round of each subject, by its name."""

    key: str
    title: str
    unit: str
    targets: tuple[Target, ...] = ()
    more_is_better: bool = True
    part: str = ""  # the heading that it stands under; none: among the queues
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, subject: str, sample: float) -> None:
        self.samples.setdefault(subject, []).append(sample)

    def median(self, subject: str) -> float:
        return statistics.median(self.samples[subject])


@dataclass(frozen=True)
class Verdict:
    row: Row
    target: Target
    best: str  # the peer whose figure decides
    ratio: float
    met: bool
    bare: float | None  # what the bare queue has of the same figure


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """One for each target of which both sides were measured."""
    by_key = {row.key: row for row in rows}
    found = []
    for row in rows:
        for target in row.targets:
            beside = by_key.get(target.row or row.key, row)
            peers = [name for name in target.peers if name in beside.samples]
            if not peers or "opusd" not in row.samples:
                continue
            best = (max if row.more_is_better else min)(peers, key=beside.median)
            ratio = _ratio(row.samples["opusd"], beside.samples[best])
            met = ratio >= target.ratio if row.more_is_better else ratio <= target.ratio
            bare = _ratio(row.samples["bare"], beside.samples[best]) if "bare" in row.samples else None
            found.append(Verdict(row, target, best, ratio, met, bare))
    return found


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The rounds were measured beside each other: the median of their ratios is what noise moves least."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=False))


def unmeasured(rows: Sequence[Row]) -> list[str]:
    """The targets that nothing is known of, in words."""
    by_key = {row.key: row for row in rows}
    return [
        f"{row.title}: {target.ratio:g}x {' / '.join(target.peers)}"
        for row in rows
        for target in row.targets
        if "opusd" not in row.samples or not set(target.peers) & set(by_key[target.row or row.key].samples)
    ]
