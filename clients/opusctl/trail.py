"""Events in lines, as `history` and `events` print them."""

from __future__ import annotations

from opusctl.jobs import now
from opusctl.text import ago, scalar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from opusctl.screen import Part, Screen

STYLES = {
    "job.completed": "green",
    "job.failed": "red",
    "job.lost": "red",
    "job.cancelled": "dim",
    "job.expired": "dim",
    "job.retrying": "yellow",
    "job.cancelling": "yellow",
    "job.asked": "yellow",
    "job.started": "bold",
}


def event_rows(screen: Screen, events: Iterable[dict[str, Any]]) -> list[list[Part]]:
    """TIME, EVENT, ACTOR, DETAIL of one job's events."""
    return [
        [
            ago(event["time"], now()) if screen.terminal else event["time"],
            (event["kind"].removeprefix("job."), STYLES.get(event["kind"], "")),
            str(event.get("actor") or "-"),
            detail(event),
        ]
        for event in events
    ]


def detail(event: dict[str, Any]) -> str:
    """`attempt 2, running -> retrying, exit 1`."""
    words = []
    if event.get("attempt"):
        words.append(f"attempt {event['attempt']}")
    before, after = event.get("from"), event.get("to")
    if after and before != after:
        words.append(f"{before} -> {after}" if before else str(after))
    told = event.get("detail")
    if isinstance(told, dict):
        words += [f"{name} {scalar(value)}" for name, value in told.items() if value not in (None, "", [], {})]
    elif told:
        words.append(scalar(told))
    return ", ".join(words)
