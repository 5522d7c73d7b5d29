"""`opusctl dead`: the dead letters, counted by agent and class of failure, with the last error of each.

`dead retry` runs many of them again, `dead prune` removes what is kept of them: those named, or all that match.
"""

from __future__ import annotations

import sys

from opusctl.failure import FAILED, OK, Refused, UsageError
from opusctl.jobs import now
from opusctl.parsing import past_moment, positive, ref
from opusctl.text import ago, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser, Ref
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

SHOWN = 50
PAGE = 1000
COUNTED = 20_000  # dead letters that are looked at for the counts
AT_ONCE = 200  # ids in one call, which is done for all or for none


def arguments(parser: Parser) -> None:
    parser.usage = "opusctl dead [retry|prune [ID...|--all]] [OPTIONS]"
    parser.add_argument("words", type=ref, nargs="*", metavar="[retry|prune] ID", help="what to do, and with which")
    parser.add_argument("--agent", metavar="NAME", help="of this agent")
    parser.add_argument("--group", metavar="NAME", help="of this group")
    parser.add_argument("--class", dest="kind", metavar="CLASS", help="that failed so: timeout, auth, agent_error, ...")
    parser.add_argument("--since", type=past_moment, metavar="TIME", help="that failed since then: 2h, or a time")
    parser.add_argument(
        "-n", "--limit", type=positive, default=SHOWN, metavar="N", help=f"at most N jobs (default {SHOWN})"
    )
    parser.add_argument("--all", action="store_true", help="with retry, prune: all that match")
    parser.add_argument("--fresh", action="store_true", help="with retry: begin anew, in no session")
    parser.add_argument("--dry-run", action="store_true", help="with retry, prune: only say which")
    parser.add_argument("-y", "--yes", action="store_true", help="with --all: do not ask")
    parser.epilog = "What another agent carried on is no dead letter: see opusctl history ID."


def run(session: Session, args: Namespace) -> int:
    words = list(args.words)
    if words[:1] in (["retry"], ["prune"]):
        return _act(session, args, str(words[0]), words[1:])
    if words or args.all or args.fresh or args.dry_run or args.yes:
        raise UsageError("say what to do with them: opusctl dead retry, or opusctl dead prune")
    return _list(session, args)


# --- looking ----------------------------------------------------------------------------------------


def _list(session: Session, args: Namespace) -> int:
    screen = session.screen
    jobs: list[Job] = []
    complete = True
    for job in _dead(session, args):
        if len(jobs) >= COUNTED:
            complete = False
            break
        jobs.append(job)
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


def _dead(session: Session, args: Namespace) -> Iterator[Job]:
    """All that match, the latest first, page by page."""
    cursor = None
    while True:
        asked = {
            "dead": True,
            "agent": args.agent,
            "group": args.group,
            "since": args.since,
            "time": "completed",
            "order": "-completed_at",
            "limit": PAGE,
            "cursor": cursor,
        }
        page = session.call("job.list", asked)
        yield from (job for job in page["jobs"] if args.kind in (None, _class(job)))
        cursor = page.get("next_cursor")
        if cursor is None:
            return


def _class(job: Job) -> str:
    return str((job.get("error") or {}).get("class") or "-")


def _counts(jobs: list[Job]) -> list[tuple[tuple[str, str], int]]:
    """How many of each agent and class, the most first."""
    counts: dict[tuple[str, str], int] = {}
    for job in jobs:
        key = (str(job.get("agent") or "-"), _class(job))
        counts[key] = counts.get(key, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _table(session: Session, jobs: list[Job]) -> None:
    screen = session.screen
    rows: list[list[Part]] = [
        [
            str(job["id"]),
            str(job.get("agent") or "-"),
            (_class(job), "red"),
            str(job.get("attempts") or 0),
            ago(job.get("completed_at"), now()) if screen.terminal else str(job.get("completed_at") or "-"),
            f"{job.get('title') or '-'}: {(job.get('error') or {}).get('message') or 'no message'}",
        ]
        for job in jobs
    ]
    screen.table(["ID", "AGENT", "CLASS", "TRIES", "ENDED", "TITLE: LAST ERROR"], rows, right=("ID", "TRIES"))


# --- acting -----------------------------------------------------------------------------------------


def _act(session: Session, args: Namespace, verb: str, ids: list[Ref]) -> int:
    """Retry or prune those that are named, or all that match; each of it is a line of the audit trail."""
    screen = session.screen
    if bool(ids) is args.all:
        raise UsageError(f"which? opusctl dead {verb} ID..., or --all with --agent, --class, --group, --since")
    if args.all:
        ids = [job["id"] for job in _dead(session, args)]
    if args.dry_run or not ids:
        _tell(screen, verb, ids, [], dry_run=True)
        return OK
    if args.all and not args.yes and not _confirmed(screen, f"{verb} {plural(len(ids), 'dead letter')}?"):
        screen.talk("nothing was done")
        return FAILED
    done, refused = _in_pieces(session, verb, ids, fresh=args.fresh)
    _tell(screen, verb, done, refused, dry_run=False)
    return FAILED if refused else OK


def _confirmed(screen: Screen, question: str) -> bool:
    if not (screen.terminal and sys.stdin.isatty()):
        raise UsageError(f"{question} add --yes, for nobody is here to ask")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _in_pieces(session: Session, verb: str, ids: list[Ref], *, fresh: bool) -> tuple[list[Ref], list[dict[str, Any]]]:
    """A call takes all of its jobs or none: where one is refused, the piece is tried one by one."""
    done: list[Ref] = []
    refused: list[dict[str, Any]] = []
    for at in range(0, len(ids), AT_ONCE):
        piece = ids[at : at + AT_ONCE]
        try:
            done += _call(session, verb, piece, fresh=fresh)
        except Refused as whole:
            if whole.retryable or (len(piece) == 1 and len(ids) == 1):
                raise
            for one in piece:
                try:
                    done += _call(session, verb, [one], fresh=fresh)
                except Refused as refusal:
                    refused.append({"id": one, "error": refusal.as_error()})
        if session.screen.terminal and len(ids) > AT_ONCE:
            session.screen.talk(f"{min(at + AT_ONCE, len(ids)):,} of {len(ids):,}")
    return done, refused


def _call(session: Session, verb: str, ids: list[Ref], *, fresh: bool) -> list[Ref]:
    if verb == "prune":
        pruned: list[Ref] = session.call("job.prune", {"ids": ids}, patience=None)["jobs"]
        return pruned
    reply = session.call("job.retry", {"ids": ids, "fresh": fresh or None}, patience=None)
    return [job["id"] for job in reply["jobs"]] if not reply.get("omitted") else list(ids)


def _tell(screen: Screen, verb: str, done: list[Ref], refused: list[dict[str, Any]], *, dry_run: bool) -> None:
    if screen.as_json:
        screen.json({"verb": verb, "jobs": done, "refused": refused, "dry_run": dry_run})
        return
    for one in refused:
        screen.complain(f"opusctl: {one['error']['message']}")
    if screen.quiet:
        for job in done:
            screen.line(str(job))
        return
    words = {"retry": "run again", "prune": "pruned"}[verb]
    screen.line(f"{plural(len(done), 'dead letter')} {'would be' if dry_run else 'are'} {words}")
