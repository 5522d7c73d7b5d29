"""The daemon itself, but for its socket, its disk and its processes: those are the storm's.

It is built, started, stopped and killed as in production, and each of its calls is answered, cut off or cancelled as
opusd/rpc/connection.py does it. Whatever it does after it was killed is seen by nobody.
"""

from __future__ import annotations

import asyncio
import tomllib
from contextlib import ExitStack, nullcontext
from contextvars import Context
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

from opusd import daemon
from opusd.agents.worktree import Place
from opusd.api.methods import METHODS
from opusd.clock import SystemClock
from opusd.config import Config, parse
from opusd.core.access import Caller
from opusd.core.errors import OpusError, RequestCancelled, ShuttingDown, StorageUnavailable
from opusd.core.room import Room
from opusd.dispatcher import feed
from opusd.observers.sending import Sent
from opusd.store.base import OutcomeUnknown, StoreError
from opusd.testing.clock import START
from tests.simulation.storms.disk import Registry
from tests.simulation.storms.loop import soon
from tests.simulation.storms.yard import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.storms.disk import Disk
    from tests.simulation.storms.loop import Loop, Task
    from tests.simulation.storms.yard import Yard

RULES = """
default_agent = "claude"
max_concurrent = 4
max_submissions_per_minute = 200
resources = {gpu = 2}
min_free_disk = "off"
defaults = {grace = "5s", answer_in = "6h"}
retention = {finished = "4h", history = "5h", every = "20m"}
groups = {small = {max_running = 1}}

[agents.exec]
slots = 2
[agents.claude]
argv = ["claude"]
output = "claude"
slots = 2
retry = {strategy = "exponential", base = "2s", cap = "60s", max_retries = 2}
escalate_to = "codex"
stall_after = "10m"
starts_per_minute = 60
may_submit = ["claude", "codex"]
[agents.codex]
argv = ["codex"]
slots = 2
retry = "fast"
needs = {gpu = 1}
may_submit = ["codex"]
[agents.pull]
max_retries = 2

[[notifications]]
name = "phone"
command = ["tell"]
on = ["failed", "needs_input", "drained"]
"""
_MOST_AT_ONCE = 100
NARROW = RULES.replace("max_concurrent = 4", "max_concurrent = 2")


class Clock(SystemClock):
    """It waits as the machine's does; `ahead`: by how much people have set the wall's clock, in microseconds."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.ahead = 0
        self.boots = 1
        self._hurried = (0, 0)  # the step in which somebody waited for no time, and how often

    def now(self) -> int:
        return START + self.ahead + self.loop.now

    def monotonic(self) -> float:
        return self.loop.time()

    def offset(self) -> int:
        return START + self.ahead

    def boot(self) -> str:
        return f"boot-{self.boots}"

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if seconds is not None and seconds <= 0:
            step, times = self._hurried
            self._hurried = self.loop.steps, times + 1 if step == self.loop.steps else 1
            assert times < _MOST_AT_ONCE, "it spins: what it waits for is due already"
        return await super().wait(event, seconds)


class Server:
    """In the place of the RpcServer: what the daemon offers, and the calls that are under way."""

    def __init__(self, commands: Any) -> None:
        self.commands = commands
        self.calls: dict[int, Call] = {}
        self.is_open = False
        self.connections = 0

    async def serve(self, path: Path, inherited: int | None) -> None:
        self.is_open = True

    def configure(self, **bounds: Any) -> None:
        pass

    async def close(self, timeout: float) -> None:
        self.is_open = False
        tasks = [call.task for call in self.calls.values() if call.task is not None]
        for call in list(self.calls.values()):
            if METHODS[call.method].waits and call.task is not None:
                call.task.cancel()
        if tasks and timeout:
            await asyncio.wait(tasks, timeout=timeout)
        for call in list(self.calls.values()):
            call.seat.connection.gone = True
            call.over(None)


class Connection:
    """A client's: its calls take turns in the order sent."""

    def __init__(self, life: int) -> None:
        self.life = life
        self.turn = asyncio.Lock()
        self.gone = False
        self.wires: list[Any] = []
        self.effect = 0  # the number of the call that was the last to have one


class Seat:
    """The Session of one call: its caller is like no other, so that whatever it caused can be told."""

    def __init__(self, connection: Connection, caller: Caller) -> None:
        self.connection, self.caller, self.turn = connection, caller, connection.turn

    @property
    def gone(self) -> bool:
        return self.connection.gone


