"""`opusctl edit`: changes a job that is not finished. What may be changed depends on its state; the daemon says so."""

from __future__ import annotations

from opusctl.failure import OK, UsageError
from opusctl.jobfile import read_text
from opusctl.jobs import tell
from opusctl.parsing import ref
from opusctl.spec import add_limit_options, add_name_options, add_order_options, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.session import Session

TAKES_COMMAND = True
EMPTY: dict[str, Any] = {
    "title": None, "labels": [], "metadata": {}, "timeout": None, "boost": 0, "needs": {}, "expires_in": None,
    "run_at": None, "depends_on": [], "max_retries": None,
}  # fmt: skip
"""What `--clear` puts in a field's place: its default."""


def arguments(parser: Parser) -> None:
    parser.usage = "opusctl edit ID [OPTIONS] [-- ARGV...]"
    parser.add_argument("id", type=ref, metavar="ID", help="the job's id or key")
    parser.add_argument("-p", "--prompt", metavar="PROMPT", help="another prompt; - reads it from stdin")
    add_name_options(parser)
    add_order_options(parser)
    add_limit_options(parser)
    names = sorted(name.replace("_", "-") for name in EMPTY)
    parser.add_argument(
        "--clear", action="append", choices=names, metavar="FIELD", help=f"back to the default: {', '.join(names)}"
    )
    parser.add_argument("--version", type=int, metavar="N", help="only if the job is still of this version")
    parser.epilog = "Lists (labels, dependencies, needs) are replaced as a whole."


def run(session: Session, args: Namespace) -> int:
    changes = {field.replace("-", "_"): EMPTY[field.replace("-", "_")] for field in args.clear or ()}
    changes.update(fields(args))
    if args.argv:
        changes["command"] = args.argv
    if args.prompt is not None:
        changes["prompt"] = read_text("-", "prompt") if args.prompt == "-" else args.prompt
    if not changes:
        raise UsageError("nothing to change", hint="see opusctl edit --help")
    if args.version is not None:
        changes["version"] = args.version
    job = session.connection.call("job.update", {"id": args.id, **changes})  # here null says something
    tell(session.screen, [job])
    return OK
