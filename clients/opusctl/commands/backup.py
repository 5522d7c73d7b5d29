"""`opusctl backup`: a copy of the registry, consistent while jobs run. The daemon writes it."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.parsing import absolute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("path", type=absolute, metavar="FILE", help="the file to write; it must not exist")


def run(session: Session, args: Namespace) -> int:
    reply = session.call("system.backup", {"path": args.path}, patience=None)
    if session.screen.as_json:
        session.screen.json(reply)
    else:
        session.screen.talk("the registry is copied to")
        session.screen.line(args.path)
    return OK
