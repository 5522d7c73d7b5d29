"""aider: `aider --yes-always --message PROMPT` (0.86.2), which prints for people, in lines of 80 columns.

It exits with 0 whatever happened. An answer ends with a line of tokens and cost; a failed request begins with
`litellm.SomethingError:`, and when aider tries it again, `Retrying in` follows. So the line of tokens is its final
event, and an error after the last of them its failure. It asks nothing under --yes-always and has no sessions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Final

from opusd.agents.adapters.base import Limited, Observation, Progress, Said, Usage, UsageSeen, Verdict, one_line
from opusd.agents.adapters.events import LONGEST_TEXT, NOISE, plain
from opusd.agents.adapters.failures import Failure, assess, class_of, ended, interrupted, killed
from opusd.agents.adapters.lines import Line, Lines
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass

_STATUSES: Final = {
    "RateLimitError": 429, "RouterRateLimitError": 429, "AuthenticationError": 401, "PermissionDeniedError": 403,
    "BudgetExceededError": 402, "NotFoundError": 404, "BadRequestError": 400, "InternalServerError": 500,
    "BadGatewayError": 502, "ServiceUnavailableError": 503, "Timeout": 504,
}  # fmt: skip
"""litellm's names for what the provider answered."""

_BANNER: Final = re.compile(r"Aider v\d")
_ERROR: Final = re.compile(r"litellm\.(?:exceptions\.)?(\w+): |Traceback \(most recent call last\):")
_RETRYING: Final = re.compile(r"Retrying in [\d.]+ seconds\.\.\.")
_REPORT: Final = re.compile(
    r"Tokens: (?P<sent>[\d.]+k?) sent(?:, (?P<written>[\d.]+k?) cache write)?(?:, (?P<hit>[\d.]+k?) cache hit)?"
    r", (?P<received>[\d.]+k?) received\.(?: Cost: \$(?P<message>[\d.]+) message, \$(?P<session>[\d.]+) session\.)?"
)
_WRAPPED: Final = re.compile(r"\$?[\d.]+k?[ ,]|(?:sent|cache|write|hit|received|Cost|message|session)\b")
_TALK: Final = re.compile(
    r"Aider v|(?:Main m|Weak m|Editor m|M)odel: |Git repo: |Repo-map: |https://aider\.chat/|Added .* to the chat"
    r"|Restored previous conversation history\.$"
)
_DONE: Final = re.compile(r"(?:Applied edit to |Commit [0-9a-f]{7,40} )")
_LONGEST_REPORT: Final = 300


class Aider:
    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._lines = Lines()
        self._preface = ""
        self._begun = False
        self._block: list[str] = []
        self._size = 0
        self._report: str | None = None
        self._error: list[str] = []
        self._in_error = False
        self._said = ""
        self._usage: Usage | None = None
        self._answered = False

    def feed(self, text: str) -> list[Observation]:
        return [seen for line in self._lines.feed(text) for seen in self._on(line)]

    def gap(self) -> None:
        self._lines.gap()

    def end(self, exit: Exit, now: int, tail: str) -> Verdict:  # noqa: A002
        if (line := self._lines.rest()) is not None:
            list(self._on(line))
        list(self._close_report())
        failure = self._failure(exit, now)
        return Verdict(
            failure=failure.failure if failure else None,
            message=failure.message if failure else "",
            summary=self._said or tail,
            usage=self._usage,
            limited_until=failure.until if failure else None,
        )

    def _failure(self, how: Exit, now: int) -> Failure | None:
        if how.kind != "exit" or killed(how):
            return ended(how)
        if self._error:
            return self._assess(now)
        if not self._answered:
            return interrupted(how, "" if self._begun else self._preface, now, self._zone)
        return ended(how)

    def _assess(self, now: int) -> Failure:
        text = " ".join(self._error)
        named = _ERROR.match(text)
        return assess(text, now, self._zone, status=_STATUSES.get(named[1] or "") if named else None)

    def _on(self, line: Line) -> Iterator[Observation]:
        text = plain(line.text[:LONGEST_TEXT]).strip()
        if self._report is not None:
            if line.tail is None and _WRAPPED.match(text) and len(self._report) < _LONGEST_REPORT:
                self._report += f" {text}"
                if text.endswith("session."):
                    yield from self._close_report()
                return
            yield from self._close_report()
        if text.startswith("Tokens: "):
            self._report = text[:_LONGEST_REPORT]
            if text.endswith("session."):
                yield from self._close_report()
        elif _ERROR.match(text):
            self._error, self._in_error = [text[:_LONGEST_REPORT]], True
        elif _RETRYING.fullmatch(text):
            yield from self._on_retry(text)
        elif _TALK.match(text):
            self._begun = self._begun or _BANNER.match(text) is not None
            self._forget()
        elif _DONE.match(text):
            yield Progress(one_line(text, 200))
        else:
            self._keep(text)

    def _keep(self, text: str) -> None:
        """A line of an error, of the answer, or of what comes before aider has begun."""
        if self._in_error:
            self._in_error = bool(text)
            if text and len(self._error) < 40:
                self._error.append(text[:_LONGEST_REPORT])
        elif not self._begun:
            self._preface = (self._preface + text + "\n")[-NOISE:]
        elif self._size < LONGEST_TEXT:
            self._block.append(text[:LONGEST_TEXT])
            self._size += len(self._block[-1]) + 1

    def _forget(self) -> None:
        self._block, self._size, self._in_error = [], 0, False

    def _on_retry(self, text: str) -> Iterator[Observation]:
        self._forget()
        why = " ".join(self._error)
        named = _ERROR.match(why)
        yield Progress(one_line(text))
        if class_of(why, _STATUSES.get(named[1] or "") if named else None) is FailureClass.RATE_LIMITED:
            yield Limited(None, one_line(why))

    def _close_report(self) -> Iterator[Observation]:
        """The answer is over: what was said before the report is its text."""
        report, self._report = self._report, None
        if report is None:
            return
        found = _REPORT.fullmatch(report)
        if found is None:  # an answer may begin a line with this word
            self._keep(report)
            return
        self._answered, self._error = True, []
        if said := "\n".join(self._block).strip()[:LONGEST_TEXT]:
            self._said = said
            yield Said(said)
        self._forget()
        before = self._usage or Usage()
        self._usage = Usage(
            input_tokens=(before.input_tokens or 0) + _count(found["sent"]),
            output_tokens=(before.output_tokens or 0) + _count(found["received"]),
            cached_tokens=(before.cached_tokens or 0) + _count(found["hit"]),
            cost_usd=_cost(found["session"]) if found["session"] else before.cost_usd,
        )
        yield UsageSeen(self._usage)


def _count(text: str | None) -> int:
    """`13`, `2.5k`, `25k`: aider rounds."""
    try:
        return round(float((text or "0").removesuffix("k")) * (1000 if text and text.endswith("k") else 1))
    except (ValueError, OverflowError):
        return 0


def _cost(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
