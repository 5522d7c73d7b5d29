"""`opusctl agents`: the agents, their slots, and how they do."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.jobs import now
from opusctl.text import ago

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

UNBOUNDED = 1_000_000  # slots: the agent has no limit of its own


def arguments(parser: Parser) -> None:
    pass


def run(session: Session, _args: Namespace) -> int:
    screen = session.screen
    reply = session.call("agent.list")
    agents = reply["agents"]
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        for agent in agents:
            screen.line(str(agent["name"]))
    else:
        rows = [_row(screen, agent) for agent in agents]
        titles = ["AGENT", "BUSY", "SLOTS", "QUEUED", "ATTEMPTS", "SUCCESS", "STATE"]
        screen.table(titles, rows, right=("BUSY", "SLOTS", "QUEUED", "ATTEMPTS", "SUCCESS"))
    return OK


def _row(screen: Screen, agent: dict[str, Any]) -> list[Part]:
    rate = agent.get("success_rate")
    slots = agent.get("slots", 0)
    return [
        str(agent["name"]),
        str(agent.get("busy", 0)),
        "pull" if slots == 0 else "any" if slots >= UNBOUNDED else str(slots),  # without slots, workers claim its jobs
        str(agent.get("queued", 0)),
        str(agent.get("attempts", 0)),
        f"{rate * 100:.0f}%" if isinstance(rate, (int, float)) else "-",
        _state(screen, agent),
    ]


def _state(screen: Screen, agent: dict[str, Any]) -> Part:
    if agent.get("paused"):
        return ("paused", "yellow")
    until = agent.get("cooling_until")
    if until:
        return (f"cooling down, ready {ago(until, now())}" if screen.terminal else f"cooling until {until}", "yellow")
    return ("ready", "green")
