"""`opusctl progress`: said from inside a job, how far it is; shown by status, list and show."""

from __future__ import annotations

import argparse
import os
import re

from opusctl.failure import OK, UsageError
from opusctl.parsing import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from opusctl.parsing import Parser
    from opusctl.session import Session


def fraction(word: str) -> float:
    """0 to 1 of `0.4`, `40%` or `4/10`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%|/(\d+(?:\.\d+)?))?", word)
    whole = float(match[3]) if match and match[3] else 100.0 if match and match[2] == "%" else 1.0
    if not match or whole == 0 or float(match[1]) > whole:
        raise argparse.ArgumentTypeError(f"not a part of a whole: {word!r} (0.4, 40%, 4/10)")
    return round(float(match[1]) / whole, 6)


def arguments(parser: Parser) -> None:
    parser.add_argument("fraction", type=fraction, nargs="?", metavar="FRACTION", help="0.4, 40%% or 4/10")
    parser.add_argument("message", nargs="?", metavar="MESSAGE", help="what is being done")
    parser.add_argument("-m", "--message", dest="said", metavar="MESSAGE", help="the same, without a fraction")
    parser.epilog = "Works inside a job, where $OPUS_JOB_ID and $OPUS_TOKEN are set."


def run(session: Session, args: argparse.Namespace) -> int:
    job, token = os.environ.get("OPUS_JOB_ID"), os.environ.get("OPUS_TOKEN")
    if not job or not token:
        raise UsageError("this does not run inside a job: $OPUS_JOB_ID and $OPUS_TOKEN are not set")
    message = args.message or args.said
    if args.fraction is None and message is None:
        raise UsageError("say how far: opusctl progress 40% 'running the tests'")
    progress = {name: value for name, value in (("fraction", args.fraction), ("message", message)) if value is not None}
    reply = session.call("worker.heartbeat", {"id": ref(job), "token": token, "progress": progress})
    if session.screen.as_json:
        session.screen.json(reply)
    elif reply.get("cancel"):
        session.screen.talk("this job is to end: it was cancelled")
    return OK
