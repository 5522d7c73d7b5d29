"""Log records to stderr, one a line: time, level, event, and job, attempt, agent, actor where known.

`configure` is called once, by __main__; everyone else asks structlog for a logger. `event` is the kind of an Event
where there is one. Prompts, payloads, env values and output are never logged: what is passed here is ids, names and
numbers. A reader of stderr that does not read costs records, never the daemon its time.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

from opusd.core.times import to_rfc3339


@contextmanager
def _without(name: str) -> Iterator[None]:
    """As if this library were not installed, unless it is imported already."""
    there = name in sys.modules
    if not there:
        sys.modules[name] = None  # type: ignore[assignment]  # which is how the language says it
    try:
        yield
    finally:
        if not there:
            del sys.modules[name]


with _without("rich"):  # structlog imports it for tracebacks in colours, of which we print none: 45 ms of a start
    import structlog

_WHO = ("job", "attempt", "agent", "actor")
_LONGEST = select.PIPE_BUF
"""A pipe that can be written takes so much at once; a longer record is cut."""
_PLAIN = re.compile(r"[!#-<>-~]+")
_PATIENCE_MS = 50
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Record = MutableMapping[str, Any]


def written(level: str) -> frozenset[str]:
    """The levels that are written when this is the lowest."""
    return frozenset(name for name, rank in _LEVELS.items() if rank >= _LEVELS[level])


def configure(*, level: str, form: Literal["text", "json"], now: Callable[[], int], stream: int = 2) -> None:
    """From now on records of `level` and above go to the descriptor `stream`; may be called again.

    `now` gives microseconds since 1970. The standard library's loggers are heard too, from warnings on.
    """
    render = _as_json if form == "json" else _as_text

    def line(_logger: object, _method: str, record: Record) -> str:
        first = {"time": to_rfc3339(now()), "level": record.pop("level"), "event": record.pop("event")}
        first |= {name: record.pop(name) for name in _WHO if record.get(name) is not None}
        text = render({**first, **{name: _cut(name, value) for name, value in record.items()}})
        return text if len(text) < _LONGEST else render({**first, "cut": True})

    def lost(records: int) -> str:
        return line(None, "", {"level": "warning", "event": "log.lost", "records": records})

    lines = _Lines(stream, lost)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_Heard(logging.WARNING)]


def logger() -> Any:
    """Of structlog, as configured when it is used."""
    return structlog.get_logger()


class _Lines:
    """structlog's logger: each method writes a rendered line."""

    def __init__(self, stream: int, lost: Callable[[int], str]) -> None:
        self._stream = stream
        self._lost_line = lost
        self._poll = select.poll()
        self._poll.register(stream, select.POLLOUT)
        self._lost = 0

    def msg(self, line: str) -> None:
        if self._lost and self._write(self._lost_line(self._lost), 0):
            self._lost = 0
        if self._lost or not self._write(line, _PATIENCE_MS):
            self._lost += 1

    debug = info = warning = error = critical = exception = failure = msg

    def _write(self, line: str, patience: int) -> bool:
        """Whether it was written. Both renderings are ASCII."""
        try:
            if not self._poll.poll(patience):
                return False
            os.write(self._stream, line.encode("ascii") + b"\n")
        except OSError:  # the reader is gone
            return False
        return True


class _Heard(logging.Handler):
    """What asyncio and libraries say through `logging`, as records of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            min(record.levelno, logging.ERROR), record.name, message=record.getMessage(), exc_info=record.exc_info
        )


def _cut(name: str, value: object) -> object:
    """A long text keeps its beginning; a traceback its end, where the error is."""
    if not isinstance(value, str) or len(value) <= _LONGEST // 4:
        return value
    return "..." + value[-_LONGEST // 2 :] if name == "exception" else value[: _LONGEST // 4] + "..."


def _as_json(record: Record) -> str:
    return json.dumps(record, default=str, separators=(",", ":"))


def _as_text(record: Record) -> str:
    head = f"{record['time']} {record['level']:<7} {_word(record['event'])}"
    return " ".join((head, *(f"{name}={_word(value)}" for name, value in list(record.items())[3:])))


def _word(value: object) -> str:
    """As it is when it is one plain word, else quoted, so that a line stays a line and no escape reaches a terminal."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text)
