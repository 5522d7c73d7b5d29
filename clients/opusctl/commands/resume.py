"""`opusctl resume`: takes a pause back; for an agent it ends the cool-down too."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.pausing import tell_paused, whose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    whose(parser)


def run(session: Session, args: Namespace) -> int:
    tell_paused(session, session.call("queue.resume", {"agent": args.agent, "group": args.group}))
    return OK
