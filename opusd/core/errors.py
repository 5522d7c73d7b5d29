"""Every refusal a caller can meet: its code on the wire, its stable word, and what to do next.

The codes and words are the contract's (section 7). A module that refuses something raises one of
these; nothing else crosses the socket as an error, except the protocol's own -32700 to -32603.
"""

from __future__ import annotations

from typing import ClassVar


class OpusError(Exception):
    """A refusal: `message` says what is wrong and what to do; `data` is added to the error's data object."""

    code: ClassVar[int] = -32603
    name: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def as_data(self) -> dict[str, object]:
        """The error's `data` object: the stable word, whether trying again may help, and the particulars."""
        return {"code": self.name, "retryable": self.retryable, **self.data}


class ParseError(OpusError):
    code = -32700
    name = "parse_error"


class InvalidRequest(OpusError):
    code = -32600
    name = "invalid_request"


class MethodNotFound(OpusError):
    code = -32601
    name = "method_not_found"


class InvalidParams(OpusError):
    """`data.path` names the bad field, such as `$.jobs[3].boost`."""

    code = -32602
    name = "invalid_params"


class InternalError(OpusError):
    pass


class RequestCancelled(OpusError):
    code = -32800
    name = "cancelled"


class NotFound(OpusError):
    code = -32001
    name = "not_found"


class Conflict(OpusError):
    code = -32002
    name = "conflict"


class Escalated(Conflict):
    """`link` carries on for the job, or another that carries on for it: retry or cancel the last."""

    def __init__(self, job: int, link: int) -> None:
        super().__init__(f"job {job} was escalated: job {link} carries on, retry or cancel that one", escalated_to=link)
        self.job = job
        self.link = link


class QueueFull(OpusError):
    """`data`: queued, max_queued, retry_after (seconds)."""

    code = -32003
    name = "queue_full"
    retryable = True


class QuotaExceeded(OpusError):
    """`data`: quota, limit, retry_after (seconds or null)."""

    code = -32004
    name = "quota_exceeded"
    retryable = True


class Forbidden(OpusError):
    code = -32005
    name = "forbidden"


class DependencyError(OpusError):
    """`data.cycle` lists the ids or keys of a cycle."""

    code = -32006
    name = "dependency_error"


class LeaseLost(OpusError):
    code = -32007
    name = "lease_lost"


class ShuttingDown(OpusError):
    code = -32008
    name = "shutting_down"
    retryable = True


class StorageUnavailable(OpusError):
    code = -32009
    name = "storage_unavailable"
    retryable = True
