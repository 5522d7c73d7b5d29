"""One change asked of several jobs, or of a group: what `cancel`, `hold` and `release` share."""

from __future__ import annotations

from opusctl.failure import OK, UsageError
from opusctl.jobs import each, tell
from opusctl.parsing import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser, Ref
    from opusctl.session import Session


def targets(parser: Parser) -> None:
    """The options that say which jobs."""
    parser.add_argument("ids", type=ref, nargs="*", metavar="ID", help="ids or keys")
    parser.add_argument("--group", metavar="NAME", help="all unfinished jobs of a group")


def steer(session: Session, method: str, args: Namespace, asked: dict[str, Any]) -> int:
    """Ask for each job, or once for the group; one that refuses does not keep the others from it."""
    if bool(args.ids) == (args.group is not None):
        raise UsageError("say which jobs: ids or --group NAME", hint=f"see opusctl {method.partition('.')[2]} --help")
    if args.group is not None:
        tell_group(session, args.group, session.call(method, {"group": args.group, **asked}))
        return OK

    def one(job: Ref) -> None:
        tell(session.screen, [session.call(method, {"id": job, **asked})])

    _, code = each(session, args.ids, one)
    return code


def tell_group(session: Session, group: str, reply: Any) -> None:
    """A group's reply: its jobs, or a summary of whatever form."""
    if session.screen.as_json:
        session.screen.json(reply)
    elif isinstance(reply, dict) and isinstance(reply.get("jobs"), list):
        tell(session.screen, reply["jobs"])
        if not reply["jobs"]:
            session.screen.talk(f"nothing to do: none of the jobs of the group {group} is in a state for that")
    elif isinstance(reply, dict) and "id" in reply:
        tell(session.screen, [reply])
