"""A Commands object that does nothing real, and a raw peer that sends bytes and reads lines."""

import asyncio
import contextlib
import json

from opusd.api.methods import METHODS
from opusd.api.results import Capacity, Done, LogChunk, Pruned, Status, Subscription, Waited
from opusd.core.access import Caller
from opusd.core.errors import QueueFull
from opusd.rpc.calls import Bounds
from opusd.rpc.server import RpcServer

BOUND = 10.0  # seconds that anything here may take


class FakeCommands:
    """job.get echoes its id, job.wait and queue.drain wait for `gate`, job.update writes when `gate` opens."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.started = []
        self.written = []
        self.cancelled = []
        self.sinks = []
        self.unanswered = []
        self.first = None
        self.changed = asyncio.Event()

    def _note(self, where, what):
        where.append(what)
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(BOUND):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def job_get(self, session, params):
        self._note(self.started, params.id)
        return {"id": params.id}

    async def job_submit(self, session, params):
        async with session.turn:
            self._note(self.written, params.prompt)
        return {"job": {"prompt": params.prompt}, "created": True}

    async def job_submit_batch(self, session, params):
        raise QueueFull("no room", queued=1, max_queued=1, retry_after=2.0)

    async def job_list(self, session, params):
        return {"jobs": ["x" * 1000] * params.limit, "text": params.text}

    def job_list_unanswered(self, result):
        self._note(self.unanswered, result["text"])

    async def job_why(self, session, params):
        raise ZeroDivisionError("a secret inside")

    async def job_history(self, session, params):
        return {"events": object()}

    async def job_wait(self, session, params):
        try:
            self._note(self.started, params.group)
            await self.gate.wait()
        except asyncio.CancelledError:
            self._note(self.cancelled, params.group)
            raise
        return Waited(jobs=[], done=True)

    async def job_logs(self, session, params):
        return LogChunk(data="é" * (params.limit // 2), offset=0, next_offset=params.limit)

    def job_logs_shorter(self, result):
        return LogChunk(data="", offset=result.offset, next_offset=result.offset)

    async def job_prune(self, session, params):
        return Pruned(jobs=[])

    async def job_update(self, session, params):
        self._note(self.started, params.id)
        await self.gate.wait()
        self._note(self.written, params.id)
        return {"id": params.id}

    async def queue_capacity(self, session, params):
        caller = session.caller
        return {"agent": caller.agent, "job": caller.job, "pid": caller.pid, "uid": caller.uid}

    async def events_subscribe(self, session, params, sink):
        if self.first is not None:
            sink(1, self.first)
        self._note(self.sinks, sink)
        return Subscription(subscription=sink.subscription, cursor=params.since or 0)


assert {Capacity, Done, Status}  # what a real one gives back
OFFERED = [name for name, method in METHODS.items() if hasattr(FakeCommands, method.verb)]


class Peer:
    """Raw bytes to the daemon, and its lines back."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, *what):
        for each in what:
            self.writer.write(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n")

    def call(self, call, method, **params):
        self.send({"jsonrpc": "2.0", "id": call, "method": method, "params": params})

    async def line(self):
        async with asyncio.timeout(BOUND):
            line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, what):
        self.send(what)
        return await self.line()

    async def close(self):
        self.writer.transport.abort()  # what the daemon does not read must not keep us
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Daemon:
    """A real server on a real socket, and what it reported."""

    def __init__(self, path, bounds=None, identify=None, **options):
        self.path = path
        self.commands = FakeCommands()
        self.errors = []
        self.peers = []
        self.server = RpcServer(
            self.commands,
            identify=identify or (lambda _: Caller(uid=1000, pid=1)),
            on_error=lambda error, method: self.errors.append((error, method)),
            bounds=bounds or Bounds(),
            **options,
        )

    async def __aenter__(self):
        await self.server.serve(self.path)
        return self

    async def __aexit__(self, *exc):
        for peer in self.peers:
            await peer.close()
        self.commands.gate.set()
        await self.server.close(BOUND)

    @contextlib.asynccontextmanager
    async def server_is_idle(self):
        """The loop has turned often enough for everything that could happen to have happened."""
        before = None
        while before != (before := len(self.commands.started)):
            other = Peer(*await asyncio.open_unix_connection(self.path))
            for _ in range(50):
                await other.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"})
            await other.close()
        yield

    async def peer(self):
        peer = Peer(*await asyncio.open_unix_connection(self.path, limit=16 * 1024 * 1024))
        self.peers.append(peer)
        return peer
