"""OpenCode: `opencode run --format json` (1.18.33).

A step ends with `step_finish`; its reason is `tool-calls` when another follows, and anything else ends the turn. An
`error` ends it too: what can be tried again OpenCode tries by itself before it says so. It refuses questions and
permissions to its agent when nobody is there, so it prints none. Tokens and cost are those of each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Final

from opusd.agents.adapters import events, resets
from opusd.agents.adapters.base import (
    Limited,
    Observation,
    Progress,
    Said,
    Session,
    Usage,
    UsageSeen,
    Verdict,
    one_line,
)
from opusd.agents.adapters.events import Event, Events, Table, amount, count, inner, string
from opusd.agents.adapters.failures import Failure, assess, class_of, ended, interrupted
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass

_AUTH: Final = "ProviderAuthError"
_CUT_SHORT: Final = {"length", "content-filter", "error"}
"""Reasons of a last step that did not come to its end."""


class OpenCode:
    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._events = Events()
        self._session: str | None = None
        self._said = ""
        self._usage: Usage | None = None
        self._error: Table | None = None
        self._finished = ""

    def feed(self, text: str) -> list[Observation]:
        return [seen for event in self._events.feed(text) for seen in self._on(event)]

    def gap(self) -> None:
        self._events.gap()

    def end(self, exit: Exit, now: int, tail: str) -> Verdict:  # noqa: A002
        for event in self._events.close():
            list(self._on(event))
        failure = self._failure(exit, now)
        return Verdict(
            failure=failure.failure if failure else None,
            message=failure.message if failure else "",
            summary=self._said,
            session_id=self._session,
            usage=self._usage,
            limited_until=failure.until if failure else None,
            session_unknown=failure is not None and "Session not found" in self._events.noise,
        )

    def _failure(self, how: Exit, now: int) -> Failure | None:
        if how.kind in ("spawn", "lost"):
            return ended(how)
        if self._error is not None:
            data = inner(self._error, "data")
            until = resets.from_headers(inner(data, "responseHeaders"), now)
            text = _words(self._error)
            # The body has the provider's code, such as insufficient_quota; the message is for people.
            judged = assess(
                f"{text} {string(data, 'responseBody')}", now, self._zone, status=_status(self._error), until=until
            )
            return judged._replace(message=one_line(text))
        if not self._finished:
            return interrupted(how, self._events.noise, now, self._zone)
        if self._finished in _CUT_SHORT:
            return Failure(FailureClass.AGENT_ERROR, f"the last step ended with {self._finished}")
        return ended(how)  # OpenCode ends with 0 unless something failed that it could not print

    def _on(self, event: Event) -> Iterator[Observation]:
        if event.long:
            if event.type == "text":
                yield from self._say(events.cut_string(event.head, "text"))
            return
        table = event.table
        if (session := string(table, "sessionID")) and session != self._session:
            self._session = session
            yield Session(session)
        part = inner(table, "part")
        match event.type:
            case "text":
                yield from self._say(string(part, "text"))
            case "tool_use" if tool := string(part, "tool"):
                title = string(inner(part, "state"), "title")
                yield Progress(one_line(f"{tool}: {title}" if title else tool, 200))
            case "step_start":
                self._finished = ""
            case "step_finish":
                reason = string(part, "reason")
                self._finished = "" if reason == "tool-calls" else reason or "stop"
                yield from self._on_usage(part)
            case "error":
                self._error = inner(table, "error")
                if class_of(_words(self._error), _status(self._error)) is FailureClass.RATE_LIMITED:
                    yield Limited(None, one_line(_words(self._error)))
            case _:
                pass

    def _say(self, text: str) -> Iterator[Observation]:
        if text := text.strip():
            self._said = text
            yield Said(text)

    def _on_usage(self, part: Table) -> Iterator[Observation]:
        tokens, cost = inner(part, "tokens"), amount(part, "cost")
        cache, before = inner(tokens, "cache"), self._usage or Usage()
        fresh, out = count(tokens, "input"), count(tokens, "output")
        if fresh is None and out is None and cost is None:
            return
        self._usage = Usage(
            input_tokens=(before.input_tokens or 0) + (fresh or 0) + (count(cache, "write") or 0),
            output_tokens=(before.output_tokens or 0) + (out or 0) + (count(tokens, "reasoning") or 0),
            cached_tokens=(before.cached_tokens or 0) + (count(cache, "read") or 0),
            cost_usd=(before.cost_usd or 0.0) + (cost or 0.0),
        )
        yield UsageSeen(self._usage, final=bool(self._finished))


def _words(error: Table) -> str:
    return string(inner(error, "data"), "message") or string(error, "name") or "failed without a message"


def _status(error: Table) -> int | None:
    return 401 if string(error, "name") == _AUTH else count(inner(error, "data"), "statusCode")
