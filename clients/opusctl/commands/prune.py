"""`opusctl prune`: removes what is kept of finished jobs, and frees their keys."""

from __future__ import annotations

from opusctl.failure import OK, UsageError
from opusctl.jobs import FINAL
from opusctl.parsing import past_moment, ref
from opusctl.text import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("ids", type=ref, nargs="*", metavar="ID", help="finished jobs")
    parser.add_argument("--before", type=past_moment, metavar="TIME", help="finished before this (30d, 2025-11-01)")
    parser.add_argument("--status", action="append", choices=FINAL, help="with --before: only in this state")
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would be removed")


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    if bool(args.ids) == bool(args.before):
        raise UsageError("say what to remove: ids or --before TIME", hint="see opusctl prune --help")
    asked = {"ids": args.ids or None, "before": args.before, "status": args.status, "dry_run": args.dry_run or None}
    reply = session.call("job.prune", asked, patience=None)
    if screen.as_json:
        screen.json(reply)
        return OK
    for one in reply.get("worktrees", ()):
        screen.talk(f"{'would keep' if args.dry_run else 'kept'} {one['path']}: {one['kept']}")
    ids = reply["jobs"]
    if screen.quiet:
        for job in ids:
            screen.line(str(job))
    else:
        screen.line(
            f"{plural(len(ids), 'job')} {'would be' if args.dry_run else 'were' if len(ids) != 1 else 'was'} removed"
        )
        if ids and not args.dry_run:
            screen.talk("prompts, results and output are gone, keys are free; ids, titles, states and times stay")
    return OK
