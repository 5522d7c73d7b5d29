"""Text for people: made safe, measured in columns, cut; times and durations in words.

Pure: it knows no terminal and reads no clock (`now` is an argument, in seconds since 1970).
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What moves the cursor, changes colours, reorders or hides text: C0, DEL, C1, bidirectional controls, line and
# paragraph separators, byte order marks, interlinear marks, lone surrogates, tags.
UNSAFE = (
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff"
)
NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str, keep: str = "") -> str:
    r"""The text with every control character made visible (`\x1b`), so that it can't act on a terminal.

    `keep` names the controls that may pass, such as the newline of running output.
    """
    if text.isprintable():
        return text
    return re.sub(f"[{UNSAFE}]", lambda match: match[0] if match[0] in keep else _visible(match[0]), text)


def _visible(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def escaped_json(text: str) -> str:
    r"""JSON text whose strings hold no control character: the same JSON, with more `\u` escapes."""
    if text.isprintable():
        return text
    return re.sub(f"[{UNSAFE}]", lambda match: match[0] if match[0] == "\n" else _json_escape(match[0]), text)


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 65536:
        return f"\\u{code:04x}"
    code -= 65536
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def width(text: str) -> int:
    """The columns that the text takes on a terminal: wide East Asian characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if character.isascii():
        return 1
    import unicodedata

    if unicodedata.category(character) in ("Mn", "Me", "Cf") or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int, ellipsis: str = "…") -> str:
    """The text in at most this many columns, its end replaced by … when it is longer."""
    if columns <= 0:
        return ""
    if width(text) <= columns:
        return text
    room = columns - width(ellipsis)
    taken = []
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        taken.append(character)
    return "".join(taken) + ellipsis


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """The text filled with spaces to this many columns; `right` puts them before it."""
    space = " " * (columns - width(text))
    return space + text if right else text + space


def plural(number: int, noun: str) -> str:
    """`1 job`, `12,345 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def span(seconds: float) -> str:
    """A duration in its two largest units: `41s`, `3m 5s`, `2h 10m`, `4d`; below ten seconds finer."""
    if seconds < 0:
        return "-" + span(-seconds)
    if 0 < seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    if seconds < 10:
        return f"{seconds:.1f}".rstrip("0").rstrip(".") + "s"
    rest = int(seconds)
    for place, (size, unit) in enumerate(UNITS):
        if rest >= size:
            whole, rest = divmod(rest, size)
            if place + 1 < len(UNITS) and rest >= UNITS[place + 1][0]:
                return f"{whole}{unit} {rest // UNITS[place + 1][0]}{UNITS[place + 1][1]}"
            return f"{whole}{unit}"
    return "0s"


def ago(time: str | None, now: float) -> str:
    """A time of the wire as people say it: `now`, `3m ago`, `in 2h`; past 60 days the date."""
    if not time:
        return "-"
    distance = now - epoch(time)
    if abs(distance) < 1:
        return "now"
    if abs(distance) >= 60 * 86400:
        return time[:10]
    for size, unit in UNITS:
        if abs(distance) >= size:
            count = int(abs(distance) // size)
            return f"{count}{unit} ago" if distance > 0 else f"in {count}{unit}"
    return "now"


def epoch(time: str) -> float:
    """Seconds since 1970 of an RFC 3339 time in UTC. Without `datetime`, which takes milliseconds to import."""
    year, month, day = int(time[0:4]), int(time[5:7]), int(time[8:10])
    clock = int(time[11:13]) * 3600 + int(time[14:16]) * 60 + float(time[17:].rstrip("Zz") or 0)
    # Days from civil: years begin in March, so that the leap day is the last of its year.
    year -= month <= 2
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - 719468
    return days * 86400 + clock


def size(count: float) -> str:
    """Bytes in words: `512 B`, `4.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def scalar(value: Any) -> str:
    """A value of the wire on one line: strings as they are made safe, the rest as JSON."""
    if isinstance(value, str):
        return escaped(value)
    import json

    return escaped_json(json.dumps(value, ensure_ascii=False))
