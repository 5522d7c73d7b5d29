"""Windows of the day in the configuration: "22:00-06:00", "mon-fri 22:00-06:00, sat,sun 00:00-24:00", with a zone.

A window is a stretch between two times on the wall's clock. Where that clock leaps forward over one of its ends, the
end is the moment of the leap; where it shows an end twice, a window begins at the first and ends at the second.
"""

from __future__ import annotations

import difflib
import os
import re
import zoneinfo
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final

import msgspec

from opusd.core.times import SECOND

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PART: Final = re.compile(
    r"(?:([a-z]{3})(?:\s*-\s*([a-z]{3}))?)?\s*(?:(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2}))?", re.ASCII
)
_DAY: Final = 24 * 60
_AHEAD: Final = 15
"""Days within which every window opens: once a week, and the leap of a clock may swallow one."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EXAMPLE: Final = "22:00-06:00 or mon-fri 22:00-06:00, sat,sun 00:00-24:00"


class Span(msgspec.Struct, frozen=True):
    """On the days (0 is Monday) on which it begins; minutes from that day's midnight, `end` perhaps of the next day."""

    days: tuple[int, ...]
    begin: int
    end: int


class Window(msgspec.Struct, frozen=True):
    """Hours of an agent or a group: the core's `Hours`."""

    spans: tuple[Span, ...]
    zone: tzinfo
    words: str

    def __str__(self) -> str:
        return self.words

    def at(self, now: int) -> tuple[bool, int]:
        """Whether it is open at `now`, and when to ask again; when it is shut that is when it opens."""
        today = datetime.fromtimestamp(now // SECOND, self.zone).date()
        begin = end = None
        for opens, shuts in self._stretches(today):
            if end is not None and opens > end:
                break
            if shuts > now:
                begin = opens if begin is None else begin
                end = max(shuts, end or shuts)
        if begin is None or end is None:
            return False, instant(today + timedelta(days=_AHEAD), 0, self.zone)
        return (False, begin) if now < begin else (True, end)

    def _stretches(self, today: date) -> list[tuple[int, int]]:
        found = []
        for ahead in range(-1, _AHEAD):
            day = today + timedelta(days=ahead)
            for span in self.spans:
                if day.weekday() in span.days:
                    opens = instant(day, span.begin, self.zone)
                    shuts = instant(day, span.end, self.zone, last=True)
                    found.append((opens, shuts))
        return sorted((opens, shuts) for opens, shuts in found if opens < shuts)


class Days(msgspec.Struct, frozen=True):
    """The days of a zone, each from midnight to midnight: the core's `Days`."""

    zone: tzinfo

    def end(self, now: int) -> int:
        """The next midnight, later than `now`."""
        today = datetime.fromtimestamp(now // SECOND, self.zone).date()
        moments = (instant(today + timedelta(days=ahead), 0, self.zone) for ahead in (1, 2))
        return next(moment for moment in moments if moment > now)


def parse_window(text: str, zone: tzinfo, zone_name: str) -> Window:
    """ValueError says what is wrong with the text."""
    spans: list[Span] = []
    days: list[int] = []
    for part in text.lower().split(","):
        matched = _PART.fullmatch(part.strip())
        if matched is None or not part.strip():
            raise ValueError(f"{part.strip()!r} is no window such as {_EXAMPLE}")
        first, last, *times = matched.groups()
        days += _days(first, last)
        if times[0] is None:
            continue
        begin, end = _minutes(times[0], times[1]), _minutes(times[2], times[3])
        if begin in (end, _DAY):
            raise ValueError(f"{part.strip()!r} is no stretch of time; 00:00-24:00 is the whole day")
        spans.append(Span(tuple(sorted(set(days))) or tuple(range(7)), begin, end if end > begin else end + _DAY))
        days = []
    if days:
        raise ValueError(f"{text!r} ends with days that have no times, unlike {_EXAMPLE}")
    return Window(tuple(spans), zone, f"{text} {zone_name}")


def _days(first: str | None, last: str | None) -> list[int]:
    if first is None:
        return []
    for name in (first, last or first):
        if name not in _DAYS:
            raise ValueError(f"{name!r} is not one of {', '.join(_DAYS)}")
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return [day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1)]


def _minutes(hours: str, minutes: str) -> int:
    found = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or found > _DAY:
        raise ValueError(f"{hours}:{minutes} is no time of the day")
    return found


def instant(day: date, minutes: int, zone: tzinfo, *, last: bool = False) -> int:
    """The microseconds at which the wall's clock shows a time; of two such moments the first, or the `last`."""
    wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001 - the wall's
    moment = wall.replace(tzinfo=zone, fold=int(last)).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return _micros(moment)
    # The clock leaps over this time: read with the offset after the leap it is before the leap, and the reverse.
    before, after = sorted(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return _micros(after.replace(microsecond=0))


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def named_zone(name: str) -> tzinfo:
    """ValueError for a name that the machine's database of zones does not have."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ", such as Europe/Berlin"
        raise ValueError(f"{name!r} is no time zone{hint}") from None


def local_zone(root: Path = Path("/")) -> tuple[tzinfo, str]:
    """The zone of this machine with its rules, and what to call it: $TZ, else /etc/localtime, else UTC."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if name and not name.startswith("/"):
        try:
            return named_zone(name), name
        except ValueError:
            pass  # rules in place, such as CET-1CEST, which nobody writes by hand
    path = Path(name) if name.startswith("/") else root / "etc/localtime"
    try:
        real = str(path.resolve(strict=True))
        with path.open("rb") as file:
            zone = zoneinfo.ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC, "UTC"
    _, found, inside = real.partition("/zoneinfo/")
    return zone, inside.removeprefix("posix/") if found else "local time"
