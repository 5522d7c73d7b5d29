"""What a job is to do, said on the command line: a prompt, a command, a file of jobs, or another job."""

from __future__ import annotations

from opusctl.failure import UsageError
from opusctl.jobfile import parse, read_text
from opusctl.parsing import ref
from opusctl.spec import add_spec_options, complete, fields, like

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session
    from opusctl.spec import Spec


def add_job_options(parser: Parser) -> None:
    """All that says what a job is; its command is behind `--`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-p", "--prompt", metavar="PROMPT", help="what the agent is asked to do; - reads it from stdin")
    what.add_argument("--file", metavar="FILE", help="a job, a list of jobs, or a job a line, in JSON; - is stdin")
    parser.add_argument("--like", type=ref, metavar="ID", help="copy the fields of a job; options change them")
    add_spec_options(parser)


def check_job(args: Namespace, see: str) -> None:
    """Refuse what does not go together before anything is sent."""
    if args.argv is not None and not args.argv:
        raise UsageError("no command behind --", hint=see)
    if args.argv and (args.prompt is not None or args.file):
        raise UsageError("a prompt or a file, and a command: give one of them", hint=see)
    if args.file and args.like is not None:
        raise UsageError("--file and --like: give one of them", hint=see)
    if args.run_at and args.delay is not None:
        raise UsageError("--run-at and --delay: give one of them", hint=see)


def specs(session: Session, args: Namespace, see: str) -> tuple[list[Spec], bool]:
    """The jobs that are meant, and whether it is one by itself and no batch."""
    given = fields(args)
    if args.file:
        entries, single = parse(read_text(args.file, "file of jobs"), args.file)
        if args.key and len(entries) > 1:
            raise UsageError("--key names one job; the file has several")
        return [complete({**entry, **given}) for entry in entries], single
    if args.argv:
        given["command"] = args.argv
    elif args.prompt is not None:
        given["prompt"] = read_text("-", "prompt") if args.prompt == "-" else args.prompt
    if not given and args.like is None:
        raise UsageError("nothing to submit: a prompt (-p), a command (--) or a file (--file)", hint=see)
    if args.like is not None:
        given = like(session.call("job.get", {"id": args.like}), given)
    return [complete(given)], True
