"""`opusctl events`: the audit trail of all jobs and of the daemon, from a cursor on; `-f` goes on with what comes."""

from __future__ import annotations

from opusctl.failure import INTERRUPTED, OK, NoDaemon, Refused
from opusctl.parsing import ref
from opusctl.trail import STYLES, detail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.session import Session

QUIET_SECONDS = 1.0  # without -f: this long without a further event, and what is kept has come


def words(value: str) -> list[str]:
    return [word for word in value.split(",") if word]


def arguments(parser: Parser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--since", type=int, metavar="CURSOR", help="after this cursor; 0: all that is kept")
    parser.add_argument("--kind", type=words, action="extend", metavar="KIND", help="only these, such as job.failed")
    parser.add_argument("--job", type=ref, action="append", metavar="ID", help="only of this job")
    parser.add_argument("--group", metavar="NAME", help="only of jobs of this group")
    parser.epilog = "Without -f: all that is kept, or what came after --since. With -f and no --since: from now on."


class Stream:
    """The subscription; it remembers the cursor, so that it is resumed without a gap."""

    def __init__(self, session: Session, args: Namespace) -> None:
        self.session = session
        self.asked = {"kinds": _kinds(args.kind), "jobs": args.job, "group": args.group}
        self.cursor: int | None = args.since if args.follow else (args.since or 0)

    def subscribe(self) -> None:
        reply = self.session.call("events.subscribe", {**self.asked, "since": self.cursor})
        if self.cursor is None:
            self.cursor = reply["cursor"]

    def newest(self) -> int:
        """The cursor of the newest event there is: that of a subscription to nothing but what comes."""
        reply = self.session.call("events.subscribe")
        self.session.call("events.unsubscribe", {"subscription": reply["subscription"]})
        return int(reply["cursor"])

    def take(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The event of a notification. One that lagged begins the subscription anew where it stopped."""
        params = message.get("params", {})
        if message["method"] == "event.lagged":
            self.cursor = params.get("cursor", self.cursor)
            self.subscribe()
            return None
        event = params.get("event")
        if isinstance(event, dict):
            self.cursor = max(
                self.cursor or 0, event.get("cursor") or 0
            )  # progress is not kept: it has no place of its own
        return event if isinstance(event, dict) else None


def run(session: Session, args: Namespace) -> int:
    stream = Stream(session, args)
    try:
        return _follow(session, stream) if args.follow else _print_kept(session, stream)
    except KeyboardInterrupt:
        if stream.cursor is not None:
            session.screen.talk(f"go on from here with: opusctl events -f --since {stream.cursor}")
        return INTERRUPTED


def _follow(session: Session, stream: Stream) -> int:
    while True:
        try:
            stream.subscribe()
            for message in session.connection.notifications():
                event = stream.take(message)
                if event:
                    _print(session, event)
        except (NoDaemon, Refused) as failure:
            session.come_back(failure)


def _print_kept(session: Session, stream: Stream) -> int:
    """Everything up to the newest event there was when it began. With a filter the end is told by silence."""
    head = stream.newest()
    if head <= (stream.cursor or 0):
        return OK
    stream.subscribe()
    for message in session.connection.notifications(quiet=QUIET_SECONDS):
        event = stream.take(message)
        if event and event["cursor"] <= head:
            _print(session, event)
        if event and event["cursor"] >= head:
            break
    return OK


def _kinds(given: list[str] | None) -> list[str] | None:
    """`failed` is short for `job.failed`."""
    return [kind if "." in kind else f"job.{kind}" for kind in given] if given else None


def _print(session: Session, event: dict[str, Any]) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json(event)
        return
    if screen.quiet:
        if event.get("job"):
            screen.line(str(event["job"]))
        return
    job = f"job {event['job']}" if event.get("job") else "-"
    screen.line(
        f"{event.get('cursor') or '-':>6}  ",
        (event["time"], "dim"),
        "  ",
        (f"{event['kind']:<15}", STYLES.get(event["kind"], "")),
        f"  {job:<8}  {event.get('actor') or '-'}  {detail(event)}".rstrip(),
    )
