"""`opusctl resize`: how many attempts run at once, of the pool or of one agent. Lowering it ends nothing."""

from __future__ import annotations

from opusctl.failure import OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("slots", type=int, metavar="N", help="how many at once")
    parser.add_argument("--agent", metavar="NAME", help="of this agent, not of the pool")


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    reply = session.call("pool.resize", {"max_concurrent": args.slots, "agent": args.agent})
    if screen.as_json:
        screen.json(reply)
    elif args.agent:
        screen.talk(f"{args.agent} runs {args.slots} at once")
    else:
        screen.talk(f"the pool runs {reply.get('max_concurrent', args.slots)} at once, {reply.get('busy', 0)} run now")
    return OK
