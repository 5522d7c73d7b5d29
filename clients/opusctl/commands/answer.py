"""`opusctl answer`: what agents ask, and a person's answer, with which the job goes on."""

from __future__ import annotations

import sys

from opusctl.failure import OK, UsageError, WrongState
from opusctl.jobfile import read_text
from opusctl.jobs import brief, tell
from opusctl.parsing import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser
    from opusctl.screen import Screen
    from opusctl.session import Session

MOST = 1000


def arguments(parser: Parser) -> None:
    parser.usage = "opusctl answer [ID [TEXT] [--option N] [--question Q]]"
    parser.add_argument("id", type=ref, nargs="?", metavar="ID", help="the job's id or key; without it: what is asked")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the answer; - reads it from stdin")
    parser.add_argument("-o", "--option", type=int, metavar="N", help="the N-th of the options that were offered")
    parser.add_argument("--question", metavar="Q", help="answer only if the job still asks this question")
    parser.epilog = "Without TEXT the question is shown, and on a terminal the answer read. The job keeps its place."


def run(session: Session, args: Namespace) -> int:
    if args.id is None:
        if args.option is not None or args.question is not None:
            raise UsageError("which job? name it first", hint="opusctl answer lists what is asked")
        return _asked(session)
    if args.text is not None and args.option is not None:
        raise UsageError("give TEXT or --option, not both")
    job = session.call("job.get", {"id": args.id})
    question = job.get("question")
    if question is None:
        raise WrongState(f"nothing is asked: {brief(session.screen, job)}", hint="opusctl answer lists what is asked")
    text = _text(session.screen, args, job, question)
    answered = session.call("job.answer", {"id": job["id"], "question": args.question or question["id"], "text": text})
    tell(session.screen, [answered])
    return OK


def _asked(session: Session) -> int:
    """Every job that waits for an answer, with its question."""
    screen = session.screen
    jobs = session.call("job.list", {"status": "needs_input", "order": "id", "limit": MOST})["jobs"]
    if screen.as_json:
        screen.json({"jobs": jobs})
        return OK
    if screen.quiet:
        for job in jobs:
            screen.line(str(job["id"]))
        return OK
    for number, job in enumerate(jobs):
        if number:
            screen.line("")
        _show(screen, job)
    if not jobs:
        screen.talk("no job asks anything")
    return OK


def _show(screen: Screen, job: Job) -> None:
    question: dict[str, Any] = job.get("question") or {}
    screen.line((f"job {job['id']}", "bold"), f"  {job.get('title') or ''}")
    for line in str(question.get("text") or "").splitlines():
        screen.line("  ", (line, "yellow"))
    for number, option in enumerate(question.get("options") or (), 1):
        screen.line(f"  {number:>3}  {option}")


def _text(screen: Screen, args: Namespace, job: Job, question: dict[str, Any]) -> str:
    options: list[str] = question.get("options") or []
    if args.option is not None:
        if not 1 <= args.option <= len(options):
            offered = f"{len(options)} are offered" if options else "none is offered: give TEXT"
            raise UsageError(f"there is no option {args.option}: {offered}")
        return str(options[args.option - 1])
    if args.text == "-":
        return read_text("-", "answer")
    if args.text is not None:
        return str(args.text)
    if not (screen.terminal and sys.stdin.isatty()):
        raise UsageError(f"give the answer: job {job['id']} asks: {question.get('text')}", hint="opusctl answer --help")
    _show(screen, job)
    given = input("answer> ").strip()
    if given.isdecimal() and 1 <= int(given) <= len(options):
        return str(options[int(given) - 1])
    if not given:
        raise UsageError("nothing was answered")
    return given
