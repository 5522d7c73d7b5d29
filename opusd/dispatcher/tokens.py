"""Names and tokens of attempts: made at random, kept as a hash, dead with the attempt's end (contract, section 8)."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opusd.core.state import State


_DRAWN: Final = 64
_drawn: list[str] = []
"""The digits of the next attempts. To ask the kernel hands the interpreter to another thread, so it is asked seldom."""


def mint() -> tuple[str, str, bytes]:
    """(OPUS_ATTEMPT_ID, OPUS_TOKEN, the token's hash) of a new attempt; 128 bits each."""
    if not _drawn:
        digits = secrets.token_hex(32 * _DRAWN)
        _drawn.extend(digits[at : at + 64] for at in range(0, len(digits), 64))
    bits = _drawn.pop()
    attempt_id, token = bits[:32], bits[32:]
    return attempt_id, token, hash_token(token)


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Attempts:
    """The running attempts by what their processes know of them: (job, attempt), or None."""

    def __init__(self, state: State) -> None:
        self._state = state

    def by_id(self, attempt_id: str) -> tuple[int, int] | None:
        return next((key for key, run_id, _ in self._alive() if run_id == attempt_id), None)

    def by_token(self, token: str) -> tuple[int, int] | None:
        hashed = hash_token(token)
        return next((key for key, _, kept in self._alive() if secrets.compare_digest(kept, hashed)), None)

    def _alive(self) -> list[tuple[tuple[int, int], str, bytes]]:
        runs = ((job.id, job.run) for job in self._state.running.values())
        return [((number, run.attempt), run.attempt_id, run.token_hash) for number, run in runs if run is not None]
