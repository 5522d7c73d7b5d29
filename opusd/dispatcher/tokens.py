"""Names and tokens of attempts: made at random, kept as a hash, dead with the attempt's end (contract, section 8)."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opusd.core.state import State


def mint() -> tuple[str, str, bytes]:
    """(OPUS_ATTEMPT_ID, OPUS_TOKEN, the token's hash) of a new attempt; 128 bits each."""
    bits = secrets.token_hex(32)  # both at once: asking the kernel is what takes the time
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
