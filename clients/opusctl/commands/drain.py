"""`opusctl drain`: pauses, waits until nothing runs, and leaves it paused."""

from __future__ import annotations

from opusctl.failure import INTERRUPTED, OK, TIMED_OUT
from opusctl.parsing import duration
from opusctl.text import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("--timeout", type=duration, metavar="DURATION", help="wait no longer than this: exit 124")
    parser.epilog = "The queue stays paused: opusctl resume. Ctrl-C ends the waiting, not the pause."


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    try:
        reply = session.call("queue.drain", {"timeout": args.timeout}, patience=None)
    except KeyboardInterrupt:
        screen.talk("no longer waiting; the queue stays paused. Start again with: opusctl resume")
        return INTERRUPTED
    left = reply.get("running") or []
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        for job in left:
            screen.line(str(job["id"]))
    elif left:
        screen.talk(f"{plural(len(left), 'job')} still running: {', '.join(str(job['id']) for job in left)}")
    else:
        screen.talk("nothing runs; the queue stays paused. Start again with: opusctl resume")
    return TIMED_OUT if left else OK
