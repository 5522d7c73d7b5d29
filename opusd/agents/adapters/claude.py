"""Claude Code: `claude -p --output-format stream-json --verbose` (2.1.197).

The last line is `result`, and its `is_error` is the truth: `subtype` says "success" with an error too, and a limited
subscription or a refused key comes as a text of the assistant. Claude exits with 1 exactly when `is_error`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Final

from opusd.agents.adapters import events, resets
from opusd.agents.adapters.base import (
    Asked,
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
from opusd.agents.adapters.events import Event, Events, Table, amount, count, inner, string, tables
from opusd.agents.adapters.failures import Failure, assess, ended, interrupted, killed
from opusd.agents.spec import Exit
from opusd.core.retry import FailureClass

_ASK: Final = "AskUserQuestion"
_UNKNOWN_SESSION: Final = "No conversation found with session ID"
_KINDS: Final = {"rate_limit": 429, "authentication_failed": 401, "billing_error": 402, "server_error": 500}
"""`error` of an assistant's message that is no answer, as the status that it stands for."""

_DESCRIBED_BY: Final = ("description", "file_path", "pattern", "query", "url", "command", "prompt")
_FLAG: Final = re.compile(r'"is_error":(true|false)')
_STATUS: Final = re.compile(r'"api_error_status":(\d{3})\b')
_COST: Final = re.compile(r'"total_cost_usd":(\d{1,9}(?:\.\d{1,20})?)[,}]')
_MESSAGES: Final = 256
_QUESTIONS: Final = 16


