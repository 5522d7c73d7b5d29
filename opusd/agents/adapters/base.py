"""What an adapter sees in a stream, and what it says at its end.

Values and protocol only; an adapter is pure: no I/O, no clock. It is fed pieces of output as they come, split
anywhere, and says what it saw; at the end it judges exit and stream together. Fed the same output again, in other
pieces or from the beginning, it says the same in the end: an adopted attempt is read from its log anew.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass

MESSAGE: Final = 500
"""Characters of a failure's message and of a progress line."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt has used so far, as its program counts it; None: it does not say.

    Claude Code and OpenCode count what was read from the cache beside the input, Codex and aider as part of it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None


class Session(msgspec.Struct, frozen=True, tag=True):
    """The program's own name for its conversation: what resumes it."""

    session_id: str


class Progress(msgspec.Struct, frozen=True, tag=True):
    """What the agent is doing, in one line; `fraction` of its own list of things to do, when it keeps one."""

    message: str
    fraction: float | None = None


class UsageSeen(msgspec.Struct, frozen=True, tag=True):
    """Totals of this attempt so far; they replace what was seen before. `final`: with the program's last word."""

    usage: Usage
    final: bool = False


class Said(msgspec.Struct, frozen=True, tag=True):
    text: str


class Limited(msgspec.Struct, frozen=True, tag=True):
    """The provider refuses for now; the program may still wait and go on by itself.

    `until` (microseconds since 1970) as it was named, not yet held against the clock; None: in prose or not at all.
    """

    until: int | None
    message: str


class Asked(msgspec.Struct, frozen=True, tag=True):
    text: str
    options: list[str]


Observation = Session | Progress | UsageSeen | Said | Limited | Asked


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How the attempt ended. `failure` None is success, or a `question` that a person must answer first.

    `message` says what failed, or what a success leaves to be known, or nothing. `summary` is the agent's last
    message. `limited_until` is believed, ahead of `now`, and only there with rate_limited. `session_unknown`: the
    program does not know the session that it was to resume, so the next attempt has to begin a new one.
    """

    failure: FailureClass | None = None
    message: str = ""
    summary: str = ""
    session_id: str | None = None
    usage: Usage | None = None
    limited_until: int | None = None
    question: tuple[str, list[str]] | None = None
    session_unknown: bool = False


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Which budgets an adapter can hold an agent to."""

    tokens: bool
    cost: bool


class Adapter(Protocol):
    def feed(self, text: str) -> list[Observation]:
        """The next piece of output; bytes that are no UTF-8 come as U+FFFD."""
        ...

    def gap(self) -> None:
        """Bytes were lost here: the next line may begin in its middle."""
        ...

    def end(self, exit: Exit, now: int, tail: str) -> Verdict:  # noqa: A002 - the word of the contract
        """Judge; `tail` is the last 2 KiB of output. Called once, after the last piece."""
        ...


def one_line(text: str, longest: int = MESSAGE) -> str:
    """Its words on one line, cut to what a list can show."""
    words = " ".join(text[: 4 * longest].split())
    return words if len(words) <= longest else words[: longest - 1] + "…"
