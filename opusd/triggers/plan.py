"""The record of a schedule, and which of its firings are owed a job. Pure: `now` is an argument.

A firing is a moment of the calendar. It is due when that has come; one that comes due while nobody looks (the daemon
was down, the machine was suspended) is a misfire, and the schedule says what becomes of those. `through` is the last
moment that was looked at, `owed` are firings that are to make a job and have not yet.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from opusd.core.times import HOUR, MINUTE, SECOND, to_rfc3339

MOST: Final = 100
"""Of missed firings that are all made up for, the newest so many."""
LATE: Final = MINUTE
"""A firing that is seen later than this was missed."""
BACK: Final = 3 * HOUR
"""After a clock was set back by more than this all begins anew, as in Debian's cron; else it waits for the old time."""


class Calendar(Protocol):
    def after(self, moment: int) -> int | None: ...
    def recent(self, after: int, until: int, most: int) -> tuple[list[int], bool]: ...


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, and how far it has come. Moments are microseconds.

    `job` is the JobSpec as it was sent. `jobs` are those of its jobs that an overlap is judged by.
    """

    name: str
    cron: str
    timezone: str | None
    misfire: str
    overlap: str
    job: dict[str, Any]
    through: int
    paused: bool = False
    owed: tuple[int, ...] = ()
    last_at: int | None = None
    last_job: int | None = None
    last_error: str | None = None
    jobs: tuple[int, ...] = ()

    @property
    def actor(self) -> str:
        """Who submits its jobs."""
        return f"schedule:{self.name}"

    def key(self, firing: int) -> str:
        """The idempotency key of a firing: it makes one job, whatever happens."""
        return f"{self.actor}:{to_rfc3339(firing - firing % SECOND)[:19]}Z"


class Looked(msgspec.Struct, frozen=True):
    """The schedule after a look; `lost` tells whether firings came due that no job is made for."""

    schedule: Schedule
    lost: bool = False


def look(schedule: Schedule, calendar: Calendar, now: int) -> Looked:
    """What is owed at `now`."""
    if schedule.paused:
        return Looked(schedule)
    if set_back(schedule, now):
        return Looked(replace(schedule, through=now))
    every = schedule.misfire == "all"
    found, more = calendar.recent(schedule.through, now, MOST if every else 1)
    if not found:
        return Looked(schedule)
    newest = found[-1]
    if every:
        owed = (*schedule.owed, *found)
        return Looked(replace(schedule, through=newest, owed=owed[-MOST:]), lost=more or len(owed) > MOST)
    if schedule.misfire == "skip" and now - newest > LATE:
        return Looked(replace(schedule, through=newest), lost=True)
    return Looked(replace(schedule, through=newest, owed=(newest,)), lost=more or bool(schedule.owed))


def set_back(schedule: Schedule, now: int) -> bool:
    """Whether the clock was set back so far that the schedule begins anew."""
    return schedule.through > now + BACK


def next_at(schedule: Schedule, calendar: Calendar) -> int | None:
    """The firing that comes next: one that is owed, or the next moment of the calendar."""
    if schedule.paused:
        return None
    return schedule.owed[0] if schedule.owed else calendar.after(schedule.through)
