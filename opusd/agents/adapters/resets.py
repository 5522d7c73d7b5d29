"""When a rate limit ends, read from what a program printed: epochs, RFC 3339, delays, dates and clock times.

Times are microseconds since 1970. A time without a zone is read in `zone`, the agent's own. A reset that has passed
or is further away than 8 days is not believed: None, and the caller backs off by itself. Must not know which program
is speaking, nor the clock: `now` is an argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from opusd.core.cooling import BELIEVED
from opusd.core.times import DAY, MINUTE, SECOND, from_rfc3339, parse_duration

JUST_PASSED: Final = 5 * MINUTE
"""A clock time that was this recently is over, not a day away: programs cut the seconds off before they print."""

LONGEST_TEXT: Final = 8192

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# What may stand between the word that announces a time and the time: `resets at: `, `"retry_after": "`, `retry in `.
_ANCHOR: Final = re.compile(
    r"\b(?:resets?|reset[ _-](?:time|at|in|after)|resets?[aA]t|try again|retry[ _-]?(?:after|delay|in|at)|retry"
    r"|available(?: again)?|wait|until)\b",
    re.IGNORECASE,
)
_FILLER: Final = re.compile(
    r"(?:[\s:=\"'·,(]|\b(?:at|on|in|after|for|is|about|around|by|until|your limit)\b){0,12}", re.IGNORECASE
)
_LEGACY: Final = re.compile(r"limit reached\|(\d{10,13})\b", re.IGNORECASE)

_NUMBER: Final = re.compile(r"(\d{10,16})(?![\d.:-])", re.ASCII)
_INSTANT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,18})?(?:[Zz]|[+-]\d{2}:\d{2})(?!\d)", re.ASCII
)
_UNIT: Final = (
    r"(?:(?P<ms>ms|millis(?:econds?)?|milliseconds?)|(?P<s>s|secs?|seconds?)|(?P<m>m|mins?|minutes?)"
    r"|(?P<h>h|hrs?|hours?)|(?P<d>d|days?)|(?P<w>w|weeks?))"
)
_TERM: Final = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?)\s*" + _UNIT + r"(?![a-z])(?:\s*,?\s*(?:and\s+)?)?", re.ASCII | re.IGNORECASE
)
_BARE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?!\s*[ap]\.?m|[\d:/.-]*\d)", re.ASCII | re.IGNORECASE)
_SECONDS_NAMED: Final = re.compile(r"retry[ _-]?(?:after|delay)", re.IGNORECASE)

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE: Final = re.compile(
    r"(?P<month>"
    + "|".join(_MONTHS)
    + r")[a-z]{0,6}\.?\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{4}))?(?!\d)",
    re.ASCII | re.IGNORECASE,
)
_ISO_DATE: Final = re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})(?!\d)[Tt]?", re.ASCII)
_HTTP_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, (?P<day>\d{2}) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) (?P<time>\d{2}:\d{2}:\d{2}) GMT", re.ASCII
)
_BETWEEN: Final = re.compile(r"(?:\s|,|\bat\b){0,6}", re.IGNORECASE)
_CLOCK: Final = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?(?::(?P<second>\d{2})(?:\.\d+)?)?\s*(?:(?P<half>[ap])\.?m\b\.?)?"
    r"(?![\d:])",
    re.ASCII | re.IGNORECASE,
)
_ZONE: Final = re.compile(
    r"\s*\((?P<named>[A-Za-z][A-Za-z0-9_+/-]{1,63})\)|\s*(?P<offset>[+-]\d{2}:?\d{2})(?!\d)"
    r"|\s*(?P<path>[A-Z][A-Za-z_]+/[A-Za-z0-9_+/-]{2,60})|\s*(?P<short>UTC|GMT|[A-Z]{1,3}[SD]T|Z)\b",
    re.ASCII,
)
_SHORT: Final = {
    "UTC": 0, "GMT": 0, "Z": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
    "CET": 1, "CEST": 2, "BST": 1, "JST": 9, "KST": 9,
}  # fmt: skip


def believed(us: int, now: int) -> int | None:
    """`us` when it is ahead of `now` and not further than 8 days."""
    return us if now < us <= now + BELIEVED else None


def from_epoch(value: object, now: int) -> int | None:
    """A number of seconds or milliseconds since 1970, as a number or as digits; which of them, its size tells."""
    if isinstance(value, str):
        if not re.fullmatch(r"\d{1,19}(?:\.\d{1,9})?", value, re.ASCII):
            return None
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return believed(epoch_us(value), now)


def epoch_us(value: float) -> int:
    """1e11 seconds are the year 5138, 1e11 milliseconds 1973: what lies between is never meant."""
    scale = 1_000_000 if value < 10**11 else 1000 if value < 10**14 else 1
    return value * scale if isinstance(value, int) else round(value * scale)


def from_delay(seconds: object, now: int) -> int | None:
    """`seconds` from now on, as a number or as text such as `3600`, `2.5s` or `6m0s`."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | str):
        return None
    try:
        return believed(now + parse_duration(seconds), now)
    except ValueError:
        return None


def from_headers(headers: Mapping[str, object], now: int) -> int | None:
    """The reset that an HTTP answer names: the account's window first, then the delay before the next try."""
    known = {name.lower(): value for name, value in headers.items()}
    for name, read in _HEADERS:
        if name in known and (found := read(known[name], now)) is not None:
            return found
    return None


