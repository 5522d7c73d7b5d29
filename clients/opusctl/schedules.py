"""Schedules on the command line: the options that say when, adding one, and a line about it."""

from __future__ import annotations

import re
import time

from opusctl.entering import check_job, specs
from opusctl.failure import UsageError
from opusctl.jobs import now
from opusctl.text import ago, epoch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.session import Session

    Schedule = dict[str, Any]

NAME_LENGTH = 40  # of a name that is made from a title


def add_calendar_options(parser: Parser, *, named: bool) -> None:
    """`named`: there is an option for the name, which is no word of its own then."""
    when = parser.add_argument_group("by the calendar")
    when.add_argument("--cron", metavar="WHEN", help="'minute hour day month weekday', @hourly, @daily, @weekly, ...")
    if named:
        when.add_argument("--name", metavar="NAME", help="of the schedule (default: from the title)")
    when.add_argument("--timezone", metavar="ZONE", help="such as Europe/Berlin (default: the daemon's)")
    when.add_argument(
        "--misfire",
        choices=("skip", "once", "all"),
        help="for what came due while the daemon was down: no job, one job (default), or each its job",
    )
    when.add_argument(
        "--overlap",
        choices=("queue", "skip"),
        help="while its last job is unfinished: queue another (default), or none",
    )
    when.add_argument("--replace", action="store_true", help="put it in the place of the schedule of that name")


def refuse_calendar_options(args: Namespace, why: str, see: str) -> None:
    """They say nothing without what they belong to."""
    for name in ("cron", "name", "timezone", "misfire", "overlap", "replace"):
        if getattr(args, name, None):
            raise UsageError(f"--{name} goes with {why}", hint=see)


def add(session: Session, args: Namespace, name: str | None, see: str) -> int:
    """Give the daemon a schedule of the job that the options describe."""
    if args.cron is None:
        raise UsageError("when? --cron 'minute hour day month weekday', or --cron @daily", hint=see)
    for option in ("key", "run_at", "interactive"):
        if getattr(args, option):
            raise UsageError(f"--{option.replace('_', '-')} is for one job, not for each of a schedule's", hint=see)
    check_job(args, see)
    jobs, single = specs(session, args, see)
    if not single:
        raise UsageError("a schedule submits one job; the file has a list of them", hint=see)
    asked = {
        "name": name or _name(jobs[0]),
        "cron": args.cron,
        "timezone": args.timezone,
        "misfire": args.misfire,
        "overlap": args.overlap,
        "replace": args.replace or None,
        "job": jobs[0],
    }
    told(session, session.call("schedule.add", asked))
    return 0


def told(session: Session, schedule: Schedule) -> None:
    """What became of a schedule: its name alone under -q, JSON, else a line."""
    screen = session.screen
    if screen.as_json:
        screen.json(schedule)
    elif screen.quiet:
        screen.line(schedule["name"])
    else:
        screen.line(f"{schedule['name']}: {calendar(schedule)}; {upcoming(schedule)}")


def calendar(schedule: Schedule) -> str:
    """`0 3 * * * Europe/Berlin`."""
    return " ".join(word for word in (schedule["cron"], schedule["timezone"]) if word)


def upcoming(schedule: Schedule) -> str:
    """`next 2026-11-26 03:00 CET, in 5h`: the wall's clock where this is read, and how long that is."""
    if schedule["paused"]:
        return "paused"
    if not schedule["next_at"]:
        return "never again"
    if epoch(schedule["next_at"]) <= now():
        return "due now"
    return f"next {local(schedule['next_at'])}, {ago(schedule['next_at'], now())}"


def local(moment: str) -> str:
    """A time of the wire on the clock of this machine, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(epoch(moment)))


def _name(job: dict[str, Any]) -> str:
    """A name made from what the job is to do: `tidy-up-the-cache`."""
    text = job.get("title") or job.get("prompt") or " ".join(job.get("command") or ()) or job.get("type") or ""
    words = re.findall(r"\w+", text.strip().partition("\n")[0].lower())
    return "-".join(words)[:NAME_LENGTH].rstrip("-") or "schedule"
