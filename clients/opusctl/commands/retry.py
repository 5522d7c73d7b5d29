"""`opusctl retry`: runs failed, cancelled and expired jobs again, and those in backoff now."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.jobs import tell
from opusctl.parsing import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("ids", type=ref, nargs="+", metavar="ID", help="ids or keys; all are retried or none")
    parser.add_argument("--fresh", action="store_true", help="start anew: not in the agent's session and folder")
    parser.add_argument("--cascade", action="store_true", help="also the jobs that were cancelled because of it")
    parser.epilog = "Failed for good: opusctl dead. All of them: opusctl retry $(opusctl dead -q)"


def run(session: Session, args: Namespace) -> int:
    asked = {"ids": args.ids, "fresh": args.fresh or None, "cascade": args.cascade or None}
    reply = session.call("job.retry", asked)
    if session.screen.as_json:
        session.screen.json(reply)
    else:
        tell(session.screen, reply["jobs"])
    return OK
