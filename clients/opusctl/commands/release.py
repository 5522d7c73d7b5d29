"""`opusctl release`: lets held jobs go on."""

from __future__ import annotations

from opusctl.steering import steer, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    targets(parser)


def run(session: Session, args: Namespace) -> int:
    return steer(session, "job.release", args, {})
