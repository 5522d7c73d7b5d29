"""Where words go: data on stdout, talk on stderr, both safe for a terminal.

Every text passes through here and is escaped here; colours are added after that, on a terminal alone. Only
`raw` writes bytes as they are, and only to what is no terminal.
"""

from __future__ import annotations

import json
import os
import sys

from opusctl.failure import Unwritten
from opusctl.text import cut, escaped, escaped_json, pad, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TextIO

    Part = str | tuple[str, str]  # text, or text and its style

STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "alarm": "1;31",
}
CELL_LIMIT = 16  # columns that a cell takes on a terminal, the last one of a row excepted
NARROWEST = 12  # columns that the last cell keeps on the narrowest terminal


def write(text: str) -> None:
    """Text to stdout as it is; Unwritten when that takes no more."""
    _tried(sys.stdout.write, text)


def flush() -> None:
    """Bring to its place what was written to stdout; Unwritten when that takes no more."""
    _tried(sys.stdout.flush)


def _tried(act: Callable[..., object], *given: object) -> None:
    try:
        act(*given)
    except BrokenPipeError:
        raise  # whoever reads has enough, which is no failure
    except OSError as error:
        raise Unwritten(error) from None


def silence(stream: TextIO) -> None:
    """Let what the stream still holds, and whatever follows, go nowhere: its end would be tried again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_closed() -> None:
    """Put /dev/null in the place of a standard stream that is closed, so that no socket gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # each takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


class Screen:
    """`--json` and `-q` are known here, so that a verb says what it knows once and the screen picks the form."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.terminal = sys.stdout.isatty()
        self.colored = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.ellipsis = "…" if self.unicode else "..."
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)  # a test's stream may have none
            if reconfigure:
                reconfigure(errors="backslashreplace")

    @property
    def columns(self) -> int:
        """The width of the terminal: $COLUMNS, else what it says, else 80."""
        given = os.environ.get("COLUMNS", "")
        if given.isdecimal() and int(given) > 0:
            return int(given)
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    # ---------------------------------------------------------------------------------------------- writing

    def line(self, *parts: Part) -> None:
        """One line of data."""
        write("".join(self._shown(part) for part in parts) + "\n")

    def talk(self, *words: str) -> None:
        """One line to the person at the terminal; nothing under -q."""
        if not self.quiet:
            self.complain(*words)

    def complain(self, *words: str) -> None:
        """One line on stderr, under -q too. That it can't be said there changes nothing."""
        flush()
        try:
            print(escaped(" ".join(words)), file=sys.stderr, flush=True)
        except OSError:
            silence(sys.stderr)

    def json(self, value: Any) -> None:
        """One JSON document: indented on a terminal, else one line."""
        if self.terminal:
            write(escaped_json(json.dumps(value, indent=2, ensure_ascii=not self.unicode)) + "\n")
        else:
            write(json.dumps(value, separators=(",", ":")) + "\n")
        flush()

    def raw(self, data: bytes) -> None:
        """Bytes of a job's output, to what is no terminal."""
        flush()
        _tried(sys.stdout.buffer.write, data)
        flush()

    def running_text(self, text: str) -> None:
        """Output of a job on a terminal: newlines and tabs act, everything else is made visible."""
        write(escaped(text, keep="\n\t"))
        flush()

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[Part]], right: Sequence[str] = ()) -> None:
        """Aligned columns under their titles; `right` names those that are set right.

        On a terminal the last column is cut to what is left of the line. Elsewhere nothing is cut and no cell is
        empty, so that columns can be counted.
        """
        texts = [[self._cell(part, last=number == len(titles) - 1) for number, part in enumerate(row)] for row in rows]
        widths = [max(width(title), *(width(row[n]) for row in texts), 0) for n, title in enumerate(titles)]
        if self.terminal:
            widths[-1] = min(widths[-1], max(NARROWEST, self.columns - sum(widths[:-1]) - 2 * (len(titles) - 1)))
        self.line(*self._laid_out(titles, titles, ["dim"] * len(titles), widths, right))
        for row, text in zip(rows, texts, strict=True):
            styles = [part[1] if isinstance(part, tuple) else "" for part in row]
            self.line(*self._laid_out(titles, text, styles, widths, right))

    def _cell(self, part: Part, *, last: bool) -> str:
        text = escaped(part if isinstance(part, str) else part[0])
        if not self.terminal:
            return text or "-"
        return text if last else cut(text, CELL_LIMIT, self.ellipsis)

    def _laid_out(
        self,
        titles: Sequence[str],
        texts: Sequence[str],
        styles: Sequence[str],
        widths: list[int],
        right: Sequence[str],
    ) -> list[Part]:
        parts: list[Part] = []
        for number, (title, text, style) in enumerate(zip(titles, texts, styles, strict=True)):
            last = number == len(titles) - 1
            if last and self.terminal:
                text = cut(text, widths[-1], self.ellipsis)  # noqa: PLW2901  the same text, shorter
            filled = pad(text, widths[number], right=title in right)
            parts.append((filled.rstrip() if last else filled, style))
            if not last:
                parts.append("  ")
        return parts

    def _shown(self, part: Part) -> str:
        if isinstance(part, str):
            return escaped(part)
        text, style = escaped(part[0]), part[1]
        if not self.colored or not style or not text:
            return text
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m"
