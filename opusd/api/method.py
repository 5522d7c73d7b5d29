"""What a method is: the table of them (`opusd.api.methods`) declares each once."""

from __future__ import annotations

from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from opusd.core.errors import OpusError

PROTOCOL: Final = 1
"""The version of the protocol; `system.hello` refuses a client that does not speak it."""

P = TypeVar("P")
R = TypeVar("R")


class Method(msgspec.Struct, Generic[P, R], frozen=True):
    """`name` with one struct of parameters and one result.

    kind: "read" changes nothing; "write" changes the registry or the daemon and is never cut short;
    "stream" lives as long as its connection. A `waits` call may be cancelled while it waits.
    `group_result` is what comes when a group was named instead of one job.
    """

    name: str
    params: type[P]
    result: type[R]
    doc: str
    kind: Literal["read", "write", "stream"] = "read"
    errors: tuple[type[OpusError], ...] = ()
    waits: bool = False
    since: str = "0.1"
    group_result: type[Any] | None = None

    @property
    def verb(self) -> str:
        """The name of the coroutine that answers it: `job_submit`."""
        return self.name.replace(".", "_")
