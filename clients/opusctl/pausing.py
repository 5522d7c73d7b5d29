"""What `pause`, `resume` and `drain` share: whose dispatch is meant, and what is paused afterwards."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.session import Session


def whose(parser: Parser) -> None:
    """The options that say which part of the queue; without one it is the whole."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--agent", metavar="NAME", help="this agent alone")
    which.add_argument("--group", metavar="NAME", help="this group alone")


def tell_paused(session: Session, reply: Any) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json(reply)
    elif not screen.quiet:
        from opusctl.commands.status import paused_words

        paused = paused_words(reply)
        screen.talk(f"paused: {paused}" if paused else "nothing is paused")
