"""The states of a job and the only table of transitions between them (contract, section 3).

All state logic is here: a change of status anywhere else goes through `advance`. The state diagram in
docs/ is drawn from this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from opusd.core.errors import Conflict


class Status(StrEnum):
    HELD = "held"
    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    NEEDS_INPUT = "needs_input"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Step(StrEnum):
    """What happens to a job; each is a word of the audit trail too (`job.` + its value)."""

    HOLD = "held"
    BLOCK = "blocked"
    SCHEDULE = "scheduled"
    QUEUE = "queued"
    START = "started"
    COMPLETE = "completed"
    FAIL = "failed"
    BACK_OFF = "retrying"
    ASK = "asked"
    LOSE = "lost"
    STOP = "cancelling"
    CANCEL = "cancelled"
    EXPIRE = "expired"


FINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})
ALIVE: Final = frozenset({Status.RUNNING, Status.CANCELLING})
"""An attempt may have processes."""
WAITING: Final = frozenset({Status.HELD, Status.BLOCKED, Status.SCHEDULED, Status.QUEUED})
"""Not started, or put back: where `place` may move a job among."""

_PLACES: Final = {Step.QUEUE: Status.QUEUED, Step.BLOCK: Status.BLOCKED, Step.SCHEDULE: Status.SCHEDULED}

TRANSITIONS: Final[dict[tuple[Status, Step], Status]] = {
    **{(Status.HELD, step): to for step, to in _PLACES.items()},
    (Status.HELD, Step.CANCEL): Status.CANCELLED,
    (Status.BLOCKED, Step.QUEUE): Status.QUEUED,
    (Status.BLOCKED, Step.SCHEDULE): Status.SCHEDULED,
    (Status.BLOCKED, Step.HOLD): Status.HELD,
    (Status.BLOCKED, Step.CANCEL): Status.CANCELLED,
    (Status.SCHEDULED, Step.QUEUE): Status.QUEUED,
    (Status.SCHEDULED, Step.BLOCK): Status.BLOCKED,
    (Status.SCHEDULED, Step.HOLD): Status.HELD,
    (Status.SCHEDULED, Step.CANCEL): Status.CANCELLED,
    (Status.QUEUED, Step.START): Status.RUNNING,
    (Status.QUEUED, Step.BLOCK): Status.BLOCKED,
    (Status.QUEUED, Step.SCHEDULE): Status.SCHEDULED,
    (Status.QUEUED, Step.HOLD): Status.HELD,
    (Status.QUEUED, Step.CANCEL): Status.CANCELLED,
    (Status.QUEUED, Step.EXPIRE): Status.EXPIRED,
    (Status.RUNNING, Step.COMPLETE): Status.COMPLETED,
    (Status.RUNNING, Step.FAIL): Status.FAILED,
    (Status.RUNNING, Step.BACK_OFF): Status.RETRYING,
    (Status.RUNNING, Step.ASK): Status.NEEDS_INPUT,
    (Status.RUNNING, Step.QUEUE): Status.QUEUED,
    (Status.RUNNING, Step.LOSE): Status.QUEUED,
    (Status.RUNNING, Step.STOP): Status.CANCELLING,
    (Status.CANCELLING, Step.CANCEL): Status.CANCELLED,
    (Status.CANCELLING, Step.HOLD): Status.HELD,
    (Status.CANCELLING, Step.COMPLETE): Status.COMPLETED,
    (Status.NEEDS_INPUT, Step.QUEUE): Status.QUEUED,
    (Status.NEEDS_INPUT, Step.CANCEL): Status.CANCELLED,
    (Status.NEEDS_INPUT, Step.EXPIRE): Status.EXPIRED,
    (Status.RETRYING, Step.QUEUE): Status.QUEUED,
    (Status.RETRYING, Step.HOLD): Status.HELD,
    (Status.RETRYING, Step.CANCEL): Status.CANCELLED,
    **{
        (status, step): to
        for status in (Status.FAILED, Status.CANCELLED, Status.EXPIRED)
        for step, to in _PLACES.items()
    },
}


def advance(status: Status, step: Step, job: int | None = None) -> Status:
    """The status after `step`; Conflict when the table has no such transition."""
    try:
        return TRANSITIONS[status, step]
    except KeyError:
        who = "the job" if job is None else f"job {job}"
        message = f"{who} is {status}: it can't become {step}"
        raise Conflict(message, status=str(status)) from None
