"""When a failed attempt is tried again (contract, section 5). The random part of a delay is an argument."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECOND: Final = 1_000_000


class FailureClass(StrEnum):
    AGENT_ERROR = "agent_error"
    RATE_LIMITED = "rate_limited"
    AUTH = "auth"
    CONFIG = "config"
    SPAWN = "spawn"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    OOM = "oom"
    LOST = "lost"
    VERIFY_FAILED = "verify_failed"
    CANCELLED = "cancelled"


RETRIED: Final = frozenset(FailureClass) - {
    FailureClass.AUTH,
    FailureClass.CONFIG,
    FailureClass.CANCELLED,
    FailureClass.RATE_LIMITED,
    FailureClass.LOST,
}
"""The classes that a policy retries unless it says otherwise."""


class Strategy(StrEnum):
    NONE = "none"
    IMMEDIATE = "immediate"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    FIBONACCI = "fibonacci"


class Policy(msgspec.Struct, frozen=True, gc=False):
    """`base` and `cap` are microseconds; `jitter` is the fraction of a delay that may be added before the cap."""

    strategy: Strategy = Strategy.NONE
    base: int = _SECOND
    cap: int = 300 * _SECOND
    jitter: float = 0.1
    max_retries: int = 0
    on: tuple[FailureClass, ...] | None = None  # None: RETRIED


PRESETS: Final = {
    "default": Policy(Strategy.EXPONENTIAL, _SECOND, 300 * _SECOND, 0.1, 3),
    "fast": Policy(Strategy.IMMEDIATE, _SECOND, _SECOND, 0.1, 3),
    "slow": Policy(Strategy.FIBONACCI, 60 * _SECOND, 3600 * _SECOND, 0.1, 5),
    "none": Policy(Strategy.NONE),
}


def with_retries(policy: Policy, max_retries: int | None) -> tuple[Policy, Policy | None]:
    """(what holds, the policy itself where the job has a number of its own): its max_retries beats its policy's."""
    if max_retries is None:
        return policy, None
    strategy = Strategy.EXPONENTIAL if max_retries and policy.strategy is Strategy.NONE else policy.strategy
    return msgspec.structs.replace(policy, strategy=strategy, max_retries=max_retries), policy


def _fibonacci() -> Iterator[int]:
    a, b = 1, 1
    while True:
        yield a
        a, b = b, a + b


def delay(policy: Policy, retry: int, chance: float) -> int:
    """Microseconds before the retry number `retry` (1 is the first); `chance` is uniform in 0..1."""
    return min(int(policy.base * _units(policy.strategy, retry) * (1 + policy.jitter * chance)), policy.cap)


def _units(strategy: Strategy, retry: int) -> int:
    match strategy:
        case Strategy.NONE | Strategy.IMMEDIATE:
            return 0
        case Strategy.LINEAR:
            return retry
        case Strategy.EXPONENTIAL:
            return 1 << min(retry - 1, 62)
        case Strategy.FIBONACCI:
            return next(islice(_fibonacci(), min(retry - 1, 90), None))
        case _ as never:
            assert_never(never)


def retries(policy: Policy, failure: FailureClass, spent: int) -> bool:
    """Whether a failure of this class is tried again after `spent` retries."""
    allowed = RETRIED if policy.on is None else policy.on
    return policy.strategy is not Strategy.NONE and failure in allowed and spent < policy.max_retries
