"""The calendars of schedules, and the next moment of each: read once, for all are looked at whenever one is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opusd.config.hours import named_zone
from opusd.core.errors import InvalidParams
from opusd.triggers.calendar import Calendar
from opusd.triggers.plan import Schedule, next_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo


class Almanac:
    """`local` gives the zone of the machine, for schedules that name none."""

    def __init__(self, *, local: Callable[[], tuple[tzinfo, str]], log: Callable[..., None]) -> None:
        self._local = local
        self._log = log
        self._calendars: dict[tuple[str, str | None], Calendar | str] = {}  # or why there is none
        self._moments: dict[str, tuple[Schedule, int | None]] = {}

    def clear(self) -> None:
        """Read everything again: the zone of the machine may be another."""
        self._calendars.clear()
        self._moments.clear()

    def keep(self, schedules: dict[str, Schedule]) -> None:
        """Forget what none of these needs."""
        needed = {(schedule.cron, schedule.timezone) for schedule in schedules.values()}
        self._calendars = {asked: calendar for asked, calendar in self._calendars.items() if asked in needed}
        self._moments = {name: moment for name, moment in self._moments.items() if name in schedules}

    def read(self, cron: str, timezone: str | None, now: int) -> Calendar:
        """InvalidParams for what is no expression or no zone, or never comes."""
        if timezone is None:
            zone = self._local()[0]
        else:
            try:
                zone = named_zone(timezone)
            except ValueError as error:
                raise InvalidParams(f"$.timezone: {error}", path="$.timezone") from None
        try:
            return Calendar(cron, zone, now)
        except ValueError as error:
            raise InvalidParams(f"$.cron: {error}", path="$.cron") from None

    def calendar(self, schedule: Schedule) -> Calendar | None:
        """None for one that this machine can't read: its zone is gone, say."""
        found = self._found(schedule)
        return None if isinstance(found, str) else found

    def problem(self, schedule: Schedule) -> str | None:
        """Why it has no calendar."""
        found = self._found(schedule)
        return found if isinstance(found, str) else None

    def _found(self, schedule: Schedule) -> Calendar | str:
        asked = (schedule.cron, schedule.timezone)
        if asked not in self._calendars:
            try:
                self._calendars[asked] = self.read(*asked, schedule.through)
            except InvalidParams as error:
                self._calendars[asked] = error.message
                self._log("schedule.unreadable", level="error", schedule=schedule.name, message=error.message)
        return self._calendars[asked]

    def next_at(self, schedule: Schedule) -> int | None:
        """The firing that comes next, or is owed; None when there is none."""
        known, moment = self._moments.get(schedule.name, (None, None))
        if known is not schedule:
            calendar = self.calendar(schedule)
            moment = None if calendar is None else next_at(schedule, calendar)
            self._moments[schedule.name] = (schedule, moment)
        return moment
