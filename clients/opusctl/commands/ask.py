"""`opusctl ask`: said from inside a job, a question that a person is to answer; the job then needs input."""

from __future__ import annotations

import os

from opusctl.failure import OK, UsageError
from opusctl.jobfile import read_text
from opusctl.jobs import tell
from opusctl.parsing import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("text", metavar="TEXT", help="the question; - reads it from stdin")
    parser.add_argument("-o", "--option", action="append", metavar="ANSWER", help="an answer to choose; repeatable")
    parser.epilog = (
        "Works inside a job, where $OPUS_JOB_ID and $OPUS_TOKEN are set. The attempt ends; with the answer (opusctl "
        "answer) the job goes on, in its session where its agent has one."
    )


def run(session: Session, args: Namespace) -> int:
    job, token = os.environ.get("OPUS_JOB_ID"), os.environ.get("OPUS_TOKEN")
    if not job or not token:
        raise UsageError("this does not run inside a job: $OPUS_JOB_ID and $OPUS_TOKEN are not set")
    text = read_text("-", "question") if args.text == "-" else args.text
    asked = {"id": ref(job), "token": token, "text": text, "options": args.option}
    tell(session.screen, [session.call("worker.ask", asked)])
    return OK
