"""How a verb ends other than well: what the user reads, what a script reads, and the exit code.

The exit codes are the contract's (section 10). A Failure is raised anywhere below `main` and shown only there.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes milliseconds to import; type checkers take this name for the real one
if TYPE_CHECKING:
    from typing import Any

OK = 0
FAILED = 1
USAGE = 2
NO_DAEMON = 3
NOT_FOUND = 4
WRONG_STATE = 5
NOT_ALLOWED = 6
TRY_LATER = 75
TIMED_OUT = 124
INTERRUPTED = 130

EXIT_OF_CODE = {
    -32700: FAILED,
    -32600: USAGE,
    -32601: FAILED,
    -32602: USAGE,
    -32603: FAILED,
    -32800: FAILED,
    -32001: NOT_FOUND,
    -32002: WRONG_STATE,
    -32003: TRY_LATER,
    -32004: TRY_LATER,
    -32005: NOT_ALLOWED,
    -32006: USAGE,
    -32007: WRONG_STATE,
    -32008: TRY_LATER,
    -32009: TRY_LATER,
}

START_THE_DAEMON = "start it: systemctl --user start opusd  (or run opusd in a terminal)"


class Failure(Exception):
    """`message` says what is wrong, `hint` what to do; `word` is the stable word that scripts test for."""

    exit_code = FAILED
    word = "failed"
    retryable = False

    def __init__(self, message: str, *, hint: str = "", **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data

    def as_error(self) -> dict[str, Any]:
        """The error object as `--json` prints it: that of the wire; `code` is null for what never was on the wire."""
        return {
            "code": None,
            "message": self.message,
            "data": {"code": self.word, "retryable": self.retryable, **self.data},
        }


class UsageError(Failure):
    exit_code = USAGE
    word = "usage"


class NoDaemon(Failure):
    """Nobody listens at the socket's path."""

    exit_code = NO_DAEMON
    word = "no_daemon"
    retryable = True


class DaemonGone(NoDaemon):
    """The connection ended before the answer came; what was asked may have been done."""

    word = "daemon_gone"


class NotAllowed(Failure):
    exit_code = NOT_ALLOWED
    word = "forbidden"


class WrongState(Failure):
    exit_code = WRONG_STATE
    word = "conflict"


class TimedOut(Failure):
    exit_code = TIMED_OUT
    word = "timed_out"
    retryable = True


class NotUnderstood(Failure):
    """A reply is not of the shape that its method promises."""

    word = "not_understood"

    def __init__(self, method: str, why: str) -> None:
        super().__init__(
            f"the daemon's reply to {method} is not understood; is it of another version? ({why})",
            hint="what was asked may have been done; opusctl doctor compares the versions",
        )


class Unwritten(Failure):
    """Stdout takes nothing more: its disk is full, or it is not for writing. What was asked is done all the same."""

    word = "unwritten"

    def __init__(self, why: OSError) -> None:
        super().__init__(f"stdout can't be written: {why.strerror or why}")


class Refused(Failure):
    """The daemon answered with an error; `code` is its number on the wire."""

    def __init__(self, error: dict[str, Any]) -> None:
        data = error.get("data")
        super().__init__(str(error.get("message", "the daemon refused")))
        self.error = error
        self.code = error.get("code")
        self.data = data if isinstance(data, dict) else {}
        self.word = str(self.data.get("code", "error"))
        self.exit_code = EXIT_OF_CODE.get(self.code, FAILED) if isinstance(self.code, int) else FAILED

    def as_error(self) -> dict[str, Any]:
        return self.error
