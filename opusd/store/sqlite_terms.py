"""Terms to columns and back: encoded once, and decoded once, however many jobs share them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from opusd.core.job import Source, Terms, Tier, intern
from opusd.core.retry import FailureClass, Policy, Strategy

TERMS_COLUMNS: Final = "tier, boost, agent, type, source, grp, terms"
_CACHED: Final = 100_000
_decoded: dict[str, Terms] = {}
_encoded: dict[int, tuple[Terms, tuple[Any, ...]]] = {}


class _Retry(msgspec.Struct, array_like=True):
    strategy: Strategy
    base: int
    cap: int
    jitter: float
    max_retries: int
    on: tuple[FailureClass, ...] | None


class _Terms(msgspec.Struct, array_like=True):
    """The column `terms`: all of them; new fields come last, with a default."""

    tier: Tier
    boost: int
    agent: str
    type: str
    source: Source
    group: str | None
    interactive: bool
    needs: tuple[tuple[str, int], ...]
    timeout: int | None
    expires_in: int | None
    retry: _Retry
    route: str | None
    submitted_by: str
    labels: tuple[str, ...] = ()
    policy: _Retry | None = None


_decode = msgspec.json.Decoder(_Terms).decode


def terms_row(terms: Terms) -> tuple[Any, ...]:
    """TERMS_COLUMNS; looked up by identity, for hashing Terms costs as much as encoding them."""
    cached = _encoded.get(id(terms))
    if cached is not None and cached[0] is terms:
        return cached[1]
    everything = _Terms(
        terms.tier,
        terms.boost,
        terms.agent,
        terms.type,
        terms.source,
        terms.group,
        terms.interactive,
        terms.needs,
        terms.timeout,
        terms.expires_in,
        _retry(terms.retry),
        terms.route,
        terms.submitted_by,
        terms.labels,
        None if terms.policy is None else _retry(terms.policy),
    )
    row = (
        terms.tier._value_,
        terms.boost,
        terms.agent,
        terms.type,
        terms.source._value_,
        terms.group,
        msgspec.json.encode(everything).decode(),
    )
    if len(_encoded) >= _CACHED:
        _encoded.clear()
    _encoded[id(terms)] = (terms, row)
    return row


def _retry(policy: Policy) -> _Retry:
    return _Retry(policy.strategy, policy.base, policy.cap, policy.jitter, policy.max_retries, policy.on)


def _policy(retry: _Retry) -> Policy:
    return Policy(retry.strategy, retry.base, retry.cap, retry.jitter, retry.max_retries, retry.on)


def terms_from(text: str) -> Terms:
    """Those of the column `terms`."""
    return _decoded.get(text) or _decode_new(text)


def _decode_new(text: str) -> Terms:
    everything = _decode(text)
    terms = intern(
        Terms(
            tier=everything.tier,
            boost=everything.boost,
            agent=everything.agent,
            type=everything.type,
            source=everything.source,
            group=everything.group,
            interactive=everything.interactive,
            needs=everything.needs,
            timeout=everything.timeout,
            expires_in=everything.expires_in,
            retry=_policy(everything.retry),
            policy=None if everything.policy is None else _policy(everything.policy),
            route=everything.route,
            submitted_by=everything.submitted_by,
            labels=everything.labels,
        )
    )
    if len(_decoded) >= _CACHED:
        _decoded.clear()
    _decoded[text] = terms
    return terms
