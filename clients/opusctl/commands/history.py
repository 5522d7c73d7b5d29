"""`opusctl history`: the audit trail of a job, its attempts, and the chain of agents that carried on with it."""

from __future__ import annotations

from opusctl.commands.show import attempt_line
from opusctl.failure import OK
from opusctl.jobs import each, now, status_part
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
                screen.line(str(link))
            return
        if len(args.ids) > 1:
            screen.line((f"job {job}", "bold"))
        if history.get("truncated"):
            screen.line(("only the newest of its events and attempts", "dim"))
        screen.table(["TIME", "EVENT", "ACTOR", "DETAIL"], event_rows(screen, history["events"]))
        if history["attempts"]:
            screen.line(("attempts", "bold"))
            for row in history["attempts"]:
                screen.line(*attempt_line(row, now()))
        if len(history.get("chain") or ()) > 1:
            _draw_chain(session, history["chain"])

    _, code = each(session, args.ids, tell)
    return code or OK


def _draw_chain(session: Session, chain: list[int]) -> None:
    """Each link below the one that it carries on for, with its agent and how it ended."""
    screen = session.screen
    arrow = "└▶ " if screen.unicode else "`> "
    screen.line(("chain", "bold"))
    for depth, link in enumerate(session.call_all([("job.get", {"id": number}) for number in chain])):
        error = link.get("error") or {}
        words = ": ".join(str(part) for part in (error.get("class"), error.get("message")) if part)
        indent = "  " + "   " * (depth - 1) + arrow if depth else "  "
        parts = [indent, f"job {link['id']}  {link.get('agent')}  ", status_part(screen, link)]
        screen.line(*parts, f"  {words}" if words else "")
