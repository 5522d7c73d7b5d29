"""Lines out of pieces of text, in bounded memory: what is too long for a line is kept at both its ends alone.

Pieces may be split anywhere. Must not know what a line says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

LONGEST: Final = 1 << 20
"""Characters. The longest line of a capture has 4,000; what is longer carries a file or a picture."""

KEPT: Final = 16 * 1024
"""What is kept of either end of a longer line."""

_MANY: Final = 1024


class Line(NamedTuple):
    """`text` without its end. Of a line that was too long it is the beginning, and `tail` the end.

    `broken`: bytes were lost before it, so that it may begin in its middle.
    """

    text: str
    tail: str | None = None
    broken: bool = False


class Lines:
    """`feed` gives each line when its end has come, `rest` the one that has none; `gap` says that bytes were lost."""

    def __init__(self, longest: int = LONGEST, kept: int = KEPT) -> None:
        self._longest = longest
        self._kept = kept
        self._parts: list[str] = []
        self._size = 0
        self._tail: str | None = None
        self._broken = False

    def feed(self, text: str) -> Iterator[Line]:
        begin = 0
        while (end := text.find("\n", begin)) >= 0:
            self._add(text, begin, end)
            yield self._take()
            begin = end + 1
        self._add(text, begin, len(text))

    def gap(self) -> None:
        self._take()
        self._broken = True

    def rest(self) -> Line | None:
        """The last line, when the stream ends without a newline."""
        return self._take() if self._size else None

    def _add(self, text: str, begin: int, end: int) -> None:
        if begin == end:
            return
        self._size += end - begin
        if self._tail is not None:
            self._tail = self._end_of(self._tail, text, begin, end)
        elif self._size <= self._longest:
            self._parts.append(text[begin:end])
            if len(self._parts) >= _MANY:
                self._parts = ["".join(self._parts)]
        else:
            known = "".join(self._parts)
            self._parts = [(known + text[begin : min(end, begin + self._kept)])[: self._kept]]
            self._tail = self._end_of(known, text, begin, end)

    def _end_of(self, before: str, text: str, begin: int, end: int) -> str:
        if end - begin >= self._kept:
            return text[end - self._kept : end]
        return (before[-self._kept :] + text[begin:end])[-self._kept :]

    def _take(self) -> Line:
        line = Line("".join(self._parts).removesuffix("\r"), self._tail, self._broken)
        self._parts, self._size, self._tail, self._broken = [], 0, None, False
        return line
