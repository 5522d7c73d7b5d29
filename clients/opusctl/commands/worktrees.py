"""`opusctl worktrees`: the git worktrees of jobs and what is in them; `prune` removes those without work."""

from __future__ import annotations

from opusctl.failure import OK, UsageError
from opusctl.jobs import now
from opusctl.parsing import ref
from opusctl.text import ago, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

COLOURS = {"clean": "green", "dirty": "yellow", "ahead": "yellow", "unknown": "red"}


def arguments(parser: Parser) -> None:
    parser.add_argument("words", type=ref, nargs="*", metavar="[prune] ID", help="of these jobs alone (default: all)")
    parser.add_argument("-n", "--dry-run", action="store_true", help="with prune: say what would be removed")
    parser.epilog = (
        "prune removes clean worktrees of finished jobs, and their branches. What has changes, commits that no other\n"
        "branch has, or a job that is not finished stays: commit and merge, or remove it yourself with git."
    )


def run(session: Session, args: Namespace) -> int:
    words = list(args.words)
    if words[:1] == ["prune"]:
        return _prune(session, words[1:], dry_run=args.dry_run)
    if args.dry_run:
        raise UsageError("--dry-run goes with prune", hint="see opusctl worktrees --help")
    screen = session.screen
    reply = session.call("worktree.list", {"ids": words or None}, patience=None)
    found = reply["worktrees"]
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        _ids(screen, found)
    elif not found:
        screen.talk("no worktrees")
    else:
        titles = ["JOB", "STATUS", "STATE", "AGE", "BRANCH", "PATH"]
        screen.table(titles, [_row(screen, one) for one in found], right=("JOB",))
    return OK


def _prune(session: Session, ids: list[Any], *, dry_run: bool) -> int:
    screen = session.screen
    reply = session.call("worktree.prune", {"ids": ids or None, "dry_run": dry_run or None}, patience=None)
    removed, kept = reply["removed"], reply["kept"]
    if screen.as_json:
        screen.json(reply)
        return OK
    if screen.quiet:
        _ids(screen, removed)
        return OK
    for one in kept:
        screen.talk(f"kept {one['path']}: {one['kept']}")
    verb = "would be" if dry_run else "was" if len(removed) == 1 else "were"
    screen.line(f"{plural(len(removed), 'worktree')} {verb} removed")
    return OK


def _ids(screen: Screen, found: list[dict[str, Any]]) -> None:
    for job in dict.fromkeys(one["job"] for one in found):
        screen.line(str(job))


def _row(screen: Screen, one: dict[str, Any]) -> list[Part]:
    made = one.get("created_at")
    return [
        str(one["job"]),
        one.get("status") or "forgotten",
        (_state(one), COLOURS[one["state"]]),
        (ago(made, now()) if screen.terminal else made) or "-",
        one.get("branch") or "-",
        one["path"],
    ]


def _state(one: dict[str, Any]) -> str:
    """`dirty 2, ahead 1`: both matter to whoever wants to take the work over."""
    counts = [f"{word} {one[key]}" for word, key in (("dirty", "changes"), ("ahead", "ahead")) if one.get(key)]
    return ", ".join(counts) or str(one["state"])
