"""opusd: agents without slots, whose jobs wait for workers; `queue` is submitted to, `work` and `idle` worked on."""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Any

from peers.drivers import wire
from peers.drivers.serve import PAYLOAD, rate, serve

_LENGTH = 1024


def request(number: int, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def spec(agent: str) -> dict[str, Any]:
    return {"agent": agent, "payload": {"text": PAYLOAD}}


class Opusd:
    def __init__(self, path: str) -> None:
        self._peers = [wire.connect(path) for _ in range(8)]
        self._one, self._other = self._peers[:2]
        self._submit = request(1, "job.submit", **spec("queue"))
        self._ring = [request(number, "job.submit", **spec("queue")) for number in range(_LENGTH)]
        self._batch = request(1, "job.submit_batch", jobs=[spec("queue")] * 100)
        self._check(wire.call(self._one, self._submit))
        self._check(wire.call(self._one, self._batch))

    def versions(self) -> str:
        return f"opusd, Python {sys.version.split()[0]}"

    def submit(self, seconds: float) -> float:
        return wire.one_by_one(self._one, self._submit, seconds)

    def submit_eight(self, seconds: float) -> float:
        return wire.side_by_side(self._peers, self._submit, seconds)

    def flight(self, seconds: float) -> float:
        return wire.in_flight(self._one, self._ring, 64, seconds)

    def batch(self, seconds: float) -> float:
        return 100 * rate(lambda: wire.call(self._one, self._batch), seconds)

    def fill(self, count: int) -> None:
        self._pour("work", count)

    def pour(self, count: int) -> None:
        self._pour("queue", count)

    def _pour(self, agent: str, count: int) -> None:
        for size in [1000] * (count // 1000) + [count % 1000] * (count % 1000 > 0):
            self._check(wire.call(self._one, request(1, "job.submit_batch", jobs=[spec(agent)] * size)))

    def work(self, count: int, loaded: bool = False) -> list[float]:
        """Jobs that one worker with 32 slots ended in a second, and those submitted meanwhile."""
        worker = _Worker(self._one, "work", 32)
        ready = select.epoll()
        ready.register(self._one.fileno(), select.EPOLLIN)
        flight = None
        begun = time.perf_counter()
        if loaded:
            flight = wire.Flight(self._other, self._ring, 64)
            ready.register(self._other.fileno(), select.EPOLLIN)
        worker.begin()
        while worker.done < count:
            for file, _ in ready.poll():
                if file == self._one.fileno():
                    worker.turn()
                elif flight is not None:
                    flight.turn()
        took = time.perf_counter() - begun
        submitted = 0.0
        if flight is not None:
            submitted = flight.done / took
            flight.land()
        ready.close()
        return [worker.done / took, submitted]

    def idle(self, count: int) -> list[float]:
        """Seconds from the call of submit to the job in the hand of a worker that waits."""
        claim = request(1, "worker.claim", worker="waiting", agents=["idle"], wait=60)
        submit = request(2, "job.submit", **spec("idle"))
        found = []
        for _ in range(count):
            self._one.sendall(claim)
            time.sleep(0.003)  # until nothing moves
            begun = time.perf_counter()
            self._other.sendall(submit)
            reply = wire.line(self._one)
            found.append(time.perf_counter() - begun)
            self._check(wire.line(self._other))
            [held] = json.loads(reply)["result"]["claims"]
            self._check(wire.call(self._one, request(3, "worker.complete", id=held["job"]["id"], token=held["token"])))
        return found

    def answers(self) -> None:
        """Something that looks at the queue."""
        self._check(wire.call(self._one, request(1, "queue.status")))

    @staticmethod
    def _check(reply: bytes) -> None:
        if "result" not in json.loads(reply):
            raise RuntimeError(reply.decode()[:500])


class _Worker:
    """Claims `slots` jobs, ends each at once and takes the next in the same call."""

    def __init__(self, peer: Any, agent: str, slots: int) -> None:
        self.done = 0
        self._peer = peer
        self._claim = {"worker": "w", "agents": [agent], "lease": 600}
        self._slots = slots
        following = json.dumps(self._claim).encode()
        self._format = (
            b'{"jsonrpc":"2.0","id":%b,"method":"worker.complete","params":{"id":%b,"token":"%b","claim":'
            + following
            + b"}}\n"
        )
        self._rest = b""

    def begin(self) -> None:
        reply = wire.call(self._peer, request(0, "worker.claim", **self._claim, count=self._slots))
        held = json.loads(reply)["result"]["claims"]
        self._peer.sendall(b"".join(self._complete(b"%d" % one["job"]["id"], one["token"].encode()) for one in held))

    def turn(self) -> None:
        *lines, self._rest = (self._rest + self._peer.recv(1 << 18)).split(b"\n")
        following = []
        for line in lines:
            at = line.find(b'"claims":[{"job":{"id":')
            if at >= 0:
                number = line[at + 23 : line.index(b",", at + 23)]
                at = line.rindex(b'"token":"') + 9
                following.append(self._complete(number, line[at : line.index(b'"', at)]))
            elif b'"claims":[]' not in line:
                raise RuntimeError(line.decode()[:500])
        self.done += len(lines)
        if following:
            self._peer.sendall(b"".join(following))

    def _complete(self, number: bytes, token: bytes) -> bytes:
        return self._format % (number, number, token)


if __name__ == "__main__":
    serve(Opusd(sys.argv[1]))
