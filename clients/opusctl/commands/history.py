"""`opusctl history`: the audit trail of a job, and its attempts."""

from __future__ import annotations

from opusctl.commands.show import attempt_line
from opusctl.failure import OK
from opusctl.jobs import each, now
from opusctl.parsing import ref
from opusctl.trail import event_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser, Ref
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("ids", type=ref, nargs="+", metavar="ID", help="ids or keys")


def run(session: Session, args: Namespace) -> int:
    screen = session.screen

    def tell(job: Ref) -> None:
        history = session.call("job.history", {"id": job})
        if screen.as_json:
            screen.json(history)
            return
        if screen.quiet:
            for link in history.get("chain") or [job]:
                screen.line(str(_id(link)))
            return
        if len(args.ids) > 1:
            screen.line((f"job {job}", "bold"))
        if history.get("truncated"):
            screen.line((f"the newest {len(history['events']):,} events", "dim"))
        screen.table(["TIME", "EVENT", "ACTOR", "DETAIL"], event_rows(screen, history["events"]))
        if history["attempts"]:
            screen.line(("attempts", "bold"))
            for row in history["attempts"]:
                screen.line(*attempt_line(row, now()))
        chain = [str(_id(link)) for link in history.get("chain") or []]
        if len(chain) > 1:
            screen.line("escalated: job ", " -> ".join(chain))

    _, code = each(session, args.ids, tell)
    return code or OK


def _id(link: object) -> object:
    return link.get("id") if isinstance(link, dict) else link
