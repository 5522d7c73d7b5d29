"""What a verb works with: the daemon, reached when first asked, and the screen."""

from __future__ import annotations

from opusctl.failure import DaemonGone, NoDaemon, Refused
from opusctl.wire import PATIENCE, Connection, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from opusctl.failure import NotUnderstood
    from opusctl.screen import Screen

SHUTTING_DOWN, CANCELLED = -32008, -32800  # what a call that waits may end with when the daemon stops
RETURN_WITHIN = 60.0  # seconds that a waiting verb gives a daemon that went away to come back
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class Session:
    """`screen` to speak, `call` to ask. Parameters that are None are not sent."""

    def __init__(self, screen: Screen, socket: str | None) -> None:
        self.screen = screen
        self.path = socket_path(socket)
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self.path)
        return self._connection

    def call(self, method: str, params: dict[str, Any] | None = None, patience: float | None = PATIENCE) -> Any:
        return self.connection.call(method, _given(params), patience)

    def call_all(self, calls: Sequence[tuple[str, dict[str, Any]]], patience: float = PATIENCE) -> list[Any]:
        """Several calls in one round trip; their results in order."""
        connection = self.connection
        ids = [connection.send(method, _given(params)) for method, params in calls]
        return [connection.reply(call_id, patience) for call_id in ids]

    def misunderstood(self) -> NotUnderstood | None:
        """What to say of a verb that stumbled: the reply that it stumbled over, None when the replies are sound."""
        from opusctl.shapes import misshapen

        return None if self._connection is None else misshapen(self._connection.answered)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def come_back(self, failure: NoDaemon | Refused) -> None:
        """Reach the daemon again after it went away under a waiting verb; raises what happened when it stays away.

        Work goes on without the daemon, so a wait outlives its restart.
        """
        if isinstance(failure, Refused) and failure.code not in (SHUTTING_DOWN, CANCELLED):
            raise failure
        if isinstance(failure, NoDaemon) and not isinstance(failure, DaemonGone):
            raise failure
        self.close()
        import time

        self.screen.talk("the daemon went away; waiting for it to come back")
        end = time.monotonic() + RETURN_WITHIN
        pause = FIRST_PAUSE
        while True:
            try:
                self.call("system.ping")
            except (NoDaemon, Refused) as still:
                self.close()
                if time.monotonic() > end:
                    raise still from None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return


def _given(params: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}
