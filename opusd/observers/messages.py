"""Which events a sink is told of, and what it is told. Pure.

By itself a message holds names, numbers and words of ours: never a prompt, an environment, or what an agent printed. A
title may be the first line of a prompt, an error's message and a question come from the agent: each is put in only for
a sink whose `include` asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from opusd.core.job import Tier
from opusd.core.lifecycle import Status
from opusd.core.times import format_duration, to_rfc3339

if TYPE_CHECKING:
    from opusd.config.notifications import Sink
    from opusd.core.job import Event, Job
    from opusd.store.base import Record

KINDS: Final = {
    "failed": "job.failed",
    "expired": "job.expired",
    "needs_input": "job.asked",
    "escalated": "job.escalated",
    "rate_limited": "agent.cooling",
    "budget": "job.updated",
    "started": "job.started",
    "completed": "job.completed",
}
"""The words of `on` and the event that each is. An escalated job has its own, so `failed` is a dead letter."""
BUDGET: Final = "job.budget"
DRAINED: Final = "queue.drained"
TEST: Final = "notification.test"
AT_WORK: Final = (Status.QUEUED, Status.RUNNING, Status.CANCELLING, Status.RETRYING)
"""While a job is in one of these the queue is not drained."""
_LEAVING: Final = frozenset(
    f"job.{word}"
    for word in ("completed", "failed", "cancelled", "expired", "escalated", "asked", "held", "blocked", "scheduled")
)
_WORDS: Final = {kind: word for word, kind in KINDS.items()}
_USED: Final = frozenset(("budget", "used", "limit"))
_LONGEST: Final = 4000
_SECOND: Final = 1_000_000


def kinds_of(sinks: tuple[Sink, ...]) -> frozenset[str]:
    """The kinds of events that matter to any of these."""
    words = {word for sink in sinks for word in sink.on}
    kinds = {KINDS[word] for word in words if word in KINDS}
    if "rate_limited" in words:
        kinds.add("agent.ready")
    return frozenset(kinds | _LEAVING if "drained" in words else kinds)


def matters(event: Event, kinds: frozenset[str]) -> bool:
    """Whether anybody may be told of it. Of the many updates of jobs only those about a budget are of interest."""
    return event.kind in kinds and (event.kind != KINDS["budget"] or _budget(event) is not None)


def type_of(event: Event) -> str:
    """The `type` of its message."""
    return BUDGET if event.kind == KINDS["budget"] else event.kind


def _budget(event: Event) -> dict[str, Any] | None:
    """What it says of a budget that is nearly used up."""
    detail = event.detail or {}
    return {name: detail[name] for name in _USED} if detail.keys() >= _USED else None


def leaves(event: Event) -> bool:
    """Whether a job is at work no more: the queue may be drained."""
    return event.kind in _LEAVING and event.before in AT_WORK and event.after not in AT_WORK


def word_of(sink: Sink, event: Event, record: Record | None) -> str | None:
    """The word of the sink's `on` by which it is told of this event; None: it is not."""
    word = _WORDS.get(event.kind)
    if word is None or word not in sink.on or not matters(event, frozenset((event.kind,))):
        return None
    if word == "rate_limited":
        agent = (event.detail or {}).get("agent")
        return word if not sink.agents or agent in sink.agents else None
    if record is None or not _fits(sink, record.job):
        return None
    if word == "completed" and not record.job.terms.interactive:
        return None
    if word == "started" and (event.attempt != 1 or _waited(event, record.job) < sink.waited):
        return None
    return word


def _fits(sink: Sink, job: Job) -> bool:
    terms = job.terms
    return (
        (not sink.agents or terms.agent in sink.agents)
        and (not sink.groups or terms.group in sink.groups)
        and terms.tier >= sink.min_tier
    )


def body_of(sink: Sink, event: Event, record: Record | None) -> str:
    """The message of an event that `word_of` has let through, as JSON."""
    if record is None:
        detail = event.detail or {}
        agent, until = detail.get("agent"), detail.get("until")
        text = f"agent {agent} is rate limited until {until}"
        return _message(type_of(event), event.time, {"text": text, "agent": agent, "until": until})
    return _message(type_of(event), event.time, _of_job(sink, event, record))


