"""An attempt as the pool sees it between its launch and its end, and the orders that its shim reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from opusd.agents.kernel import monotonic_seconds
from opusd.agents.spec import Ended, Exit
from opusd.agents.traces import read_orders
from opusd.agents.watch import Waiter

Key = tuple[int, int]


class Stage(Enum):
    """Launching until the launcher answers, running until the shim is over, settling until that is reported."""

    LAUNCHING = auto()
    RUNNING = auto()
    SETTLING = auto()


@dataclass(eq=False, slots=True)
class Attempt:
    """`generation` is of the launcher that forked its shim, 0 when that was an earlier daemon's.

    `orders` holds `kill_at` and `deadline` in `monotonic_seconds`: signals carry no numbers, and the shim is to
    carry on with them when the daemon is gone.
    """

    key: Key
    attempt_id: str
    folder: Path
    stage: Stage
    generation: int = 0
    shim: tuple[int, int] = (0, 0)
    pidfd: int | None = None
    orders: dict[str, float | None] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    waiters: set[Waiter] = field(default_factory=set)

    @property
    def log(self) -> Path:
        return self.folder / "output.log"

    def ended(self, how: Exit) -> Ended:
        """An end of which nothing but the exit is known."""
        return Ended(job=self.key[0], attempt=self.key[1], exit=how)

    def wake(self) -> None:
        """Everybody who waits for output looks again."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    def end_by(self, kill_at: float) -> None:
        """TERM now, KILL then. Said again: the earlier time counts."""
        before = self.orders.get("kill_at")
        self.orders["kill_at"] = kill_at if before is None else min(kill_at, before)
        self.send_end()

    def send_end(self) -> None:
        """Tell the shim, once there is one, to end all; one that was stopped is woken for it."""
        kill_at = self.orders.get("kill_at")
        if kill_at is None:
            return
        written = self.write_orders()
        self.signal(signal.SIGTERM, signal.SIGCONT)
        left = kill_at - monotonic_seconds()
        if left <= 0:
            self.signal(signal.SIGUSR1)
        elif not written and self.stage is Stage.RUNNING:  # a full disk: then the time is kept here
            if self.timer is not None:
                self.timer.cancel()
            self.timer = asyncio.get_running_loop().call_later(left, self.signal, signal.SIGUSR1)

    def signal(self, *numbers: signal.Signals) -> None:
        """To the shim, which may be over already."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                for number in numbers:
                    signal.pidfd_send_signal(self.pidfd, number)

    def write_orders(self) -> bool:
        """Whether the shim can read them now. The folder may not be there yet: the launcher makes it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "orders.new").write_text(json.dumps(self.orders), "ascii")
            (self.folder / "orders.new").rename(self.folder / "orders")
        except OSError:
            return False
        return True

    def read_orders(self) -> None:
        """What an earlier daemon ordered still holds, beside what was ordered since; the earlier kill counts."""
        before = read_orders(self.folder)
        kills = [at for orders in (before, self.orders) if (at := orders.get("kill_at")) is not None]
        self.orders = {**before, **self.orders, **({"kill_at": min(kills)} if kills else {})}
