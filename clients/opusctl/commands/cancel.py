"""`opusctl cancel`: ends jobs, running ones by SIGTERM and after the grace by SIGKILL."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.parsing import duration
from opusctl.steering import steer, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    targets(parser)
    parser.add_argument("--reason", metavar="TEXT", help="kept with the job")
    parser.add_argument("--cascade", action="store_true", help="also what waits for it and what it submitted")
    parser.add_argument("--grace", type=duration, metavar="DURATION", help="time to end by itself (default 10s)")
    parser.epilog = "A second cancel with a shorter --grace ends it sooner."


def run(session: Session, args: Namespace) -> int:
    asked = {"reason": args.reason, "cascade": args.cascade or None, "grace": args.grace}
    return steer(session, "job.cancel", args, asked) or OK
