"""`opusctl capacity`: would a job start now, and if not, when."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.jobs import now
from opusctl.text import ago, plural, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session

STYLES = {"open": "green", "busy": "yellow", "full": "red"}
MEANINGS = {"open": "a slot is free", "busy": "jobs queue", "full": "no job is taken"}


def arguments(parser: Parser) -> None:
    parser.add_argument("agent", nargs="?", metavar="AGENT", help="for this agent")
    parser.add_argument("--source", choices=("user", "automated", "agent"), help="for jobs of this source")


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    reply = session.call("queue.capacity", {"agent": args.agent, "source": args.source})
    if screen.as_json:
        screen.json(reply)
        return OK
    state = str(reply["state"])
    if screen.quiet:
        screen.line(state)
        return OK
    queued = plural(reply.get("queued") or 0, "job") + " queued"
    if reply.get("max_queued"):
        queued += f" of at most {reply['max_queued']:,}"
    words = [MEANINGS.get(state, ""), f"{reply.get('running', 0)} of {reply.get('slots', 0)} slots busy", queued]
    if reply.get("estimated_start") and state != "open":
        start = str(reply["estimated_start"])
        words.append(f"a job given now starts {ago(start, now())}" if screen.terminal else f"starts {start}")
    if reply.get("retry_after"):
        words.append(f"try again in {span(float(reply['retry_after']))}")
    screen.line((state, STYLES.get(state, "")), ": ", ", ".join(word for word in words if word))
    return OK
