"""`opusctl notify`: who is told what, and how that goes; `test` sends one of them a message now."""

from __future__ import annotations

from opusctl.failure import FAILED, OK, UsageError
from opusctl.text import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.screen import Part
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="test NAME", help="send a message to this one, now and once")
    parser.epilog = "Notifications are configured as [[notifications]]; see config.example.toml."


def run(session: Session, args: Namespace) -> int:
    match args.words:
        case []:
            return _list(session)
        case ["test", name]:
            return _test(session, name)
        case _:
            raise UsageError("say nothing, or test NAME", hint="see opusctl notify --help")


def _list(session: Session) -> int:
    screen = session.screen
    reply = session.call("notification.list")
    found = reply["notifications"]
    if screen.as_json:
        screen.json(reply)
    elif screen.quiet:
        for one in found:
            screen.line(one["name"])
    elif not found:
        screen.talk("no notifications are configured")
    else:
        screen.table(["NAME", "TO", "ON", "SENT", "WAITING", "STATE"], [_row(one) for one in found])
    return OK


def _row(one: dict[str, Any]) -> list[Part]:
    state: Part = ("ok", "green")
    if one["problem"]:
        given_up = f"; {plural(one['dropped'], 'message')} given up" if one["dropped"] else ""
        state = (f"{one['problem']}{given_up}", "red")
    return [one["name"], one["to"], " ".join(one["on"]), str(one["sent"]), str(one["waiting"]), state]


def _test(session: Session, name: str) -> int:
    screen = session.screen
    reply = session.call("notification.test", {"name": name}, patience=None)
    if screen.as_json:
        screen.json(reply)
    elif reply["ok"]:
        screen.talk(f"{name} took it")
    else:
        screen.talk(f"{name} did not take it: {reply['problem']}")
    return OK if reply["ok"] else FAILED