class Claude:
    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._events = Events()
        self._session: str | None = None
        self._said = ""
        self._usage: Usage | None = None
        self._spent = _Spent()
        self._asked: dict[str, tuple[str, list[str]]] = {}
        self._refused_until: float | None = None
        self._refused = False
        self._kind = ""
        self._final: _Final | None = None

    def feed(self, text: str) -> list[Observation]:
        return [seen for event in self._events.feed(text) for seen in self._on(event)]

    def gap(self) -> None:
        self._events.gap()

    def end(self, exit: Exit, now: int, tail: str) -> Verdict:  # noqa: A002
        for event in self._events.close():
            list(self._on(event))
        final = self._final
        failure = self._failure(exit, now)
        if failure is not None:
            return self._verdict(failure, question=None)
        assert final is not None
        question = final.question or (next(reversed(self._asked.values())) if self._asked else None)
        notes = [final.denied] if final.denied else []
        if exit.code:
            notes.append(f"exited with code {exit.code} after its result")
        return self._verdict(Failure(None, "; ".join(notes)), question)

    # ------------------------------------------------------------------------------------------------- judging

    def _failure(self, how: Exit, now: int) -> Failure | None:
        final, until = self._final, None
        if self._refused and self._refused_until is not None:
            until = resets.from_epoch(self._refused_until, now)
        if how.kind in ("spawn", "lost"):
            return ended(how)
        if final is None:
            failure = interrupted(how, self._events.noise, now, self._zone)
            if self._refused and not killed(how) and failure.failure is FailureClass.AGENT_ERROR:
                return Failure(FailureClass.RATE_LIMITED, failure.message, until)
            return failure
        if final.error:
            status = final.status or _KINDS.get(self._kind) or (429 if self._refused else None)
            return assess(
                final.text or self._said or "failed without a message", now, self._zone, status=status, until=until
            )
        # The result is the last thing that a turn writes, when all is done and the session is kept. A code other than
        # that of `is_error` comes from what is shut down afterwards: hooks, servers, a closed pipe. To run it again
        # would do finished work twice. Whoever was killed did not get to its own end.
        return ended(how) if killed(how) else None

    def _verdict(self, failure: Failure, question: tuple[str, list[str]] | None) -> Verdict:
        final = self._final
        return Verdict(
            failure=failure.failure,
            message=failure.message,
            summary=(final.text if final is not None and not final.error else "") or self._said,
            session_id=self._session,
            usage=self._usage,
            limited_until=failure.until,
            question=question,
            session_unknown=final is not None and final.error and final.text.startswith(_UNKNOWN_SESSION),
        )

    # -------------------------------------------------------------------------------------------------- events

    def _on(self, event: Event) -> Iterator[Observation]:
        if event.long:
            if event.type == "result":
                yield from self._on_long_result(event)
            return
        table = event.table
        if (session := string(table, "session_id")) and session != self._session:
            self._session = session
            yield Session(session)
        match event.type:
            case "assistant":
                yield from self._on_assistant(table)
            case "user":
                self._on_answers(table)
            case "system" if string(table, "subtype") == "api_retry":
                yield Progress(_retry_words(table))
            case "rate_limit_event":
                yield from self._on_limit(inner(table, "rate_limit_info"))
            case "result":
                yield from self._on_result(table)
            case _:
                pass

    def _on_assistant(self, table: Table) -> Iterator[Observation]:
        message = inner(table, "message")
        if kind := string(table, "error"):
            self._kind = kind  # Claude Code's own words on a failed request, not the agent's
            return
        if self._spent.add(string(message, "id"), inner(message, "usage")):
            self._usage = self._spent.total()
            yield UsageSeen(self._usage)
        agents_own = table.get("parent_tool_use_id") is None
        for block in tables(message, "content"):
            match string(block, "type"):
                case "text" if agents_own and (text := string(block, "text").strip()):
                    self._said, self._kind = text, ""
                    yield Said(text)
                case "tool_use":
                    yield from self._on_tool(block)
                case _:
                    pass

    def _on_tool(self, block: Table) -> Iterator[Observation]:
        name, given = string(block, "name"), inner(block, "input")
        if name == _ASK and (question := _question(given)) is not None:
            self._asked[string(block, "id")] = question
            if len(self._asked) > _QUESTIONS:
                del self._asked[next(iter(self._asked))]
            yield Asked(*question)
        elif name == "TodoWrite" and (todos := tables(given, "todos")):
            done = sum(string(todo, "status") == "completed" for todo in todos)
            now = next((todo for todo in todos if string(todo, "status") == "in_progress"), todos[-1])
            yield Progress(one_line(string(now, "activeForm") or string(now, "content")), done / len(todos))
        elif name:
            what = next((text for key in _DESCRIBED_BY if (text := string(given, key))), "")
            yield Progress(one_line(f"{name}: {what}" if what else name, 200))

    def _on_answers(self, table: Table) -> None:
        """A question whose tool call succeeded was answered; one that was refused still waits for a person."""
        for block in tables(inner(table, "message"), "content"):
            if string(block, "type") == "tool_result" and block.get("is_error") is not True:
                self._asked.pop(string(block, "tool_use_id"), None)

    def _on_limit(self, info: Table) -> Iterator[Observation]:
        """`allowed` and `allowed_warning` come on healthy runs; only `rejected` refuses."""
        self._refused = string(info, "status") == "rejected"
        self._refused_until = amount(info, "resetsAt")
        if self._refused:
            until = None if self._refused_until is None else resets.epoch_us(self._refused_until)
            yield Limited(until, f"limit reached: {string(info, 'rateLimitType') or 'unknown'}")

    def _on_result(self, table: Table) -> Iterator[Observation]:
        errors = [text for text in table.get("errors") or [] if isinstance(text, str)] if table.get("is_error") else []
        denials = tables(table, "permission_denials")
        asked = [question for denial in denials if string(denial, "tool_name") == _ASK
                 and (question := _question(inner(denial, "tool_input"))) is not None]  # fmt: skip
        names = sorted({string(denial, "tool_name") for denial in denials} - {_ASK, ""})
        self._final = _Final(
            error=table.get("is_error") is not False,
            text=(string(table, "result") or events.clean("; ".join(errors))).strip(),
            status=count(table, "api_error_status"),
            denied=one_line(f"permission denied: {', '.join(names)}") if names else "",
            question=asked[-1] if asked else None,
        )
        if (usage := _final_usage(table)) is not None:
            self._usage = usage
            yield UsageSeen(usage, final=True)

    def _on_long_result(self, event: Event) -> Iterator[Observation]:
        """The flags come before the text and the cost after it."""
        flag, status = _FLAG.search(event.head), _STATUS.search(event.head)
        self._final = _Final(
            error=flag is None or flag[1] == "true",
            text=events.cut_string(event.head, "result").strip(),
            status=int(status[1]) if status else None,
        )
        if cost := _COST.search(event.tail):
            known = self._usage or Usage()
            self._usage = Usage(
                input_tokens=known.input_tokens,
                output_tokens=known.output_tokens,
                cached_tokens=known.cached_tokens,
                cost_usd=float(cost[1]),
            )
            yield UsageSeen(self._usage, final=True)


