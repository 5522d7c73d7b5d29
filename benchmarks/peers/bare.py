"""The least that a durable queue in Python can be: opusd without all that it decides.

It answers the few calls that opusd's driver makes, over the same kind of socket, under the same loop and decoder. The
rows of a job of opusd's go, with other ids, into a registry like its own; calls that came together share a transaction.
It checks nothing and knows no order but that of arrival: no priorities, limits, leases, retries, subscribers, errors.
Its replies are as long as opusd's and ready made, and it commits where it stands, though everybody waits meanwhile. So
what it can't do on a machine, no such queue in Python can.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict, deque
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import msgspec
import uvloop

from peers.drivers import wire
from peers.drivers.opusd import request
from peers.drivers.registry import like, row_of

_MOST_ROWS: Final = 64
_LIKE: Final = 2
"""The job whose rows and reply all others have: the registry's first is of an agent of its own."""
_START: Final = (
    "UPDATE jobs SET version = version + 1, status = 'running', started_at = queued_at, attempts = 1, run = '{}'"
    " WHERE id = ?"
)
_END: Final = (
    "UPDATE jobs SET version = version + 1, status = 'completed', completed_at = queued_at, run = NULL WHERE id = ?"
)
_ATTEMPT: Final = (
    "REPLACE INTO attempts"
    " (job, attempt, agent, attempt_id, token_hash, slot, over, started_at, worker, ended_at, log_bytes)"
)


class Params(msgspec.Struct):
    """Of any of the calls."""

    id: int = 0
    agent: str = ""
    agents: list[str] = []
    payload: msgspec.Raw = msgspec.Raw()
    token: str = ""
    count: int = 1
    wait: float = 0.0
    claim: Params | None = None
    jobs: list[Params] = []


class Request(msgspec.Struct):
    id: int
    method: str
    params: Params


_decode: Final = msgspec.json.Decoder(Request).decode


@lru_cache
def _text_of(into: str, width: int, count: int) -> str:
    """The statement for so many rows."""
    row = f"({', '.join('?' * width)})"
    return f"{into} VALUES {', '.join([row] * count)}"


class Registry:
    """A registry like opusd's; `commit` is one transaction."""

    def __init__(self, path: str, source: str) -> None:
        self._database = like(source, path)
        self._births = [row_of(source, table, column, _LIKE) for table, column in (("jobs", "id"), ("specs", "job"))]
        into, event = row_of(source, "events", "job", _LIKE)
        self._event_into, self._event = into, (*event[1:3], *event[4:])
        self.last_job = self._last_event = 0

    def commit(self, born: list[int], started: list[int], ended: list[int]) -> None:
        execute, many = self._database.execute, self._database.executemany
        execute("BEGIN IMMEDIATE")
        for into, (_, *rest) in self._births:
            self._put(into, [(job, *rest) for job in born])
        many(_START, [(job,) for job in started])
        many(_END, [(job,) for job in ended])
        self._put(_ATTEMPT, [(job, 1, "work", "a", b"t" * 32, 0, 0, 1, "w", None, 0) for job in started])
        self._put(_ATTEMPT, [(job, 1, "work", "a", b"t" * 32, 0, 0, 1, "w", 1, 0) for job in ended])
        time, kind, *rest = self._event
        events = enumerate(chain(born, started, ended), self._last_event + 1)
        self._put(self._event_into, [(cursor, time, kind, job, *rest) for cursor, job in events])
        self._last_event += len(born) + len(started) + len(ended)
        execute("COMMIT")

    def _put(self, into: str, rows: list[tuple[Any, ...]]) -> None:
        while rows:
            count = min(_MOST_ROWS, 1 << len(rows).bit_length() - 1)
            now, rows = rows[:count], rows[count:]
            self._database.execute(_text_of(into, len(now[0]), count), [*chain.from_iterable(now)])


class Queue:
    """What came in one turn of the loop is decided as it came, committed together, and then answered."""

    def __init__(self, registry: Registry, job: bytes) -> None:
        self._registry = registry
        self._job = job
        self._lanes: defaultdict[str, deque[int]] = defaultdict(deque)
        self._waiting: defaultdict[str, deque[tuple[Peer, int]]] = defaultdict(deque)
        self._clear()

    def _clear(self) -> None:
        self._born: list[int] = []
        self._started: list[int] = []
        self._ended: list[int] = []
        self._replies: dict[Peer, list[bytes]] = {}

    def take(self, peer: Peer, call: Request) -> None:
        if not self._replies and not self._born:
            asyncio.get_running_loop().call_soon(self._flush)
        params = call.params
        match call.method:
            case "job.submit":
                self._answer(peer, call.id, self._submit(params))
            case "job.submit_batch":
                self._answer(peer, call.id, b'{"jobs":[%b]}' % b",".join(map(self._submit, params.jobs)))
            case "worker.claim":
                claims = self._claims(params)
                if claims or not params.wait:
                    self._answer(peer, call.id, b'{"claims":[%b]}' % claims)
                else:
                    self._waiting[params.agents[0]].append((peer, call.id))
            case "worker.complete":
                self._ended.append(params.id)
                claims = b"" if params.claim is None else self._claims(params.claim)
                self._answer(peer, call.id, b'{"job":%b,"claims":[%b]}' % (self._shown(params.id), claims))
            case _:
                self._answer(peer, call.id, b"{}")

    def _submit(self, params: Params) -> bytes:
        self._registry.last_job = job = self._registry.last_job + 1
        self._born.append(job)
        waiting = self._waiting[params.agent]
        if waiting:
            peer, call = waiting.popleft()
            self._answer(peer, call, b'{"claims":[%b]}' % self._claimed(job))
        else:
            self._lanes[params.agent].append(job)
        return b'{"job":%b,"created":true}' % self._shown(job)

    def _claims(self, params: Params) -> bytes:
        lane = self._lanes[params.agents[0]]
        return b",".join([self._claimed(lane.popleft()) for _ in range(min(params.count, len(lane)))])

    def _claimed(self, job: int) -> bytes:
        self._started.append(job)
        return b'{"job":%b,"attempt":1,"token":"%043d"}' % (self._shown(job), job)

    def _shown(self, job: int) -> bytes:
        return b'{"id":%d%b' % (job, self._job)

    def _answer(self, peer: Peer, call: int, result: bytes) -> None:
        self._replies.setdefault(peer, []).append(b'{"jsonrpc":"2.0","id":%d,"result":%b}\n' % (call, result))

    def _flush(self) -> None:
        if self._born or self._started or self._ended:
            self._registry.commit(self._born, self._started, self._ended)
        replies = self._replies
        self._clear()
        for peer, lines in replies.items():
            peer.transport.write(b"".join(lines))


class Peer(asyncio.Protocol):
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._queue.take(self, _decode(line))


async def main(path: str, database: str, source: str, daemon: str) -> None:
    """Serve at `path` for ever, with `database` as its own, like opusd's at `source`, whose `daemon` shows a job."""
    with wire.connect(daemon) as peer:
        job = json.loads(wire.call(peer, request(1, "job.get", id=_LIKE)))["result"]
    rest = json.dumps(job, separators=(",", ":")).encode().removeprefix(b'{"id":%d' % _LIKE)
    queue = Queue(Registry(database, source), rest)
    server = await asyncio.get_running_loop().create_unix_server(lambda: Peer(queue), path)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main(*sys.argv[1:]))
