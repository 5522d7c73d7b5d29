"""The parser of one verb, and the forms of values on the command line.

argparse with three changes: a usage error is raised as UsageError and not printed, it names the nearest option,
and no terminal is asked for its width before help is printed (which would import half the standard library).
"""

from __future__ import annotations

import argparse
import os
import re

from opusctl.failure import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    Ref = int | str

ON = ("success", "failure", "any")
IF_UNMET = ("block", "cancel", "run")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **kwargs: Any) -> None:
        columns = os.environ.get("COLUMNS", "")
        kwargs.setdefault("width", max(40, int(columns) - 2) if columns.isdecimal() else 78)
        kwargs.setdefault("max_help_position", 26)
        super().__init__(prog, **kwargs)


class Parser(argparse.ArgumentParser):
    """The parser of one verb."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"opusctl {verb}",
            description=description,
            formatter_class=Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.verb = verb
        self._optionals.title = "options"

    def add_common_options(self) -> None:
        """The options of every verb; added last, so that they stand last in the help."""
        common = self.add_argument_group("options of every verb")
        common.add_argument("--json", action="store_true", help="print JSON, errors too")
        common.add_argument("-q", "--quiet", action="store_true", help="print ids alone")
        common.add_argument("--socket", metavar="PATH", help="the daemon's socket ($OPUSD_SOCKET)")
        common.add_argument("-h", "--help", action="help", help="show this help")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The parsed words; UsageError names what is not known and what may have been meant."""
        known, rest = self.parse_known_intermixed_args(self._bound(words))  # `prune --dry-run 3`, `prune 3 --dry-run`
        if rest:
            wrong = next((word for word in rest if word.startswith("-") and word != "-"), rest[0])
            if wrong.startswith("-"):
                name = wrong.partition("=")[0]
                raise self.usage_error(f"unknown option {name}{did_you_mean(name, self._option_string_actions)}")
            if self.verb == "submit":
                hint = "a command goes behind --, as in opusctl submit -- make test; a prompt behind -p"
                raise UsageError(f"unexpected argument: {wrong}", hint=hint)
            raise self.usage_error(f"unexpected argument: {wrong}")
        return known

    def _bound(self, words: Sequence[str]) -> list[str]:
        """Words in which an option that takes a value has it, although that begins with a dash: `--order -id`.

        argparse would take `-p '-quick fix'` for -q. A word that is an option of this verb is never a value.
        """
        bound: list[str] = []
        taker = None
        for word in words:
            if taker is not None and word.startswith("-") and word.partition("=")[0] not in self._option_string_actions:
                bound[-1] = f"{taker.option_strings[-1]}={word}"
                taker = None
                continue
            bound.append(word)
            action = None if taker is not None else self._option_string_actions.get(word)
            taker = action if action is not None and action.nargs is None else None
        return bound

    def print_help(self, _file: object = None) -> None:
        from opusctl.screen import write

        write(self.format_help())

    def usage_error(self, message: str) -> UsageError:
        return UsageError(message, hint=f"see opusctl {self.verb} --help")

    def error(self, message: str) -> NoReturn:
        raise self.usage_error(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean list?`, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


# ------------------------------------------------------------------------------------------ forms of values


def ref(word: str) -> Ref:
    """A job's id, or its key: keys are not all digits."""
    if word.isascii() and word.isdecimal():
        return int(word)
    if not word:
        raise argparse.ArgumentTypeError("an id or key is not empty")
    return word


def positive(word: str) -> int:
    """A number from 1 on."""
    if not (word.isascii() and word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"not a number from 1 on: {word!r}")
    return int(word)


def duration(word: str) -> int | float:
    """Seconds of `90`, `90s`, `10m`, `1h30m`, `7d`."""
    if not re.fullmatch(r"\d+(\.\d+)?|(\d+(\.\d+)?(ms|[smhdw]))+", word.strip()):
        raise argparse.ArgumentTypeError(f"not a duration: {word!r} (90, 90s, 10m, 1h30m, 7d)")
    parts = re.findall(r"([\d.]+)(ms|[smhdw]|)", word.strip())
    seconds = sum(float(number) * SECONDS[unit or "s"] for number, unit in parts)
    return int(seconds) if seconds == int(seconds) else seconds


def moment(word: str) -> str:
    """A time in UTC as the wire writes it, of RFC 3339, `2025-11-24 09:00`, `09:00` (the next one) or `10m` (from now).

    A time without a zone is the local one.
    """
    return _moment(word, +1)


def past_moment(word: str) -> str:
    """As `moment`, but `10m` is ten minutes ago and `09:00` the last one."""
    return _moment(word, -1)


def _moment(word: str, direction: int) -> str:
    import datetime as dt

    now = dt.datetime.now().astimezone()
    word = word.strip()
    if re.fullmatch(r"[\d.]+(ms|[smhdw])([\d.]+(ms|[smhdw]))*", word):
        time = now + dt.timedelta(seconds=direction * duration(word))
    elif word in ("now", "today", "yesterday", "tomorrow"):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        days = {"today": 0, "yesterday": -1, "tomorrow": 1}
        time = now if word == "now" else (midnight + dt.timedelta(days=days[word])).astimezone()
    elif re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", word):
        fields = [int(part) for part in word.split(":")]
        try:
            time = now.replace(hour=fields[0], minute=fields[1], second=(*fields, 0)[2], microsecond=0, tzinfo=None)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"not a time of day: {word!r} ({error})") from None
        time = time.astimezone()
        if (time - now).total_seconds() * direction < 0:
            time = (time.replace(tzinfo=None) + dt.timedelta(days=direction)).astimezone()
    else:
        try:
            time = dt.datetime.fromisoformat(word)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"not a time: {word!r} (2025-11-24T09:00:00Z, '2025-11-24 09:00', 09:00, 10m)"
            ) from None
    return time.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def priority(word: str) -> int | str:
    """A tier's name, or 1 to 10."""
    if word.isascii() and word.isdecimal():
        if 1 <= int(word) <= 10:
            return int(word)
        raise argparse.ArgumentTypeError("a number from 1 to 10, or low, normal, urgent (or high), critical")
    if word not in ("low", "normal", "high", "urgent", "critical"):
        raise argparse.ArgumentTypeError(f"not a tier: {word!r} (low, normal, urgent or high, critical, or 1 to 10)")
    return word


def need(word: str) -> tuple[str, int]:
    """`NAME` or `NAME=N`: a resource, and how much of it."""
    name, equals, number = word.rpartition("=")
    if not equals:
        return word, 1
    if not name or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"not NAME or NAME=N: {word!r}")
    return name, int(number)


def edge(word: str) -> Any:
    """`ID`, `ID:success|failure|any`, `ID:...:block|cancel|run`: an id or key that may hold colons itself."""
    if_unmet = on = None
    rest = word
    head, colon, tail = rest.rpartition(":")
    if colon and tail in IF_UNMET:
        if_unmet, rest = tail, head
        head, colon, tail = rest.rpartition(":")
    if colon and tail in ON:
        on, rest = tail, head
    if not rest:
        raise argparse.ArgumentTypeError(f"no id or key in {word!r}")
    if on is None and if_unmet is None:
        return ref(rest)
    given = {"job": ref(rest), "on": on, "if_unmet": if_unmet}
    return {name: value for name, value in given.items() if value is not None}


def edges(word: str) -> list[Any]:
    """One or several, with commas between."""
    return [edge(part.strip()) for part in word.split(",") if part.strip()]


def json_object(word: str) -> dict[str, Any]:
    """A JSON object, or `@FILE` that holds one."""
    import json

    try:
        if word.startswith("@"):
            with open(word[1:], encoding="utf-8") as file:
                word = file.read()
        value = json.loads(word)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def retry_policy(word: str) -> Any:
    """A policy's name, or a JSON object."""
    return json_object(word) if word.startswith(("{", "@")) else word


def setting(word: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"not NAME=VALUE: {word!r}")
    return name, value


def absolute(word: str) -> str:
    return os.path.abspath(os.path.expanduser(word))