class _Final:
    """What `result` said."""

    def __init__(
        self,
        *,
        error: bool,
        text: str,
        status: int | None,
        denied: str = "",
        question: tuple[str, list[str]] | None = None,
    ) -> None:
        self.error = error
        self.text = text
        self.status = status
        self.denied = denied
        self.question = question


class _Spent:
    """Sums over messages, each of which comes once for each of its blocks and counts once; the last ones by id."""

    def __init__(self) -> None:
        self._recent: dict[str, tuple[int, int, int]] = {}
        self._older = (0, 0, 0)

    def add(self, message: str, usage: Table) -> bool:
        counted = _counts(
            usage, "input_tokens", "cache_creation_input_tokens", "output_tokens", "cache_read_input_tokens"
        )
        if not message or counted is None or self._recent.get(message) == counted:
            return False
        self._recent[message] = counted
        if len(self._recent) > _MESSAGES:
            oldest = self._recent.pop(next(iter(self._recent)))
            self._older = _plus(self._older, oldest)
        return True

    def total(self) -> Usage:
        total = self._older
        for counted in self._recent.values():
            total = _plus(total, counted)
        return Usage(input_tokens=total[0], output_tokens=total[1], cached_tokens=total[2])


def _plus(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _counts(table: Table, *names: str) -> tuple[int, int, int] | None:
    """Input with what went into the cache, which is paid as input; output; what was read from the cache."""
    fresh, written, out, cached = (count(table, name) for name in names)
    if fresh is None and out is None:
        return None
    return (fresh or 0) + (written or 0), out or 0, cached or 0


def _final_usage(table: Table) -> Usage | None:
    """All models' sums, for `usage` leaves out what subagents used; the cost is of all anyway."""
    names = ("inputTokens", "cacheCreationInputTokens", "outputTokens", "cacheReadInputTokens")
    models = [counted for model in inner(table, "modelUsage").values()
              if isinstance(model, dict) and (counted := _counts(model, *names)) is not None]  # fmt: skip
    total: tuple[int, int, int] | None = None
    for counted in models:
        total = counted if total is None else _plus(total, counted)
    if total is None:
        usage = inner(table, "usage")
        total = _counts(
            usage, "input_tokens", "cache_creation_input_tokens", "output_tokens", "cache_read_input_tokens"
        )
    cost = amount(table, "total_cost_usd")
    if total is None and cost is None:
        return None
    fresh, out, cached = total or (None, None, None)
    return Usage(input_tokens=fresh, output_tokens=out, cached_tokens=cached, cost_usd=cost)


def _question(given: Table) -> tuple[str, list[str]] | None:
    """`questions` of AskUserQuestion: one with its options, or several as lines that a person answers in one text."""
    questions = [question for question in tables(given, "questions") if string(question, "question")]
    if not questions:
        return None
    options = [_labels(question) for question in questions]
    if len(questions) == 1:
        return string(questions[0], "question"), options[0]
    lines = (
        string(question, "question") + (f" ({' / '.join(labels)})" if labels else "")
        for question, labels in zip(questions, options, strict=True)
    )
    return events.clean("\n".join(lines)), []


def _labels(question: Table) -> list[str]:
    found = question.get("options")
    listed = found if isinstance(found, list) else []
    labels = [string(option, "label") if isinstance(option, dict) else option for option in listed]
    return [events.clean(label) for label in labels if isinstance(label, str) and label]


def _retry_words(table: Table) -> str:
    status, attempt, of = (count(table, name) for name in ("error_status", "attempt", "max_retries"))
    why = string(table, "error") or "no answer"
    return one_line(f"waiting to try again ({attempt} of {of}): {why}" + (f", {status}" if status else ""))
