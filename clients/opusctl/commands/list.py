"""`opusctl list`: a line a job. Without options what is unfinished, in the order of dispatch, then the latest ends."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.jobs import ACTIVE, FINAL, WAITING, job_table
from opusctl.parsing import past_moment, positive, ref
from opusctl.text import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser
    from opusctl.session import Session

SHOWN = 50  # jobs, unless --limit says otherwise
LATEST = 10  # finished jobs among them, when nothing is said
NOT_READY = [status for status in WAITING if status != "queued"]  # these have no score
PAGE = 1000  # the most that one call gives
ONE_OR_MANY = ("status", "tier", "type", "agent", "source")
ORDERS = ("id", "-id", "completed_at", "-completed_at", "score")


def words(value: str) -> list[str]:
    return [word for word in value.split(",") if word]


def arguments(parser: Parser) -> None:
    statuses = ", ".join([*ACTIVE, *WAITING, *FINAL])
    parser.add_argument(
        "-s", "--status", type=words, action="extend", metavar="STATUS", help=f"one or several of {statuses}"
    )
    parser.add_argument("--tier", type=words, action="extend", metavar="TIER", help="critical, urgent, normal, low")
    parser.add_argument("--type", type=words, action="extend", metavar="TYPE", help="of this type")
    parser.add_argument("--agent", type=words, action="extend", metavar="NAME", help="for this agent")
    parser.add_argument("--source", type=words, action="extend", metavar="SOURCE", help="user, automated, agent")
    parser.add_argument("--label", metavar="LABEL", help="with this label")
    parser.add_argument("--group", metavar="NAME", help="of this group")
    parser.add_argument("--parent", type=ref, metavar="ID", help="submitted by this job")
    parser.add_argument("--text", metavar="WORDS", help="with this in the title or prompt")
    parser.add_argument(
        "--since", type=past_moment, metavar="TIME", help="from this time on (10m, 09:00, yesterday, a date)"
    )
    parser.add_argument("--until", type=past_moment, metavar="TIME", help="up to this time")
    parser.add_argument(
        "--time", choices=("created", "started", "completed"), help="which time --since and --until mean"
    )
    parser.add_argument("--dead", action="store_true", help="failed for good: not retried, not escalated")
    parser.add_argument("--order", choices=ORDERS, metavar="ORDER", help=f"{', '.join(ORDERS)}")
    parser.add_argument("-n", "--limit", type=positive, metavar="N", help=f"at most N jobs (default {SHOWN})")
    parser.add_argument("--cursor", metavar="CURSOR", help="go on where the last page ended (next_cursor of --json)")
    parser.add_argument("-a", "--all", action="store_true", help="every job, newest first")
    parser.add_argument("--full", action="store_true", help="with prompts and results (--json)")


def run(session: Session, args: Namespace) -> int:
    filters = _filters(args)
    narrowed = args.status or args.dead or args.order or args.cursor or args.time or args.since or args.until
    if args.all or narrowed:
        most = args.limit or (None if args.all else SHOWN)
        jobs, cursor = _pages(session, {**filters, "order": args.order, "cursor": args.cursor}, most)
        more = cursor is not None
    else:
        jobs, more = _overview(session, filters, args.limit)
        cursor = None
    _print(session, jobs, cursor)
    if more:
        session.screen.talk(
            f"{plural(len(jobs), 'job')} shown, there are more: a higher --limit, --all or a filter shows them"
        )
    return OK


def _filters(args: Namespace) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for name in ONE_OR_MANY:
        given = getattr(args, name)
        filters[name] = given[0] if given and len(given) == 1 else given
    for name in ("label", "group", "parent", "text", "since", "until", "time"):
        filters[name] = getattr(args, name)
    filters["dead"] = args.dead or None
    filters["full"] = args.full or None
    return filters


def _overview(session: Session, filters: dict[str, Any], limit: int | None) -> tuple[list[Job], bool]:
    """What runs, what is queued by score, what waits for something, what ended last: four calls in one round trip.

    Further pages are asked for where one call does not give as many as there is room for.
    """
    room = limit or SHOWN
    filters = {name: value for name, value in filters.items() if name != "status"}
    parts = [
        {**filters, "status": list(ACTIVE), "order": "id", "limit": min(room, PAGE)},
        {**filters, "status": ["queued"], "order": "score", "limit": min(room, PAGE)},
        {**filters, "status": NOT_READY, "order": "id", "limit": min(room, PAGE)},
        {**filters, "status": list(FINAL), "order": "-completed_at", "limit": min(limit or LATEST, PAGE)},
    ]
    jobs: list[Job] = []
    more = False
    for asked, page in zip(parts, session.call_all([("job.list", part) for part in parts]), strict=True):
        jobs += page["jobs"]
        cursor = page.get("next_cursor")
        if cursor is not None and limit is not None and len(jobs) < room:
            rest, cursor = _pages(session, {**asked, "cursor": cursor}, room - len(jobs))
            jobs += rest
        more = more or cursor is not None
    return jobs[:room], more or len(jobs) > room


def _pages(session: Session, asked: dict[str, Any], most: int | None) -> tuple[list[Job], str | None]:
    """As many as there are, or `most`; and the cursor behind them when there are more."""
    jobs: list[Job] = []
    while True:
        room = PAGE if most is None else min(PAGE, most - len(jobs))
        page = session.call("job.list", {**asked, "limit": room})
        jobs += page["jobs"]
        asked["cursor"] = page.get("next_cursor")
        if asked["cursor"] is None or (most is not None and len(jobs) >= most):
            return jobs, asked["cursor"]


def _print(session: Session, jobs: list[Job], cursor: str | None) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json({"jobs": jobs, "next_cursor": cursor})
    elif screen.quiet:
        for job in jobs:
            screen.line(str(job["id"]))
    elif jobs:
        job_table(screen, jobs)
    else:
        screen.talk("no jobs")
