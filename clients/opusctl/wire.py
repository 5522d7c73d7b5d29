"""One blocking connection to the daemon: JSON-RPC 2.0, one JSON text a line, over the Unix socket.

It pairs replies with calls and keeps the notifications that come in between. It knows no method by name.
"""

from __future__ import annotations

import json
import os
import socket

from opusctl.failure import (
    START_THE_DAEMON,
    DaemonGone,
    NoDaemon,
    NotAllowed,
    NotUnderstood,
    Refused,
    TimedOut,
    UsageError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from opusctl.failure import Failure

LINE_LIMIT = 4 * 1024 * 1024  # the daemon closes the connection at a longer line
PATH_LIMIT = 107  # bytes in sun_path without its closing NUL
PATIENCE = 30.0  # seconds for the answer of a call that does not wait for anything
REMEMBERED = 16  # replies


def socket_path(given: str | None = None) -> str:
    """The option, else $OPUSD_SOCKET, else the runtime folder's, else the one under ~/.local/state."""
    environ = os.environ
    if given or environ.get("OPUSD_SOCKET"):
        return given or environ["OPUSD_SOCKET"]
    if environ.get("XDG_RUNTIME_DIR"):
        return environ["XDG_RUNTIME_DIR"] + "/opusd/opusd.sock"
    return os.path.expanduser("~/.local/state/opusd/opusd.sock")


class Connection:
    """`call` for one answer; `send` and `reply` for several calls in one round trip; `notifications` for a stream.

    `answered` has the last results with their methods, for whoever stumbles over one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._last_id = 0
        self._notifications: list[dict[str, Any]] = []
        self._replies: dict[int, dict[str, Any]] = {}
        self._methods: dict[int, str] = {}  # of the calls whose replies were not taken yet
        self.answered: list[tuple[str, Any]] = []
        self._socket = _connect(path)
        self._lines = self._socket.makefile("rb", 65536)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def call(self, method: str, params: dict[str, Any], patience: float | None = PATIENCE) -> Any:
        """The method's result. `patience` bounds the wait for it in seconds; None waits for ever."""
        return self.reply(self.send(method, params), patience)

    def send(self, method: str, params: dict[str, Any]) -> int:
        """Write one request; the id to give to `reply`."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        try:
            line = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError:
            raise UsageError("what you gave is not valid UTF-8") from None
        except ValueError:
            raise UsageError("NaN and Infinity are not JSON") from None
        if len(line) > LINE_LIMIT:
            raise UsageError(f"this request has {len(line):,} bytes; the daemon takes {LINE_LIMIT:,} at once")
        try:
            self._socket.settimeout(PATIENCE)
            self._socket.sendall(line)
        except TimeoutError:
            raise self._silent(PATIENCE) from None
        except OSError as error:
            raise self._gone() from error
        self._methods[self._last_id] = method
        return self._last_id

    def reply(self, call_id: int, patience: float | None = PATIENCE) -> Any:
        """The result of the call with this id, or Refused with the daemon's error."""
        while call_id not in self._replies:
            self._receive(patience)
        message, method = self._replies.pop(call_id), self._methods.pop(call_id)
        if "error" in message:
            raise _refusal(method, message["error"])
        result = message.get("result")
        self.answered = [*self.answered[1 - REMEMBERED :], (method, result)]
        return result

    def notifications(self, quiet: float | None = None) -> Iterator[dict[str, Any]]:
        """Every notification as it comes, until the connection ends with DaemonGone, or none came for `quiet` seconds.

        After that silence the connection is spent: a line may be half read.
        """
        while True:
            while self._notifications:
                yield self._notifications.pop(0)
            try:
                self._receive(quiet)
            except TimedOut:
                return

    def _receive(self, patience: float | None) -> None:
        """Take one line in: a reply, a notification, or the end."""
        try:
            self._socket.settimeout(patience)
            line = self._lines.readline()
        except TimeoutError:
            raise self._silent(patience) from None
        except OSError as error:
            raise self._gone() from error
        if not line.endswith(b"\n"):
            raise self._gone()
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise NoDaemon(f"what listens at {self.path} does not speak JSON-RPC", socket=self.path)
        if "method" in message:
            self._notifications.append(message)
        elif isinstance(message.get("id"), int):
            self._replies[message["id"]] = message
        elif "error" in message:  # id null: the daemon could not read what was sent
            raise _refusal("a call", message["error"])

    def _gone(self) -> DaemonGone:
        return DaemonGone(
            "the daemon went away before it answered",
            hint="what was asked may have been done; a submit with --key can be repeated safely",
            socket=self.path,
        )

    def _silent(self, patience: float | None) -> TimedOut:
        return TimedOut(
            f"no answer from the daemon within {patience:g} s" if patience else "no answer from the daemon",
            hint="it listens but does not answer: look at its log, or run opusctl doctor",
            socket=self.path,
        )


def _refusal(method: str, error: Any) -> Failure:
    return Refused(error) if isinstance(error, dict) else NotUnderstood(method, "its error is no object")


def _connect(path: str) -> socket.socket:
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise NoDaemon(
            f"the socket's path is over {PATH_LIMIT} bytes: {path}",
            hint="choose a shorter one with --socket or $OPUSD_SOCKET",
            socket=path,
        )
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(PATIENCE)
        stream.connect(path)
    except PermissionError:
        stream.close()
        raise NotAllowed(
            f"the socket {path} is another user's", hint="the daemon answers its own user and root", socket=path
        ) from None
    except OSError as error:
        stream.close()
        reason = "nobody listens at" if isinstance(error, ConnectionRefusedError) else "there is no socket at"
        if not isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
            reason = f"{error.strerror or error}:"
        raise NoDaemon(f"no daemon: {reason} {path}", hint=START_THE_DAEMON, socket=path) from None
    return stream