def drained(time: int, unfinished: int) -> str:
    """`unfinished` jobs are held, blocked, scheduled, or wait for an answer."""
    left = f"; {unfinished} wait for something else" if unfinished else ""
    text = f"the queue is drained: nothing runs, nothing is queued{left}"
    return _message(DRAINED, time, {"text": text, "unfinished": unfinished})


def trial(time: int, sink: str) -> str:
    return _message(TEST, time, {"text": f"a test of the notification {sink}"})


def text_of(body: str) -> str:
    """The sentence in a message."""
    return str(msgspec.json.decode(body)["data"]["text"])


def _message(kind: str, time: int, data: dict[str, Any]) -> str:
    return msgspec.json.encode({"type": kind, "timestamp": to_rfc3339(time), "data": data}).decode()


def _of_job(sink: Sink, event: Event, record: Record) -> dict[str, Any]:
    job, terms = record.job, record.job.terms
    attempts = job.attempts if event.attempt is None else event.attempt
    title = _line(record.spec.title) if "title" in sink.include else None
    said, more = _particulars(sink, event, job, attempts)
    who = f"job {job.id}" if title is None else f"job {job.id} ({title})"
    return {
        "text": f"{who} of {terms.agent} {said}",
        "job": job.id,
        "key": job.key,
        **({} if title is None else {"title": title}),
        "agent": terms.agent,
        "group": terms.group,
        "tier": Tier(terms.tier).word,
        "interactive": terms.interactive,
        "status": event.after,
        "attempts": attempts,
        **more,
    }


def _particulars(sink: Sink, event: Event, job: Job, attempts: int) -> tuple[str, dict[str, Any]]:
    """What happened, in words of ours, and as data."""
    detail = event.detail or {}
    match event.kind:
        case "job.failed":
            tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            said, more = f"failed for good after {tried}: {detail.get('class')}", {"class": detail.get("class")}
        case "job.escalated":
            link, agent = detail.get("escalated_to"), detail.get("agent")
            said = f"failed: {detail.get('class')}; job {link} of {agent} carries on"
            more = {"class": detail.get("class"), "escalated_to": link, "escalated_to_agent": agent}
        case "job.expired":
            reason = "nobody answered its question" if "question" in detail else "it was queued for too long"
            said, more = f"expired: {reason}", {"reason": reason}
        case "job.asked":
            said, more = "needs an answer", {"question": detail.get("question"), **_question(sink, detail, job)}
            if "budget" in more:
                said = f"needs an answer: its {more['budget']} is used up"
        case "job.updated":
            more = _budget(event) or {}
            said = f"has brought {more['budget']} to {_number(more['used'])} of {_number(more['limit'])}"
        case "job.started":
            waited = _waited(event, job) // _SECOND
            said, more = f"started, {format_duration(waited * _SECOND)} after it was ready", {"waited_seconds": waited}
        case _:
            said, more = "completed", {}
    if "message" in sink.include and detail.get("message"):
        more["message"] = str(detail["message"])[:_LONGEST]
    return said, more


def _question(sink: Sink, detail: dict[str, Any], job: Job) -> dict[str, Any]:
    """The budget that it is about, and for whom it may be the open question's words; none when it was answered."""
    asked = None if job.extra is None else job.extra.question
    if asked is None or asked.id != detail.get("question"):
        return {}
    about = {} if asked.budget is None else {"budget": asked.budget}
    words = {"question_text": asked.text[:_LONGEST], "options": list(asked.options)}
    return {**about, **(words if "question" in sink.include else {})}


def _waited(event: Event, job: Job) -> int:
    """How long it stood in line; while its attempt runs, a jump of the wall's clock in between counts for nothing."""
    run = job.run
    if run is not None and run.attempt == event.attempt:
        return max(0, event.time - run.skew - job.ready_since)
    return max(0, event.time - (job.created_at if job.queued_at is None else job.queued_at))


def _number(amount: float) -> str:
    return f"{amount:,.2f}".removesuffix(".00")


def _line(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())
