"""The one order of all queued jobs (contract, section 4).

Score is `base[tier] + boost + rate * waited`, highest first. The rate is the same for all, so the
difference of two scores never changes, and the order is that of a static number: the instant at which
a job with no head start would have to be queued to stand in the same place. Nothing is ever re-scored.
Instants are in steady time (see `timekeeping`), so no jump of the wall's clock puts a later job before an earlier.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from opusd.core.job import Job, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

_HOUR: Final = 3_600_000_000
_CRITICAL: Final = 1 << 61
"""Taken off a critical job's instant: it is then before every other for any clock until the year 73,000."""
_BIAS: Final = 1 << 62
_ID_BITS: Final = 40
_POINT_BITS: Final = 24
_INSTANT_AT: Final = _POINT_BITS + _ID_BITS
_ID_MASK: Final = (1 << _ID_BITS) - 1


class Points(msgspec.Struct, frozen=True):
    """Head starts in points and the rate in points an hour; all whole numbers."""

    low: int = 0
    normal: int = 100
    urgent: int = 200
    rate: int = 25

    def of(self, tier: Tier, boost: int) -> int:
        match tier:
            case Tier.LOW:
                return self.low + boost
            case Tier.NORMAL:
                return self.normal + boost
            case _:
                return self.urgent + boost

    def bound_hours(self) -> float:
        """Nothing that is not critical goes before a job that became ready this many hours earlier."""
        head_starts = (self.low, self.normal, self.urgent)
        return (max(head_starts) - min(head_starts) + 98) / self.rate


class Heir(msgspec.Struct, frozen=True, gc=False):
    """What a job inherits from a blocked job that waits for it. `since` matters for critical alone."""

    tier: Tier
    job: int
    since: int


@lru_cache(maxsize=4096)
def place(tier: Tier, boost: int, points: Points) -> int:
    """The part of a rank key that jobs of one tier and boost share."""
    if tier is Tier.CRITICAL:
        return (_BIAS - _CRITICAL) << _INSTANT_AT
    head_start = points.of(tier, boost)
    points_part = (head_start + (1 << (_POINT_BITS - 1))) << _ID_BITS
    return ((_BIAS - head_start * _HOUR // points.rate) << _INSTANT_AT) + points_part


def key_at(since: int, shared: int, job: int) -> int:
    """The rank key of a job that stands in line since then; `shared` is its `place`.

    Layout, high bits first: instant (63), points (24), id (40). With an equal instant fewer points mean an older
    queued_at.
    """
    return (since << _INSTANT_AT) + shared + job


def rank_key(job: Job, points: Points, heir: Heir | None = None) -> int:
    """The place of a queued job as one integer, smallest first; equal scores: older queued_at, then id."""
    terms, since = job.terms, job.queued_at
    assert since is not None
    tier = terms.tier
    if job.extra is not None:
        tier, since = job.tier, job.ready_since
    if heir is not None and heir.tier > tier:
        tier = heir.tier
        if tier is Tier.CRITICAL:
            since = heir.since
    return key_at(since, place(tier, terms.boost, points), job.id)


def rank_keys(jobs: Iterable[Job], shared: int) -> list[int]:
    """`rank_key` of many queued jobs of one `place` that have no extras and no heir."""
    return [((job.queued_at or 0) << _INSTANT_AT) + shared + job.id for job in jobs]


def job_of(key: int) -> int:
    return key & _ID_MASK


def score(job: Job, points: Points, now: int, heir: Heir | None = None) -> float | None:
    """The contract's score of a queued job at `now` in steady time; None for critical, which has no points."""
    own = job.tier
    tier = own if heir is None or heir.tier < own else heir.tier
    if tier is Tier.CRITICAL or job.queued_at is None:
        return None
    return points.of(tier, job.terms.boost) + points.rate * (now - job.ready_since) / _HOUR
