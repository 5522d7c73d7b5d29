"""Times and durations as the contract writes them, and the integers they are inside.

A time is microseconds since 1970 in UTC; a duration is microseconds. Text is RFC 3339, always with
six digits and Z when we write it. Nothing here knows what time it is.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LONGEST = 100 * 365 * DAY
"""No duration is longer: a century is a mistake in units."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // _MICROSECOND

_UNITS = {
    "us": 1,
    "ms": 1000,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
    "d": DAY,
    "w": 7 * DAY,
}
_ORDER = ("w", "d", "h", "m", "s", "ms", "us")
_TERM = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?\s*(us|ms|s|m|h|d|w)?\s*", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,18}))?([Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)


def to_rfc3339(us: int) -> str:
    """`2026-01-31T23:59:59.000001Z`."""
    second, micros = divmod(us, SECOND)
    return f"{_second(second)}.{micros:06d}Z"


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    """What is written together is mostly of few seconds: this more than halves the cost of a time."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


def from_rfc3339(text: str) -> int:
    """The microseconds that `text` names, with any offset; digits past the sixth are cut off.

    ValueError says what is wrong. A leap second is the first moment of the next minute, as POSIX has it.
    """
    matched = _RFC3339.fullmatch(text)
    if matched is None:
        raise ValueError(f"{_shown(text)} is not a time such as 2026-01-31T23:59:59Z: RFC 3339, with Z or an offset")
    date, clock, fraction, zone = matched.groups()
    leap = clock.endswith(":60")
    try:
        moment = datetime.fromisoformat(f"{date}T{clock[:6]}59" if leap else f"{date}T{clock}")
        offset = datetime.fromisoformat(f"{date}T00:00:00{zone.upper()}").utcoffset() or timedelta()
        us = (moment.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND - offset // _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_shown(text)} is not a time: {error}") from None
    us = us + SECOND if leap else us + int((fraction or "").ljust(6, "0")[:6])
    if not _FIRST <= us <= _LAST:
        raise ValueError(f"{_shown(text)} is not a time between the years 1 and 9999 in UTC")
    return us


def parse_duration(value: float | str) -> int:
    """Microseconds of a number of seconds, or of text such as `90s`, `10m`, `24h`, `7d`, `1h30m`, `250ms`.

    ValueError for what is negative, not finite, longer than a century, or no duration at all.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a duration is a number of seconds or text such as 90s or 1h30m, not {_shown(value)}")  # noqa: TRY004 - one kind of refusal
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a duration is finite, not {value}")
    if isinstance(value, str):
        us = _parse_text(value)
    elif value < 0:
        raise ValueError(f"a duration is not negative, as {_shown(value)} is")
    else:
        us = value * SECOND if isinstance(value, int) else round(min(value, LONGEST) * SECOND)
    if us > LONGEST:
        raise ValueError(f"{_shown(value)} is longer than 100 years")
    return us


def format_duration(us: int) -> str:
    """The shortest text that `parse_duration` reads as `us`: `1h30m`, `10s`, `0s`."""
    text = ""
    for unit in _ORDER:
        count, us = divmod(us, _UNITS[unit])
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def _parse_text(text: str) -> int:
    """Terms from large units to small, each unit once; a number without one is seconds and stands alone."""
    stripped = text.strip()
    if stripped.startswith("-"):
        raise ValueError(f"a duration is not negative, as {_shown(text)} is")
    total, at, last = 0, 0, -1
    while matched := _TERM.match(stripped, at):
        whole, fraction, unit = matched[1], matched[2] or "", matched[3]
        rank = _ORDER.index(unit or "s")
        if rank <= last or (unit is None and matched[0] != stripped):
            break
        scale = _UNITS[_ORDER[rank]]
        total += int(whole) * scale + int(fraction or 0) * scale // 10 ** len(fraction)
        at, last = matched.end(), rank
    if at == 0 or at < len(stripped):
        raise ValueError(f"{_shown(text)} is not a duration: seconds, or text such as 90s, 10m, 24h, 7d or 1h30m")
    return total


def _shown(value: object) -> str:
    """What was sent, short enough for a message."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "this number"
    return text if len(text) <= 60 else text[:57] + "..."