def _milliseconds(value: object, now: int) -> int | None:
    return from_delay(f"{value}ms", now) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _http_date(value: object, now: int) -> int | None:
    """RFC 9110, section 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`; its obsolete forms are nobody's any more."""
    found = _HTTP_DATE.fullmatch(str(value))
    if found is None or found["month"].lower() not in _MONTHS:
        return None
    month = _MONTHS.index(found["month"].lower()) + 1
    return _instant(f"{found['year']}-{month:02}-{found['day']}T{found['time']}Z", now)


def _instant(value: object, now: int) -> int | None:
    try:
        return believed(from_rfc3339(str(value)), now)
    except ValueError:
        return None


_HEADERS: Final[tuple[tuple[str, Callable[[object, int], int | None]], ...]] = (
    ("anthropic-ratelimit-unified-reset", from_epoch),
    ("retry-after-ms", _milliseconds),
    ("retry-after", from_delay),
    ("retry-after", _http_date),
    ("x-ratelimit-reset-requests", from_delay),
    ("x-ratelimit-reset-tokens", from_delay),
)


def find_reset(text: str, now: int, zone: tzinfo = UTC) -> int | None:
    """The first time in prose that a word such as `resets` or `try again` announces and that can be believed."""
    text = text[-LONGEST_TEXT:]
    if (legacy := _LEGACY.search(text)) and (found := from_epoch(legacy[1], now)) is not None:
        return found
    for anchor in _ANCHOR.finditer(text):
        filler = _FILLER.match(text, anchor.end())
        at = filler.end() if filler else anchor.end()
        bare = _SECONDS_NAMED.fullmatch(anchor[0]) is not None
        found = _expression(text, at, now, zone, bare_seconds=bare)
        if found is not None:
            return found
    return None


def _expression(text: str, at: int, now: int, zone: tzinfo, *, bare_seconds: bool) -> int | None:
    """What stands at `at`, tried from the most to the least exact form."""
    if matched := _INSTANT.match(text, at):
        return _instant(matched[0], now)
    if matched := _NUMBER.match(text, at):
        return from_epoch(matched[1], now)
    if (delay := _delay(text, at)) is not None:
        return believed(now + delay, now)
    if bare_seconds and (matched := _BARE.match(text, at)):
        return from_delay(float(matched[1]), now)
    return _calendar(text, at, now, zone)


def _delay(text: str, at: int) -> int | None:
    """`2.5s`, `1m30s`, `3 days 6 hours 57 minutes`; None when no such thing stands there."""
    scale = {"ms": 1000, "s": SECOND, "m": MINUTE, "h": 60 * MINUTE, "d": DAY, "w": 7 * DAY}
    total: int | None = None
    while matched := _TERM.match(text, at):
        unit = matched.lastgroup or "s"
        total = (total or 0) + round(float(matched[1]) * scale[unit])
        at = matched.end()
    return total


def _calendar(text: str, at: int, now: int, zone: tzinfo) -> int | None:
    """`3:45pm`, `12:16 PM (America/New_York)`, `Sep 15 at 7pm`, `Aug 8th, 2026 12:30 PM`, `Aug 18`."""
    date = _DATE.match(text, at) or _ISO_DATE.match(text, at)
    between = _BETWEEN.match(text, date.end()) if date else None
    clock = _CLOCK.match(text, between.end() if between else at)
    time = _time_of_day(clock) if clock else None
    if date is None and time is None:
        return None
    named = _ZONE.match(text, clock.end() if clock and time else date.end() if date else at)
    if named is not None:
        known = _zone(named)
        if known is None:
            return None  # a zone that nobody here knows: hours of error
        zone = known
    try:
        if date is None:
            return _next_occurrence(time or (0, 0, 0), now, zone)
        return _on_date(date, time or (0, 0, 0), now, zone)
    except (ValueError, OverflowError):
        return None


def _time_of_day(clock: re.Match[str]) -> tuple[int, int, int] | None:
    """A clock time; a lone number is one only with am or pm."""
    hour, minute, second = (int(clock[name] or 0) for name in ("hour", "minute", "second"))
    if clock["half"] is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if clock["half"] in "pP" else 0)
    elif clock["minute"] is None:
        return None
    return (hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None


def _zone(named: re.Match[str]) -> tzinfo | None:
    if offset := named["offset"]:
        minutes = int(offset[1:3]) * 60 + int(offset[-2:])
        return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)) if minutes < 24 * 60 else None
    name = named["named"] or named["path"] or named["short"]
    if name.upper() in _SHORT:
        return timezone(timedelta(hours=_SHORT[name.upper()]))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, no key at all, a folder of zones
        return None


def _next_occurrence(time: tuple[int, int, int], now: int, zone: tzinfo) -> int | None:
    """The first moment after `now` at which clocks in `zone` show `time`, on days of any length."""
    today = (_EPOCH + timedelta(microseconds=now)).astimezone(zone)
    passed = False
    for days in (-1, 0, 1):
        day = today + timedelta(days=days)
        for fold in (0, 1):  # an hour that comes twice
            us = _us(datetime(day.year, day.month, day.day, *time, fold=fold, tzinfo=zone))
            if us > now:
                return None if passed else believed(us, now)
            passed = passed or us > now - JUST_PASSED
    return None


def _on_date(date: re.Match[str], time: tuple[int, int, int], now: int, zone: tzinfo) -> int | None:
    word = date["month"].lower()
    month = _MONTHS.index(word) + 1 if word in _MONTHS else int(word)
    today = (_EPOCH + timedelta(microseconds=now)).astimezone(zone)
    years = (int(date["year"]),) if date["year"] else (today.year, today.year + 1)
    for year in years:
        try:
            moment = datetime(year, month, int(date["day"]), *time, tzinfo=zone)
        except ValueError:  # 29 February
            continue
        if (found := believed(_us(moment), now)) is not None:
            return found
    return None


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
