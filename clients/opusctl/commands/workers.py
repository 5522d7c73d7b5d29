"""`opusctl workers`: who claims jobs and what they hold; `start` runs a crew that works on them."""

from __future__ import annotations

import os

from opusctl.failure import OK, UsageError
from opusctl.jobs import now
from opusctl.parsing import duration
from opusctl.text import ago

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

TAKES_COMMAND = True
MOST = 256
LEASE = 60.0


def arguments(parser: Parser) -> None:
    parser.usage = "opusctl workers [start [--count N] [OPTIONS] -- ARGV...]"
    parser.add_argument(
        "words", nargs="*", metavar="start", help="start workers; without it: list those that are known"
    )
    group = parser.add_argument_group("start")
    group.add_argument("--count", type=int, default=1, metavar="N", help="so many jobs at once (default 1)")
    group.add_argument(
        "--agents", type=_listed, metavar="A,B", help="jobs of these agents (default: all without slots)"
    )
    group.add_argument("--types", type=_listed, metavar="T,U", help="jobs of these types")
    group.add_argument(
        "--label", action="append", metavar="LABEL", help="jobs with this label; repeatable: any of them"
    )
    group.add_argument("--group", metavar="NAME", help="jobs of this group")
    group.add_argument("--min-tier", choices=("low", "normal", "urgent", "critical"), help="jobs of this tier or above")
    group.add_argument("--max-jobs", type=int, metavar="N", help="stop after so many jobs")
    group.add_argument("--exit-when-idle", action="store_true", help="stop when there is nothing to do")
    group.add_argument(
        "--lease", type=duration, default=LEASE, metavar="TIME", help="a silent worker loses its job after this (1m)"
    )
    group.add_argument("--name", metavar="NAME", help="what the workers are called (default: HOST-PID)")
    parser.epilog = (
        "ARGV is run once for each job, in the job's folder, with the Job as JSON on its standard input; exit code 0\n"
        "completes it. Ctrl-C once finishes what runs; twice ends it and gives it back."
    )


def _listed(word: str) -> list[str]:
    return [part for part in word.split(",") if part]


def run(session: Session, args: Namespace) -> int:
    if args.words == ["start"]:
        return _start(session, args)
    if args.words or args.argv:
        raise UsageError("opusctl workers lists them; opusctl workers start -- ARGV... starts some")
    screen = session.screen
    reply = session.call("worker.list")
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        for one in reply["workers"]:
            screen.line(one["worker"])
    elif not reply["workers"]:
        screen.talk("no worker has claimed anything since the daemon started")
    else:
        titles = ["WORKER", "SEEN", "DONE", "FAILED", "AGENTS", "JOBS"]
        screen.table(titles, [_row(screen, one) for one in reply["workers"]], right=("DONE", "FAILED"))
    return OK


def _row(screen: Screen, one: dict[str, Any]) -> list[Part]:
    return [
        one["worker"],
        ago(one["last_seen"], now()) if screen.terminal else one["last_seen"],
        str(one["completed"]),
        (str(one["failed"]), "red" if one["failed"] else ""),
        ",".join(one["agents"]),
        ",".join(map(str, one["jobs"])),
    ]


def _start(session: Session, args: Namespace) -> int:
    if not args.argv:
        raise UsageError("what runs the jobs? opusctl workers start -- ARGV...")
    if not 1 <= args.count <= MOST:
        raise UsageError(f"--count is 1 to {MOST}, not {args.count}")
    if args.max_jobs is not None and args.max_jobs < 1:
        raise UsageError("--max-jobs is at least 1")
    import socket

    from opusctl.working import Crew

    session.call("system.ping")  # a daemon that is not there is said at once
    filters = {
        "worker": args.name or f"{socket.gethostname()}-{os.getpid()}",
        "agents": args.agents,
        "types": args.types,
        "labels": args.label,
        "group": args.group,
        "min_tier": args.min_tier,
    }
    claim = {name: value for name, value in filters.items() if value is not None}
    crew = Crew(
        session.screen,
        session.path,
        claim,
        args.argv,
        lease=float(args.lease),
        limit=args.max_jobs,
        until_idle=args.exit_when_idle,
    )
    session.screen.talk(f"{claim['worker']}: {args.count} at once; Ctrl-C stops")
    crew.work(args.count)
    return OK
