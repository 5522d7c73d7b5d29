"""Clients that cost as little as a client in Python can: prebuilt requests, blocking sockets, replies counted by line.

They serve every queue that answers each request with one line, in order or not.
"""

from __future__ import annotations

import select
import socket
import time

_BYTES = 1 << 18


def connect(path: str) -> socket.socket:
    """A connection; its buffers take what is in flight, so that neither side ever waits for the other to read."""
    made = socket.socket(socket.AF_UNIX)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    made.connect(path)
    return made


def line(peer: socket.socket) -> bytes:
    """One reply; nothing else is in flight."""
    data = _some(peer)
    while data[-1:] != b"\n":
        data += _some(peer)
    return data


def _some(peer: socket.socket) -> bytes:
    data = peer.recv(_BYTES)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def call(peer: socket.socket, request: bytes) -> bytes:
    peer.sendall(request)
    return line(peer)


def one_by_one(peer: socket.socket, request: bytes, seconds: float) -> float:
    """Requests a second of one client that waits for each reply."""
    begun = now = time.perf_counter()
    end, done = begun + seconds, 0
    while now < end:
        peer.sendall(request)
        while _some(peer)[-1:] != b"\n":
            pass
        done += 1
        now = time.perf_counter()
    return done / (now - begun)


def side_by_side(peers: list[socket.socket], request: bytes, seconds: float) -> float:
    """The same of all these clients together, in one thread."""
    by_file = {peer.fileno(): peer for peer in peers}
    ready = select.epoll()
    for peer in peers:
        ready.register(peer.fileno(), select.EPOLLIN)
        peer.sendall(request)
    begun = now = time.perf_counter()
    end, done = begun + seconds, 0
    while now < end:
        for file, _ in ready.poll():
            peer = by_file[file]
            if _some(peer)[-1:] == b"\n":
                done += 1
                peer.sendall(request)
        now = time.perf_counter()
    for peer in peers:
        line(peer)
    ready.close()
    return done / (now - begun)


class Flight:
    """So many requests in flight on one connection, of a ring that is longer than that."""

    def __init__(self, peer: socket.socket, ring: list[bytes], window: int) -> None:
        assert len(ring) > window
        self.peer = peer
        self.done = 0
        self._ring = ring * 2
        self._length = len(ring)
        self._next = 0
        self._open = window
        peer.sendall(self._take(window))

    def turn(self) -> None:
        """Take what has come, and send as many again."""
        came = _some(self.peer).count(b"\n")
        self.done += came
        if came:
            self.peer.sendall(self._take(came))

    def land(self) -> None:
        """Wait for those that are in flight, and send no more."""
        while self._open:
            self._open -= _some(self.peer).count(b"\n")

    def _take(self, count: int) -> bytes:
        first = self._next
        self._next = (first + count) % self._length
        return b"".join(self._ring[first : first + count])


def in_flight(peer: socket.socket, ring: list[bytes], window: int, seconds: float) -> float:
    flight = Flight(peer, ring, window)
    begun = now = time.perf_counter()
    end = begun + seconds
    while now < end:
        flight.turn()
        now = time.perf_counter()
    rate = flight.done / (now - begun)
    flight.land()
    return rate
