"""Who is asking, and what that allows (contract, section 8). Evidence only ever lowers rights."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """The peer of one connection, looked at once when it connected.

    `agent` is true for a job's agent; `job` and `attempt` are then its attempt, or None when the peer
    could not be resolved: an agent without a job, which may only read.
    """

    uid: int = 0
    pid: int = 0
    agent: bool = False
    job: int | None = None
    attempt: int | None = None

    @property
    def actor(self) -> str:
        """The word the audit trail uses for this caller: `user:1000` or `job:41`."""
        return f"job:{self.job}" if self.agent and self.job is not None else "agent" if self.agent else f"user:{self.uid}"
