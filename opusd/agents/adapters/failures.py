"""Failure classes from exits, HTTP statuses and error messages: one table for all programs.

An error message is what a program itself says went wrong, never an agent's own text: an agent that writes about rate
limits is not limited. Must not know any program's stream.
"""

from __future__ import annotations

import re
import signal
from datetime import tzinfo
from typing import Final, NamedTuple

from opusd.agents.adapters.base import one_line
from opusd.agents.adapters.resets import find_reset
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass

_STATUSES: Final = {
    401: FailureClass.AUTH,
    402: FailureClass.AUTH,
    403: FailureClass.AUTH,
    404: FailureClass.CONFIG,  # no such model, or no such address
    429: FailureClass.RATE_LIMITED,
}
"""All others are agent_error.

Overloaded (529, 503) too: it is the provider's state, not this account's; it names no reset, passes in seconds, and
the retry policy's short backoff with its bound fits. As a rate limit it would hold back the agent's whole lane for
minutes behind a probe, and without end.
"""

_ACCOUNT: Final = re.compile(
    r"insufficient[ _]quota|insufficient credits|credit balance|out of credits|spend cap|payment required|billing_error"
    r"|check your plan and billing",
    re.IGNORECASE,
)
"""The account has nothing left: no wait helps and no retry, as with auth. With a reset named it is a rate limit."""

_WORDS: Final = tuple(
    (failure, re.compile("|".join(alternatives), re.IGNORECASE))
    for failure, alternatives in {
        FailureClass.AGENT_ERROR: (r"overloaded|at capacity|high demand|service unavailable|internal server error",),
        FailureClass.RATE_LIMITED: (
            r"rate[ _-]?limit|too many requests|resource_exhausted",
            r"hit your (?:\w+ ){0,3}limit|\b(?:usage|session|weekly|hour) limit",
        ),
        FailureClass.AUTH: (
            r"(?:invalid|incorrect|missing|expired|no) (?:x-)?api[ -_]?key|check your api key",
            r"api[ -_]?key (?:is |was )?(?:invalid|missing|not)",
            r"authentication|unauthori[sz]ed|please (?:run )?/?log ?in|not logged in|log in again",
            r"token (?:has )?expired",
        ),
        FailureClass.CONFIG: (
            r"(?:unknown|unexpected|unrecognized|unrecognised|invalid) (?:option|argument|command|flag|subcommand)",
            r"unrecognized arguments|missing environment variable|error (?:loading|parsing) config",
            r"(?:unknown|invalid|no such|selected) model|model[ _]not[ _]found|modelnotfound",
            r"model\b.{0,80}(?:not found|does not exist|is not supported|not a valid model)",
            r"llm provider not provided",
        ),
    }.items()
)
"""The first that matches; overload first, for `the selected model is at capacity` names a model too."""

_LONGEST: Final = 8192
"""What is read of an error message, from its beginning."""

_STATUS: Final = re.compile(r"\b(?:status|http|api error|error code)(?: code)?[: ]{0,2}\(?([45]\d{2})\b", re.IGNORECASE)


class Failure(NamedTuple):
    """`failure` None: none, but there is something to be said about the success."""

    failure: FailureClass | None
    message: str
    until: int | None = None


def assess(text: str, now: int, zone: tzinfo, *, status: int | None = None, until: int | None = None) -> Failure:
    """What an error message means; `until` is a reset that was named elsewhere, already believed."""
    text = text[:_LONGEST]
    if status is None and (named := _STATUS.search(text)):
        status = int(named[1])
    until = until if until is not None else find_reset(text, now, zone)
    failure = _class_of(text, status, has_reset=until is not None)
    return Failure(failure, one_line(text), until if failure is FailureClass.RATE_LIMITED else None)


def class_of(text: str, status: int | None = None) -> FailureClass:
    """The class alone, while the stream still runs."""
    text = text[:_LONGEST]
    if status is None and (named := _STATUS.search(text)):
        status = int(named[1])
    return _class_of(text, status, has_reset=False)


def _class_of(text: str, status: int | None, *, has_reset: bool) -> FailureClass:
    if _ACCOUNT.search(text) and not has_reset:
        return FailureClass.AUTH
    if status is not None and status != 400:
        return _STATUSES.get(status, FailureClass.AGENT_ERROR)
    for failure, words in _WORDS:
        if words.search(text):
            return failure
    return FailureClass.AGENT_ERROR


def ended(how: Exit) -> Failure | None:
    """What an exit alone says; None is exit code 0. 128 + N is how shells and Node report signal N."""
    match how.kind:
        case "exit" if how.code == 0:
            return None
        case "exit":
            killed = _signal_name((how.code or 0) - 128)
            words = f"exited with code {how.code}" + (f" ({killed})" if killed else "")
            return Failure(FailureClass.AGENT_ERROR, how.message or words)
        case "signal":
            name = _signal_name(how.signal or 0) or f"signal {how.signal}"
            return Failure(FailureClass.AGENT_ERROR, how.message or f"ended by {name}")
        case "spawn":
            return Failure(FailureClass.SPAWN, how.message)
        case "lost":
            return Failure(FailureClass.LOST, how.message)


def killed(how: Exit) -> bool:
    """By a signal, or with the code of a program that caught one and ended for it, as Claude Code and Codex do."""
    return how.kind == "signal" or (how.kind == "exit" and _signal_name((how.code or 0) - 128) is not None)


def interrupted(how: Exit, noise: str, now: int, zone: tzinfo) -> Failure:
    """No final event: it has not succeeded. Why, its exit says, or its last words that were no events."""
    exit_says = ended(how)
    if exit_says is None:
        return Failure(FailureClass.AGENT_ERROR, "exited with code 0 without a result")
    if how.kind != "exit" or killed(how) or not noise.strip():
        return exit_says
    said = assess(noise, now, zone)
    return said._replace(message=one_line(f"{exit_says.message}: {_last_line(noise)}"))


def _last_line(noise: str) -> str:
    """The line that names the error, else the last one."""
    lines = [line for line in noise.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"\W*(?:\w+ )?error\b", line, re.IGNORECASE)]
    return (named or lines)[-1].strip()


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None
