"""JSON lines into events, whatever stands between them: warnings on standard error, rubbish, halves of lines.

An event is a JSON object with a `type`. Fields are read one by one and of the wrong kind they are absent: a program's
next version may change what it likes, but not lose its result by it. Must not know any program's events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from opusd.agents.adapters.lines import Line, Lines

Table = dict[str, Any]

NOISE: Final = 2048
"""How much is kept of the lines that are no events: where a program says why it did not even begin."""

LONGEST_TEXT: Final = 64 * 1024

_TYPE: Final = '{"type":"'
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[@-Z\\-_])")
_LONE_SURROGATE: Final = re.compile(
    r"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_CUT_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")


class Event(NamedTuple):
    """`long`: only the ends of the line are known; `table` holds its type, and `head` and `tail` the text itself."""

    type: str
    table: Table
    head: str = ""
    tail: str = ""
    long: bool = False


class Events:
    """The events of a stream, and `noise`: the last 2 KiB of the lines that were none."""

    def __init__(self) -> None:
        self._lines = Lines()
        self.noise = ""

    def feed(self, text: str) -> Iterator[Event]:
        for line in self._lines.feed(text):
            if (event := self._event(line)) is not None:
                yield event

    def gap(self) -> None:
        self._lines.gap()

    def close(self) -> Iterator[Event]:
        """The event on a last line without an end, if it is whole."""
        if (line := self._lines.rest()) is not None and (event := self._event(line, ended=False)) is not None:
            yield event

    def _event(self, line: Line, *, ended: bool = True) -> Event | None:
        if line.tail is not None:
            return None if line.broken or not ended else long_event(line)
        text = line.text.strip()
        table = decode(text)
        if table is None and ended:
            table = embedded(text)
        if table is not None:
            return Event(kind, table) if (kind := string(table, "type")) else None
        if text and not line.broken and not text.startswith("{"):
            # A half of an event is not noise: what stands in it is not the program's own word on what went wrong.
            self.noise = (self.noise + plain(text[-NOISE:]) + "\n")[-NOISE:]
        return None


def decode(text: str) -> Table | None:
    """The JSON object that `text` is."""
    if not text.startswith("{"):
        return None
    value = _decoded(text)
    if value is None and "\\u" in text:
        value = _decoded(without_lone_surrogates(text))
    return value if isinstance(value, dict) else None


def _decoded(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def without_lone_surrogates(text: str) -> str:
    """JavaScript writes half of a pair, where it cut a text in two, as an escape that is no Unicode text."""
    return _LONE_SURROGATE.sub(lambda found: found["pair"] or "\\ufffd", text)


def embedded(text: str) -> Table | None:
    """The event at the end of a line that began as something else: a warning without a newline, another event's half.

    (Claude Code has printed rate limit events into the middle of other events.) An object inside an event is never
    taken for one, as long as the line has its end: the event's own end follows the object.
    """
    for at in {text.find(_TYPE), text.rfind(_TYPE)}:
        if at > 0 and (table := decode(text[at:])) is not None and string(table, "type"):
            return table
    return None


def long_event(line: Line) -> Event | None:
    """What can be told of an event whose line was too long: its type, when it comes first."""
    kind = re.match(r'\{"type":"([\w.]{1,64})"', line.text)
    return None if kind is None else Event(kind[1], {}, line.text, line.tail or "", long=True)


def cut_string(head: str, key: str) -> str:
    """The beginning of the string `key` in a line of which only the beginning is known."""
    at = head.find(f'"{key}":"')
    if at < 0:
        return ""
    inner = head[at + len(key) + 4 :]
    ended = re.match(r'(?:[^"\\]|\\.)*+"', inner, re.DOTALL)
    inner = inner[: ended.end() - 1] if ended else _CUT_ESCAPE.sub("", inner)
    for attempt in (inner, without_lone_surrogates(inner)):
        try:
            return clean(msgspec.json.decode(f'"{attempt}"', type=str))
        except (msgspec.DecodeError, UnicodeEncodeError):
            continue
    return ""


def clean(text: str) -> str:
    """As it can be kept: no NUL, which the registry refuses, and of bounded length."""
    return text[:LONGEST_TEXT].replace("\0", "\ufffd")


def plain(text: str) -> str:
    """Without the escapes that colour a terminal."""
    return _ESCAPES.sub("", text).replace("\0", "\ufffd")


def string(table: Table, key: str) -> str:
    value = table.get(key)
    return clean(value) if isinstance(value, str) else ""


def inner(table: Table, key: str) -> Table:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def tables(table: Table, key: str) -> list[Table]:
    value = table.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count(table: Table, key: str) -> int | None:
    """A number of things that fits the registry."""
    value = table.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None


def amount(table: Table, key: str) -> float | None:
    """Dollars, or a time in seconds or milliseconds."""
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e16 else None
