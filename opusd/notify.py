"""What systemd tells a service in its environment, and what that tells systemd: sd_notify(3), sd_listen_fds(3).

The variables are taken out of the environment at once: an agent that inherited them could speak for the daemon.
Without systemd every call does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

_FIRST = 3
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Supervisor:
    """The service manager that started this process, if one did.

    `watchdog` is how many seconds may pass between two `alive`, None when nobody counts them.
    `listening` are the descriptors of sockets that it listens on for us; they are no longer inheritable.
    """

    def __init__(
        self, address: str | None = None, watchdog: float | None = None, listening: tuple[int, ...] = ()
    ) -> None:
        self._address = address
        self.watchdog = watchdog
        self.listening = listening

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Supervisor:
        """What the environment says to this very process, and to no other; the environment no longer says it."""
        said = {name: environ.pop(name, "") for name in _VARIABLES}
        me = str(os.getpid())
        micros = said["WATCHDOG_USEC"] if said["WATCHDOG_PID"] in {"", me} else ""
        count = said["LISTEN_FDS"] if said["LISTEN_PID"] == me else ""
        listening = tuple(range(_FIRST, _FIRST + int(count))) if count.isdecimal() else ()
        for descriptor in listening:
            os.set_inheritable(descriptor, False)
        watchdog = int(micros) / 1_000_000 if micros.isdecimal() and int(micros) else None
        return cls(said["NOTIFY_SOCKET"] or None, watchdog, listening)

    def ready(self, status: str = "") -> None:
        """The service is up; what was started after it may go on."""
        self.say("READY=1", *([f"STATUS={status}"] if status else []))

    def reloading(self, monotonic_us: int) -> None:
        """The configuration is being read again; `ready` says that it was."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        self.say("STOPPING=1")

    def alive(self) -> None:
        """The event loop turns. To be said at least twice in `watchdog` seconds."""
        self.say("WATCHDOG=1")

    def say(self, *assignments: str) -> None:
        """One datagram. A manager that does not listen is no reason to stop working."""
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as speaker,
            contextlib.suppress(OSError),
        ):
            speaker.sendto("\n".join(assignments).encode(), address)
