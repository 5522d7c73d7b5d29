"""`opusctl hold`: puts jobs aside until they are released."""

from __future__ import annotations

from opusctl.steering import steer, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    targets(parser)
    parser.add_argument("--stop", action="store_true", help="end a running attempt too, at no cost, and hold the job")


def run(session: Session, args: Namespace) -> int:
    return steer(session, "job.hold", args, {"stop": args.stop or None})
