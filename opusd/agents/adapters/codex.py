"""Codex: `codex exec --json` (0.169.0).

A turn ends with `turn.completed` or `turn.failed`; `error` on the way is a failed try of which the next may succeed,
and an item of type `error` is a warning. Limits of a subscription come in prose alone. In `exec` Codex has nobody to
ask and prints no questions. It tells tokens and no cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo

from opusd.agents.adapters import events
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
from opusd.agents.adapters.events import Event, Events, Table, count, inner, string, tables
from opusd.agents.adapters.failures import Failure, assess, class_of, ended, interrupted, killed
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass


class Codex:
    """`before`: what earlier attempts used in the session that this one resumes; Codex counts the whole session."""

    def __init__(self, zone: tzinfo = UTC, before: Usage | None = None) -> None:
        self._zone = zone
        self._before = before or Usage()
        self._events = Events()
        self._session: str | None = None
        self._said = ""
        self._usage: Usage | None = None
        self._error = ""
        self._completed = False
        self._failed = False

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
            session_unknown=failure is not None and "no rollout found for thread id" in self._events.noise,
        )

    def _failure(self, how: Exit, now: int) -> Failure | None:
        if how.kind in ("spawn", "lost"):
            return ended(how)
        if self._failed or (self._error and not self._completed and not killed(how)):
            return assess(self._error, now, self._zone)
        if not self._completed:
            return interrupted(how, self._events.noise, now, self._zone)
        # Codex ends with 1 after a completed turn only for an error that it did not get over: no success.
        return ended(how)

    def _on(self, event: Event) -> Iterator[Observation]:
        if event.long:
            if event.type == "item.completed" and '"type":"agent_message"' in event.head:
                yield from self._say(events.cut_string(event.head, "text"))
            return
        table = event.table
        match event.type:
            case "thread.started" if session := string(table, "thread_id"):
                self._session = session
                yield Session(session)
            case "turn.started":
                self._completed, self._failed = False, False
            case "turn.completed":
                self._completed, self._failed, self._error = True, False, ""
                yield from self._on_usage(inner(table, "usage"))
            case "turn.failed":
                self._completed, self._failed = False, True
                self._error = string(inner(table, "error"), "message") or self._error or "the turn failed"
            case "error" if message := string(table, "message"):
                self._error = message
                yield Progress(one_line(message))
                if class_of(message) is FailureClass.RATE_LIMITED:
                    yield Limited(None, one_line(message))
            case "item.started" | "item.updated" | "item.completed":
                yield from self._on_item(inner(table, "item"), over=event.type == "item.completed")
            case _:
                pass

    def _say(self, text: str) -> Iterator[Observation]:
        if text := text.strip():
            self._said = text
            yield Said(text)

    def _on_item(self, item: Table, *, over: bool) -> Iterator[Observation]:
        match string(item, "type"):
            case "agent_message" if over:
                yield from self._say(string(item, "text"))
            case "todo_list" if todos := tables(item, "items"):
                done = sum(todo.get("completed") is True for todo in todos)
                first_open = next((todo for todo in todos if todo.get("completed") is not True), todos[-1])
                yield Progress(one_line(string(first_open, "text")), done / len(todos))
            case "command_execution" if not over:
                yield Progress(one_line(f"$ {string(item, 'command')}", 200))
            case "file_change" if over:
                paths = ", ".join(string(change, "path") for change in tables(item, "changes")[:8])
                yield Progress(one_line(f"edits {paths}", 200))
            case "mcp_tool_call" if not over:
                yield Progress(one_line(f"{string(item, 'server')}: {string(item, 'tool')}", 200))
            case "web_search" if query := string(item, "query"):
                yield Progress(one_line(f"searches: {query}", 200))
            case _:
                pass

    def _on_usage(self, usage: Table) -> Iterator[Observation]:
        fresh, out, cached = (count(usage, name) for name in ("input_tokens", "output_tokens", "cached_input_tokens"))
        if fresh is not None or out is not None:
            self._usage = Usage(
                input_tokens=_new(fresh, self._before.input_tokens),
                output_tokens=_new(out, self._before.output_tokens),
                cached_tokens=_new(cached, self._before.cached_tokens),
            )
            yield UsageSeen(self._usage, final=True)


def _new(total: int | None, before: int | None) -> int | None:
    return None if total is None else max(0, total - (before or 0))
