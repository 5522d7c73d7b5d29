"""`opusctl workers`: the workers that claim jobs; `start` is one of them, which runs a program on each job."""

from __future__ import annotations

from opusctl.failure import OK, UsageError
from opusctl.jobs import now
from opusctl.parsing import duration, positive
from opusctl.text import ago

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.screen import Part, Screen
    from opusctl.session import Session
    from opusctl.worker import Plan

TAKES_COMMAND = True  # what follows `--` is not parsed but kept

SEE = "see opusctl workers --help"
EXAMPLES = """\
start runs ARGV on each job that it claims, in the job's folder: the Job comes as JSON on stdin, and what it writes to
the file $OPUS_RESULT is the job's result. Exit 0 completes the job, anything else fails it. Ctrl-C or SIGTERM finishes
what runs and takes no more; a second time stops it and gives it back. The program may call opusctl progress and ask.

examples:
  opusctl workers
  opusctl workers start --count 2 --type review -- ./review.py
  opusctl workers start --agents gpu --exit-when-idle -- sh -c 'jq -r .prompt | my-model'"""
START_ONLY = (
    "count", "name", "agents", "types", "labels", "group", "min_tier", "max_jobs", "exit_when_idle", "lease",
)  # fmt: skip


def arguments(parser: Parser) -> None:
    parser.usage = "opusctl workers [start [OPTIONS] -- ARGV...]"
    parser.epilog = EXAMPLES
    parser.add_argument("verb", nargs="?", choices=["start"], metavar="start", help="be a worker (default: list them)")
    what = parser.add_argument_group("with start")
    what.add_argument("--count", type=positive, metavar="N", help="jobs at once (default: 1)")
    what.add_argument("--name", metavar="NAME", help="what it is called (default: HOST-PID)")
    what.add_argument("--agents", "--agent", action="append", metavar="A,B", help="agents without slots (default: all)")
    what.add_argument("--types", "--type", action="append", metavar="A,B", help="jobs of these types alone")
    what.add_argument("--labels", "--label", action="append", metavar="A,B", help="jobs with one of these labels")
    what.add_argument("--group", metavar="GROUP", help="jobs of this group alone")
    what.add_argument("--min-tier", metavar="TIER", help="jobs of this tier or above")
    what.add_argument("--max-jobs", type=positive, metavar="N", help="leave after so many jobs")
    what.add_argument("--exit-when-idle", action="store_true", help="leave when there is nothing left to claim")
    what.add_argument("--lease", type=duration, metavar="D", help="how long a job is ours unless renewed (60s)")


def run(session: Session, args: Namespace) -> int:
    if args.verb is None:
        given = next((name for name in START_ONLY if getattr(args, name) not in (None, False)), None)
        if given is not None or args.argv is not None:
            what = "a command" if given is None else f"--{given.replace('_', '-')}"
            raise UsageError(f"{what} goes with start: opusctl workers start -- ARGV...", hint=SEE)
        return _list(session)
    if not args.argv:
        raise UsageError("no program behind --: opusctl workers start -- ARGV...", hint=SEE)
    import asyncio

    from opusctl.worker import Worker

    session.call("system.ping")  # that there is no daemon is said at once; later it is waited for
    session.close()
    plan = _plan(args)

    async def work() -> int:
        return await Worker(session.screen, session.path, plan).run()

    return asyncio.run(work())


def _plan(args: Namespace) -> Plan:
    from opusctl.worker import Plan, default_name

    filters = {
        "agents": _names(args.agents),
        "types": _names(args.types),
        "labels": _names(args.labels),
        "group": args.group,
        "min_tier": args.min_tier,
    }
    return Plan(
        name=args.name or default_name(),
        argv=args.argv,
        wanted={name: value for name, value in filters.items() if value is not None},
        slots=args.count or 1,
        most=args.max_jobs,
        leave_when_idle=args.exit_when_idle,
        lease=60.0 if args.lease is None else float(args.lease),
    )


def _names(given: list[str] | None) -> list[str] | None:
    return None if given is None else [name for words in given for name in words.split(",") if name]


def _list(session: Session) -> int:
    screen = session.screen
    reply = session.call("worker.list")
    workers = reply["workers"]
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        for one in workers:
            screen.line(one["worker"])
    elif not workers:
        screen.talk("no workers since the daemon started")
    else:
        titles = ["WORKER", "JOBS", "COMPLETED", "FAILED", "SEEN", "AGENTS"]
        screen.table(titles, [_row(screen, one) for one in workers], right=("COMPLETED", "FAILED"))
    return OK


def _row(screen: Screen, one: dict[str, Any]) -> list[Part]:
    seen = one["last_seen"]
    return [
        one["worker"],
        ",".join(str(number) for number in one["jobs"]) or "-",
        str(one["completed"]),
        str(one["failed"]),
        ago(seen, now()) if screen.terminal else seen,
        ",".join(one["agents"]) or "-",
    ]
