"""The entry: finds the verb, builds its parser alone, runs it, turns what went wrong into words and an exit code."""

from __future__ import annotations

import sys

from opusctl.failure import INTERRUPTED, OK, Failure, Unwritten, UsageError
from opusctl.screen import Screen, flush, open_closed, silence, write
from opusctl.session import Session
from opusctl.verbs import VERBS, overview, unknown_verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import Protocol

    from opusctl.parsing import Parser

    class Command(Protocol):
        """A module of `commands`."""

        arguments: Callable[[Parser], None]
        run: Callable[[Session, Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code."""
    words = sys.argv[1:] if argv is None else argv
    open_closed()
    screen = Screen(as_json="--json" in _before_command(words), quiet=False)
    code = OK
    try:
        code = _run(words, screen)
        flush()
    except Failure as failure:
        return _report(screen, failure)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough: end quietly, as `opusctl list | head` should
        silence(sys.stdout)
    return code


def _run(words: list[str], screen: Screen) -> int:
    before, verb, rest = _split(words)
    if verb is None or verb == "help":
        return _help(before, rest, screen)
    if verb not in VERBS:
        raise UsageError(unknown_verb(verb), hint="see opusctl --help")
    command = _command(verb)
    parser = _parser(verb, command)
    command_line: list[str] | None = None
    if "--" in rest and hasattr(command, "TAKES_COMMAND"):
        cut = rest.index("--")
        rest, command_line = rest[:cut], rest[cut + 1 :]
    try:
        args = parser.parse([*before, *rest])
    except SystemExit:  # --help was asked for, and printed
        return OK
    args.argv = command_line
    screen.as_json, screen.quiet = args.json, args.quiet
    session = Session(screen, args.socket)
    try:
        return command.run(session, args)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        misunderstood = session.misunderstood()
        if misunderstood is None:
            raise
        raise misunderstood from error
    finally:
        session.close()


def _split(words: list[str]) -> tuple[list[str], str | None, list[str]]:
    """The options before the verb, the verb, and what follows it."""
    before: list[str] = []
    left = list(words)
    while left and left[0].startswith("-"):
        word = left.pop(0)
        before.append(word)
        if word == "--socket" and left:
            before.append(left.pop(0))
        elif word not in ("--json", "-q", "--quiet", "-h", "--help", "-V", "--version") and not word.startswith(
            "--socket"
        ):
            raise UsageError(f"unknown option before the verb: {word}", hint="see opusctl --help")
    return before, (left[0] if left else None), left[1:]


def _help(before: list[str], rest: list[str], screen: Screen) -> int:
    """`opusctl`, `opusctl --help`, `opusctl help [VERB]`, `opusctl --version`."""
    if "-V" in before or "--version" in before:
        from opusd import __version__

        screen.line(f"opusctl {__version__}")
        return OK
    if rest:
        if rest[0] not in VERBS:
            raise UsageError(unknown_verb(rest[0]), hint="see opusctl --help")
        _parser(rest[0], _command(rest[0])).print_help()
        return OK
    write(overview() + "\n")
    return OK


def _command(verb: str) -> Command:
    return __import__(f"opusctl.commands.{verb}", fromlist=["run"])


def _parser(verb: str, command: Command) -> Parser:
    from opusctl.parsing import Parser

    line = VERBS[verb]
    parser = Parser(verb, f"{line[0].upper()}{line[1:]}.")
    command.arguments(parser)
    parser.add_common_options()
    return parser


def _before_command(words: list[str]) -> list[str]:
    return words[: words.index("--")] if "--" in words else words


def _report(screen: Screen, failure: Failure) -> int:
    """Say what went wrong: JSON on stdout for scripts; else, or where that takes nothing, words on stderr."""
    try:
        if screen.as_json and not isinstance(failure, Unwritten):
            screen.json({"error": failure.as_error()})
            return failure.exit_code
        flush()
    except (BrokenPipeError, Unwritten):
        silence(sys.stdout)
    screen.complain(f"opusctl: {failure.message}")
    if failure.hint:
        screen.complain(f"  {failure.hint}")
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
