"""`opusctl wait`: until jobs have ended, or have started."""

from __future__ import annotations

from opusctl.failure import OK, UsageError
from opusctl.jobs import ACTIVE, WAITING
from opusctl.parsing import duration, ref
from opusctl.waiting import wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("ids", type=ref, nargs="*", metavar="ID", help="ids or keys")
    parser.add_argument("--group", metavar="NAME", help="all jobs of a group")
    parser.add_argument("--all", action="store_true", help="all jobs that are neither finished nor held now")
    parser.add_argument("--any", action="store_true", help="until one of them has ended")
    parser.add_argument("--until", choices=("final", "started"), help="what to wait for (default: final)")
    parser.add_argument("--timeout", type=duration, metavar="DURATION", help="give up after this long: exit 124")
    parser.epilog = "Exits 0 when all completed, 1 when one did not, 124 on timeout. Ctrl-C cancels nothing."


def run(session: Session, args: Namespace) -> int:
    if (bool(args.ids), args.group is not None, args.all).count(True) != 1:
        raise UsageError("say what to wait for: ids, --group NAME or --all", hint="see opusctl wait --help")
    ids = _unfinished(session) if args.all else args.ids
    if args.all and not ids:
        session.screen.talk("nothing is unfinished")
        return OK
    return wait_for(session, ids, group=args.group, any_of=args.any, until=args.until, timeout=args.timeout)


def _unfinished(session: Session) -> list[int]:
    """Held jobs wait for a person: who waits for all the work does not mean them, and would wait for ever."""
    statuses = [status for status in (*ACTIVE, *WAITING) if status != "held"]
    ids: list[int] = []
    cursor = None
    while True:
        asked = {"status": statuses, "limit": 1000, "order": "id", "cursor": cursor}
        page = session.call("job.list", asked)
        ids += [job["id"] for job in page["jobs"]]
        cursor = page.get("next_cursor")
        if not cursor:
            return ids
