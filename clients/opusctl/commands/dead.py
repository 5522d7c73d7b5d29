"""`opusctl dead`: the dead letters, counted by agent and class of failure, with the last error of each."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.jobs import now
from opusctl.text import ago, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.jobs import Job
    from opusctl.parsing import Parser
    from opusctl.screen import Part
    from opusctl.session import Session

SHOWN = 50
PAGE = 1000
COUNTED = 20_000  # dead letters that are looked at for the counts


def arguments(parser: Parser) -> None:
    parser.add_argument("--agent", metavar="NAME", help="of this agent")
    parser.add_argument("--group", metavar="NAME", help="of this group")
    parser.add_argument("-n", "--limit", type=int, default=SHOWN, metavar="N", help=f"at most N jobs (default {SHOWN})")
    parser.epilog = "Run them again with: opusctl retry ID..."


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    jobs, complete = _dead(session, args.agent, args.group)
    shown = jobs[: args.limit]
    if screen.as_json:
        counts = [{"agent": agent, "class": kind, "jobs": number} for (agent, kind), number in _counts(jobs)]
        screen.json({"jobs": shown, "counts": counts, "total": len(jobs)})
    elif screen.quiet:
        for job in shown:
            screen.line(str(job["id"]))
    elif not jobs:
        screen.talk("no dead letters")
    else:
        for (agent, kind), number in _counts(jobs):
            screen.line((f"{number:>5}", "red"), f"  {agent}  {kind}")
        screen.line("")
        _table(session, shown)
        if len(shown) < len(jobs) or not complete:
            known = plural(len(jobs), "dead letter")
            screen.talk(f"{len(shown)} shown of {known if complete else f'more than {known}'}: --limit N shows more")
    return OK


def _dead(session: Session, agent: str | None, group: str | None) -> tuple[list[Job], bool]:
    jobs: list[Job] = []
    cursor = None
    while True:
        asked = {
            "dead": True,
            "agent": agent,
            "group": group,
            "order": "-completed_at",
            "limit": PAGE,
            "cursor": cursor,
        }
        page = session.call("job.list", asked)
        jobs += page["jobs"]
        cursor = page.get("next_cursor")
        if cursor is None or len(jobs) >= COUNTED:
            return jobs, cursor is None


def _counts(jobs: list[Job]) -> list[tuple[tuple[str, str], int]]:
    """How many of each agent and class, the most first."""
    counts: dict[tuple[str, str], int] = {}
    for job in jobs:
        key = (str(job.get("agent") or "-"), str((job.get("error") or {}).get("class") or "-"))
        counts[key] = counts.get(key, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _table(session: Session, jobs: list[Job]) -> None:
    screen = session.screen
    rows: list[list[Part]] = [
        [
            str(job["id"]),
            str(job.get("agent") or "-"),
            (str((job.get("error") or {}).get("class") or "-"), "red"),
            str(job.get("attempts") or 0),
            ago(job.get("completed_at"), now()) if screen.terminal else str(job.get("completed_at") or "-"),
            f"{job.get('title') or '-'}: {(job.get('error') or {}).get('message') or 'no message'}",
        ]
        for job in jobs
    ]
    screen.table(["ID", "AGENT", "CLASS", "TRIES", "ENDED", "TITLE: LAST ERROR"], rows, right=("ID", "TRIES"))
