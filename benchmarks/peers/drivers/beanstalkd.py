"""beanstalkd with its binlog, synchronised at each write (`-f0`); a tube each for what is submitted and worked on."""

from __future__ import annotations

import select
import sys
import time
from typing import Any

from peers.drivers import wire
from peers.drivers.serve import PAYLOAD, serve

_LENGTH = 1024
_PUT = b"put 1024 0 600 %d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD.encode())


class Beanstalkd:
    def __init__(self, path: str) -> None:
        self._peers = [wire.connect(path) for _ in range(8)]
        self._one, self._other = self._peers[:2]
        self._worker = wire.connect(path)
        for peer in self._peers:
            wire.call(peer, b"use queue\r\n")
        wire.call(self._worker, b"watch work\r\n")
        wire.call(self._worker, b"ignore default\r\n")
        self._ring = [_PUT] * _LENGTH
        self._check(wire.call(self._one, _PUT), b"INSERTED")

    def versions(self) -> str:
        self._one.sendall(b"stats\r\n")
        text = b""
        while not text.endswith(b"\r\n\r\n") and b"\r\n" not in text[-2:]:
            text += self._one.recv(1 << 16)
        found = dict(line.split(": ", 1) for line in text.decode().splitlines() if ": " in line)
        return f"beanstalkd {found.get('version', '').strip(chr(34))}"

    def submit(self, seconds: float) -> float:
        return wire.one_by_one(self._one, _PUT, seconds)

    def submit_eight(self, seconds: float) -> float:
        return wire.side_by_side(self._peers, _PUT, seconds)

    def flight(self, seconds: float) -> float:
        return wire.in_flight(self._one, self._ring, 64, seconds)

    def fill(self, count: int) -> None:
        wire.call(self._other, b"use work\r\n")
        self._pour(self._other, count)
        wire.call(self._other, b"use queue\r\n")

    def pour(self, count: int) -> None:
        self._pour(self._other, count)

    def _pour(self, peer: Any, count: int) -> None:
        sent = min(256, count)
        peer.sendall(_PUT * sent)
        done = 0
        while done < count:
            came = peer.recv(1 << 18).count(b"\n")
            done += came
            more = min(came, count - sent)
            sent += more
            if more:
                peer.sendall(_PUT * more)

    def work(self, count: int, loaded: bool = False) -> list[float]:
        """Jobs that one worker with 32 slots ended in a second, and those submitted meanwhile."""
        worker = _Worker(self._worker, 32, count)
        ready = select.epoll()
        ready.register(self._worker.fileno(), select.EPOLLIN)
        flight = None
        begun = time.perf_counter()
        if loaded:
            flight = wire.Flight(self._one, self._ring, 64)
            ready.register(self._one.fileno(), select.EPOLLIN)
        while worker.done < count:
            for file, _ in ready.poll():
                if file == self._worker.fileno():
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
        """Seconds from the call of put to the job in the hand of a worker that waits."""
        found = []
        wire.call(self._other, b"use idle\r\n")
        wire.call(self._worker, b"watch idle\r\n")
        wire.call(self._worker, b"ignore work\r\n")
        for _ in range(count):
            self._worker.sendall(b"reserve\r\n")
            time.sleep(0.003)  # until nothing moves
            begun = time.perf_counter()
            self._other.sendall(_PUT)
            reply = self._worker.recv(1 << 16)
            while reply.count(b"\n") < 2:
                reply += self._worker.recv(1 << 16)
            found.append(time.perf_counter() - begun)
            self._check(wire.line(self._other), b"INSERTED")
            self._check(wire.call(self._worker, b"delete %b\r\n" % reply.split()[1]), b"DELETED")
        wire.call(self._worker, b"watch work\r\n")
        wire.call(self._worker, b"ignore idle\r\n")
        wire.call(self._other, b"use queue\r\n")
        return found

    def answers(self) -> None:
        self._check(wire.call(self._one, b"peek 0\r\n"), b"NOT_FOUND")

    @staticmethod
    def _check(reply: bytes, word: bytes) -> None:
        if not reply.startswith(word):
            raise RuntimeError(reply.decode()[:200])


class _Worker:
    """Reserves jobs, deletes each at once and reserves the next in the same packet; `count` of them in all."""

    def __init__(self, peer: Any, slots: int, count: int) -> None:
        self.done = 0
        self._peer = peer
        self._wanted = count - slots
        self._rest = b""
        peer.sendall(b"reserve\r\n" * slots)

    def turn(self) -> None:
        *lines, self._rest = (self._rest + self._peer.recv(1 << 18)).split(b"\r\n")
        following = []
        for line in lines:
            if line.startswith(b"RESERVED"):
                following.append(b"delete %b\r\n" % line.split(b" ", 2)[1])
                if self._wanted:
                    self._wanted -= 1
                    following.append(b"reserve\r\n")
            elif line == b"DELETED":
                self.done += 1
        if following:
            self._peer.sendall(b"".join(following))


if __name__ == "__main__":
    serve(Beanstalkd(sys.argv[1]))
