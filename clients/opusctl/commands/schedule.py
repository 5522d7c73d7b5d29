"""`opusctl schedule`: jobs that the daemon submits by the calendar: add, list, show, remove, pause, resume, run."""

from __future__ import annotations

from opusctl.entering import add_job_options
from opusctl.failure import OK, UsageError
from opusctl.jobs import each, now, state
from opusctl.schedules import add, add_calendar_options, calendar, local, refuse_calendar_options, told, upcoming
from opusctl.spec import fields
from opusctl.text import ago, scalar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.schedules import Schedule
    from opusctl.screen import Part
    from opusctl.session import Session

TAKES_COMMAND = True  # what follows `--` is not parsed but kept

SEE = "see opusctl schedule --help"
EXAMPLES = """\
examples:
  opusctl schedule add nightly --cron '0 3 * * *' --timezone Europe/Berlin -- make clean all
  opusctl schedule add review --cron '30 9 * * mon-fri' --overlap skip -p 'Review what was merged yesterday'
  opusctl schedule                     what there is, and when it is next
  opusctl schedule show nightly
  opusctl schedule run nightly         its job, now
  opusctl schedule pause nightly       no job until: opusctl schedule resume nightly"""


def arguments(parser: Parser) -> None:
    parser.usage = (
        "opusctl schedule [list]\n"
        "       opusctl schedule add NAME --cron WHEN [OPTIONS] (-p PROMPT | --file FILE | --like ID | -- ARGV...)\n"
        "       opusctl schedule show|remove|pause|resume|run NAME..."
    )
    parser.add_argument("words", nargs="*", metavar="DO NAME", help="what to do, and with which schedule")
    add_calendar_options(parser, named=False)
    add_job_options(parser)
    parser.epilog = EXAMPLES


def run(session: Session, args: Namespace) -> int:
    verb, names = (args.words[0], args.words[1:]) if args.words else ("list", [])
    if verb == "add":
        if len(names) != 1:
            raise UsageError("schedule add takes one NAME; a command goes behind --", hint=SEE)
        return add(session, args, names[0], SEE)
    _refuse_job_options(args, verb)
    if verb == "list":
        if names:
            raise UsageError("list takes no NAME: schedule show NAME", hint=SEE)
        return _list(session)
    if verb not in ("show", "remove", "pause", "resume", "run"):
        raise UsageError(f"schedule can't {verb}: add, list, show, remove, pause, resume, run", hint=SEE)
    if not names:
        raise UsageError(f"schedule {verb} takes the NAME of a schedule, or several", hint=SEE)
    act = {"show": _show, "remove": _remove, "run": _submit}.get(verb)
    _, code = each(session, names, lambda name: act(session, str(name)) if act else _steer(session, verb, str(name)))
    return code


def _refuse_job_options(args: Namespace, verb: str) -> None:
    refuse_calendar_options(args, "schedule add", SEE)
    given = [*fields(args), *(name for name in ("prompt", "file", "like", "argv") if getattr(args, name) is not None)]
    if given:
        raise UsageError(f"schedule {verb} takes no {given[0].replace('argv', 'command')}: add does", hint=SEE)


def _list(session: Session) -> int:
    screen = session.screen
    reply = session.call("schedule.list")
    found = reply["schedules"]
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        for one in found:
            screen.line(one["name"])
    elif not found:
        screen.talk("no schedules; opusctl schedule add NAME --cron WHEN adds one")
    else:
        screen.table(["NAME", "WHEN", "NEXT", "IN", "LAST JOB", "STATE"], [_row(one) for one in found], ("LAST JOB",))
    return OK


def _row(one: Schedule) -> list[Part]:
    moment = one["next_at"]
    error: Part = (one["last_error"], "red") if one["last_error"] else ("ok", "green")
    return [
        one["name"],
        calendar(one),
        local(moment) if moment else "-",
        ago(moment, now()) if moment else "-",
        "-" if one["last_job"] is None else str(one["last_job"]),
        ("paused", "yellow") if one["paused"] else error,
    ]


def _show(session: Session, name: str) -> None:
    screen = session.screen
    [one] = session.call("schedule.list", {"name": name})["schedules"]
    if screen.as_json or screen.quiet:
        told(session, one)
        return
    rows: list[tuple[str, str]] = [
        ("name", one["name"]),
        ("when", calendar(one)),
        ("next", upcoming(one)),
        ("last", "-" if one["last_at"] is None else f"{local(one['last_at'])}, {ago(one['last_at'], now())}"),
        ("last job", "-" if one["last_job"] is None else str(one["last_job"])),
        ("misfire", one["misfire"]),
        ("overlap", one["overlap"]),
    ]
    if one["last_error"]:
        rows.append(("error", one["last_error"]))
    rows += [(f"job.{field}", scalar(value)) for field, value in one["job"].items()]
    length = max(len(field) for field, _ in rows)
    for field, value in rows:
        screen.line((f"{field:<{length}}", "dim"), f"  {value}")


def _remove(session: Session, name: str) -> None:
    session.call("schedule.remove", {"name": name})
    screen = session.screen
    if screen.as_json:
        screen.json({"removed": name})
    else:
        screen.line(name if screen.quiet else f"{name}: removed; its jobs stay")


def _steer(session: Session, verb: str, name: str) -> None:
    told(session, session.call(f"schedule.{verb}", {"name": name}))


def _submit(session: Session, name: str) -> None:
    screen = session.screen
    reply = session.call("schedule.run", {"name": name})
    if screen.as_json:
        screen.json(reply)
    else:
        screen.line(str(reply["job"]["id"]))
        screen.talk(f"submitted job {reply['job']['id']} to {reply['job'].get('agent')}: it {state(reply['job'])}")
