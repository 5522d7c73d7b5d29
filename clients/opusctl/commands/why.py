"""`opusctl why`: what keeps a job from running, each thing with what would change it."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.jobs import FINAL, brief, each, now
from opusctl.parsing import ref
from opusctl.text import ago

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser, Ref
    from opusctl.screen import Screen
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("ids", type=ref, nargs="+", metavar="ID", help="ids or keys")


def run(session: Session, args: Namespace) -> int:
    screen = session.screen

    def explain(job: Ref) -> None:
        reasons, record = session.call_all([("job.why", {"id": job}), ("job.get", {"id": job})])
        if screen.as_json:
            screen.json(reasons)
        elif screen.quiet:
            screen.line(str(record["id"]))
        else:
            draw(screen, record, reasons)

    _, code = each(session, args.ids, explain)
    return code or OK


def draw(screen: Screen, job: Job, reasons: dict[str, Any]) -> None:
    """The job as the root of a small tree, a branch for each constraint."""
    screen.line(brief(screen, job))
    constraints = reasons.get("constraints") or []
    branch, last = ("├─ ", "└─ ") if screen.unicode else ("|- ", "`- ")
    kinds = max((len(str(one["kind"])) for one in constraints), default=0)
    for number, one in enumerate(constraints):
        end = f" (until {_until(screen, one['until'])})" if one.get("until") else ""
        screen.line(
            last if number == len(constraints) - 1 else branch,
            (f"{one['kind']:<{kinds}}", "yellow"),
            f"  {one.get('detail') or ''}{end}",
        )
    if not constraints:
        finished = "it is finished" if job["status"] in FINAL else "nothing keeps it from running"
        words = "it runs" if job["status"] == "running" else finished
        screen.line(last, (words, "green"))


def _until(screen: Screen, until: Any) -> str:
    if not isinstance(until, str):
        return str(until)
    return f"{until}, {ago(until, now())}" if screen.terminal and until[:4].isdecimal() else until
