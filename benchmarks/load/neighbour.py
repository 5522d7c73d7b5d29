"""Others who use the daemon: one pings, one gets a job, one submits, each with a connection and a steady hand.

Calls go out by the clock, whether or not those before were answered: a daemon that stands still for a second is seen
in each of the calls of that second, and not in one. A line "mark NAME" on standard input begins a new period; the end
of it ends the program, which prints the seconds of every call as JSON: {period: {kind: [...]}}.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rig import Client

PAUSES = {"system.ping": 0.010, "job.get": 0.010, "job.submit": 0.040}
"""Seconds between two calls of each; the jobs that are submitted are held."""
_SPEC = {"command": ["true"], "cwd": "/", "held": True, "group": "neighbour"}


class Neighbour:
    """Calls one method, each `pause` seconds."""

    def __init__(self, path: str, method: str, params: dict[str, object], pause: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.due = time.perf_counter()
        self.sent: dict[int, float] = {}
        self.method = method
        self._call = f'"method":"{method}","params":{json.dumps(params)}}}\n'.encode()
        self._pause = pause
        self._number = 0
        self._rest = b""

    def send(self) -> None:
        """What is due."""
        while self.due <= time.perf_counter():
            self._number += 1
            self.due += self._pause
            self.sent[self._number] = time.perf_counter()
            self.socket.sendall(b'{"jsonrpc":"2.0","id":%d,' % self._number + self._call)

    def receive(self) -> Iterator[float]:
        """The seconds of each call that was answered."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the daemon closed the neighbour's connection: its log says why")
        now = time.perf_counter()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            reply = json.loads(line)
            if "error" in reply:
                raise RuntimeError(f"the neighbour was refused: {reply['error']}")
            yield now - self.sent.pop(reply["id"])


def run(neighbours: list[Neighbour]) -> dict[str, dict[str, list[float]]]:
    """Until the end of standard input, and of what is in flight then."""
    seconds: dict[str, dict[str, list[float]]] = {}
    period, told, ended = "before", b"", False
    while not ended or any(one.sent for one in neighbours):
        left = 1.0 if ended else max(0.0, min(one.due for one in neighbours) - time.perf_counter())
        sources = [one.socket for one in neighbours]
        readable, _, _ = select.select(sources if ended else [*sources, 0], [], [], left)
        for one in neighbours:
            if one.socket in readable:
                seconds.setdefault(period, {}).setdefault(one.method, []).extend(one.receive())
        if 0 in readable:
            data = os.read(0, 4096)
            ended = not data
            *lines, told = (told + data).split(b"\n")
            if lines:
                period = lines[-1].decode().removeprefix("mark ")
        if not ended:
            for one in neighbours:
                one.send()
    return seconds


def main() -> None:
    path = sys.argv[1]
    client = Client(Path(path))
    job = client.call("job.submit", **_SPEC)["job"]["id"]
    client.close()
    params: dict[str, dict[str, object]] = {"system.ping": {}, "job.get": {"id": job}, "job.submit": _SPEC}
    neighbours = [Neighbour(path, method, params[method], pause) for method, pause in PAUSES.items()]
    print("ready", flush=True)
    print(json.dumps(run(neighbours)), flush=True)


if __name__ == "__main__":
    main()