class Call:
    """One call. `then` is told of its result, of the OpusError that refused it, or of None: nobody answered."""

    def __init__(self, number: int, method: str, params: Any, seat: Seat, then: Callable[[Any], None]) -> None:
        self.number, self.method, self.params, self.seat = number, method, params, seat
        self.task: Task | None = None
        self.sink: Any = None
        self.cancelled = False
        self.is_over = False
        self.patience: int | None = None  # until when somebody is to answer
        self._then = then

    def over(self, outcome: Any) -> None:
        if not self.is_over:
            self.is_over = True
            self._then(outcome)


class Trees:
    """Worktrees without git."""

    def __init__(self, root: Path, base: Any) -> None:
        self._root = root

    def close(self) -> None:
        pass

    def path(self, name: str) -> Path:
        return self._root / name

    def names(self) -> list[str]:
        return []

    def plan(self, name: str, cwd: str, title: str) -> Place:
        return Place(workdir=str(self.path(name)), branch=f"opus/{name}")

    def make(self, name: str, cwd: str, place: Place) -> None:
        pass


class House:
    """`life` numbers the daemons. `heard(call, outcome)` is told of each answer before whoever asked."""

    def __init__(self, loop: Loop, disk: Disk, yard: Yard, folder: Path, chance: Any) -> None:
        self.loop, self.disk, self.yard, self.chance = loop, disk, yard, chance
        self.clock = Clock(loop)
        self.life = 0
        self.log: dict[str, int] = {}
        self.daemon: daemon.Daemon | None = None
        self.server: Server | None = None
        self.asked: Callable[[Call], None] = lambda _: None
        self.heard: Callable[[Call, Any], None] = lambda _call, _outcome: None
        self.died: Callable[[], None] = lambda: None
        self.rules: tuple[Config, Config] = (parse(tomllib.loads(RULES)), parse(tomllib.loads(NARROW)))
        self.config = self.rules[0]
        self._settings = daemon.Settings(state_dir=folder, socket=folder / "socket", load=lambda: self.config)
        self._main: Task | None = None
        self._ready = 0
        self._pool: Pool | None = None
        self._registry: Registry | None = None
        self._numbers = count(1)
        self._minted = count(1)

    def instead(self) -> ExitStack:
        """What stands in the place of the machine while this is entered."""
        stack = ExitStack()
        machine = SimpleNamespace(room=Room)
        idle = SimpleNamespace(shutdown=lambda **_: None)
        for name, value in {
            "AgentPool": self._new_pool,
            "SqliteStore": self._new_registry,
            "RpcServer": self._new_server,
            "Machine": lambda _: machine,
            "Worktrees": Trees,
            "Sender": lambda *_: SimpleNamespace(send=self._send),
            "started": lambda *_: idle,
            "resting": nullcontext,
            "Collector": Mock,
        }.items():
            stack.enter_context(patch.object(daemon, name, value))
        stack.enter_context(patch("opusd.dispatcher.workdirs.started", lambda *_: idle))
        for name, value in {"_PAGE": 7, "_TOGETHER": 2, "_TURN": 6, "_BEHIND": 12}.items():
            stack.enter_context(patch.object(feed, name, value))
        stack.enter_context(patch("opusd.dispatcher.tokens._drawn", []))
        for module in ("opusd.dispatcher.tokens", "opusd.observers.outbox"):
            stack.enter_context(patch(f"{module}.secrets", SimpleNamespace(token_hex=self._mint)))
        return stack

    def _new_pool(self, *, report: Any, **_: Any) -> Pool:
        self._pool = Pool(self.yard, report, self.life)
        return self._pool

    def _new_registry(self, _: Path) -> Registry:
        self._registry = Registry(self.disk)
        return self._registry

    def _new_server(self, commands: Any, **_: Any) -> Server:
        self.server = Server(commands)
        return self.server

    async def _send(self, sink: Any, entry: Any) -> Sent:
        return Sent(ok=self.chance.random() < 0.7, message="no answer")

    def _mint(self, size: int) -> str:
        """As many digits as asked for; no two of the numbers in them are the same."""
        width = min(size, 32)
        return "".join(f"{next(self._minted):0{width}x}" * 2 for _ in range(size // width))

    def _say(self, event: str, level: str = "info", **fields: Any) -> None:
        self.log[event] = self.log.get(event, 0) + 1
        if event == "daemon.started":
            self._ready = self.life
        if event in ("task.failed", "call.failed", "output.unreadable"):
            self.loop.fail(AssertionError(f"{event}: {fields}"))

    # --- its life -----------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.server is not None and self.server.is_open

    @property
    def is_dispatching(self) -> bool:
        """Whether its parts run: they do once it says that it is ready, until it is told to stop."""
        return self.is_open and self._ready == self.life and not self.daemon._stopping.is_set()  # type: ignore[union-attr]

    @property
    def is_at_disk(self) -> bool:
        """Whether something was asked of the disk and is not answered."""
        return self._registry is not None and self._registry.busy > 0

    @property
    def engine(self) -> Any:
        return None if self.daemon is None or not self.is_open else self.daemon._engine

    def start(self) -> None:
        self.life += 1
        self.daemon = daemon.Daemon(self._settings, self.config, log=self._say, clock=self.clock)
        self._main = soon(self.loop, self.daemon.run(), self.life)
        self._main.add_done_callback(self._ended, context=Context())

    def _ended(self, main: asyncio.Task[None]) -> None:
        """The process exits: 0, or 74 and 78 for what the registry did."""
        if main.cancelled() or main is not self._main:
            return
        error = main.exception()
        if error is not None and not isinstance(error, OutcomeUnknown | StoreError | StorageUnavailable):
            self.loop.fail(error)
        if error is None and self._registry is not None and self._registry.is_lost:
            self.loop.fail(AssertionError("it exits with 0, and nobody knows whether its last commit is kept"))
        name = "stopped" if error is None else type(error).__name__
        self.log[name] = self.log.get(name, 0) + 1
        self.kill()

    def kill(self) -> None:
        """SIGKILL, between two steps."""
        server, self.server, self.daemon, self._main = self.server, None, None, None
        if self._pool is not None:
            self._pool.cut = True
        self.yard.pool = None
        if self._registry is not None:
            self._registry.kill()
        self.loop.end(self.life)
        if server is not None:
            for call in list(server.calls.values()):
                call.seat.connection.gone = True
                call.over(None)
        self.died()

    # --- calls --------------------------------------------------------------------------------------

    def call(
        self, seat: Seat, method: str, then: Callable[[Any], None], sink: Any = None, **fields: Any
    ) -> Call | None:
        """Ask the daemon; None when there is none to ask."""
        server = self.server
        if server is None or not server.is_open:
            return None
        number = next(self._numbers)
        call = Call(number, method, METHODS[method].params(**fields), seat, then)
        call.sink = sink
        server.calls[number] = call
        self.asked(call)
        call.task = soon(self.loop, self._perform(server, call), self.life)
        call.task.add_done_callback(partial(self._finished, server, call))
        return call

    async def _perform(self, server: Server, call: Call) -> None:
        verb = getattr(server.commands, METHODS[call.method].verb)
        more = [call.sink] if call.sink is not None else []
        try:
            result = await verb(call.seat, call.params, *more)
        except OpusError as error:
            self._answer(call, error)
            return
        if call.seat.gone:
            unanswered = getattr(server.commands, f"{METHODS[call.method].verb}_unanswered", None)
            if unanswered is not None:
                unanswered(result)
            return
        self._answer(call, result)

    def _answer(self, call: Call, outcome: Any) -> None:
        """Whoever asked hears it, unless nobody is there any more; what fails then is the storm's."""
        if call.is_over or call.seat.gone or self.yard.strikes:
            return
        try:
            self.heard(call, outcome)
            call.over(outcome)
        except Exception as error:  # noqa: BLE001 - of our own judgement: told by the loop
            self.loop.fail(error)

    def _finished(self, server: Server, call: Call, task: asyncio.Task[None]) -> None:
        server.calls.pop(call.number, None)
        if task.cancelled():
            error = RequestCancelled("as asked") if call.cancelled else ShuttingDown("the daemon is shutting down")
            self._answer(call, error)
        elif (failure := task.exception()) is not None:
            self.loop.fail(failure)
        call.over(None)

    def cancel(self, call: Call) -> None:
        """$/cancelRequest."""
        if not call.is_over and METHODS[call.method].waits and call.task is not None:
            call.cancelled = True
            call.task.cancel()

    def hang_up(self, connection: Connection) -> None:
        """The client closes its connection."""
        connection.gone = True
        for wire in connection.wires:
            wire.close()
        server = self.server
        for call in list(server.calls.values()) if server is not None else ():
            method = METHODS[call.method]
            if call.seat.connection is connection:
                call.over(None)
                if (method.waits or method.kind != "write") and call.task is not None:
                    call.task.cancel()
