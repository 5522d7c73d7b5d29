"""Somebody else who uses the daemon: a process of its own with one connection and a steady hand.

Calls go out by the clock, whether or not those before were answered: a daemon that stands still for a second is seen
in each of the calls of that second, and not in one. A line "mark NAME" on standard input begins a new period; the end
of it ends the program, which prints the seconds of every call as JSON: {period: {"look": [...], "submit": [...]}}.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

from rig import Client

PERIOD = 0.004
"""Seconds between calls: by turns a ping and a job.get, and each tenth a submit."""
_TURNS = ("system.ping", "job.get") * 4 + ("system.ping", "job.submit")
_SPEC = {"command": ["true"], "cwd": "/", "held": True, "group": "neighbour"}


class Neighbour:
    def __init__(self, path: str, job: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        params = {"system.ping": {}, "job.get": {"id": job}, "job.submit": _SPEC}
        self._calls = [
            (method == "job.submit", f'"method":"{method}","params":{json.dumps(params[method])}}}\n'.encode())
            for method in _TURNS
        ]
        self._sent: dict[int, tuple[float, bool]] = {}
        self._number = 0
        self._rest = b""
        self._period = "before"
        self.seconds: dict[str, dict[str, list[float]]] = {}

    def run(self) -> None:
        """Until the end of standard input, and of what is in flight then."""
        due = time.perf_counter()
        told = b""
        while True:
            readable, _, _ = select.select([self._socket, 0], [], [], max(0.0, due - time.perf_counter()))
            if self._socket in readable:
                self._receive()
            if 0 in readable:
                data = os.read(0, 4096)
                if not data:
                    break
                *lines, told = (told + data).split(b"\n")
                if lines:
                    self._period = lines[-1].decode().removeprefix("mark ")
            now = time.perf_counter()
            while due <= now:
                self._send()
                due += PERIOD
        while self._sent:
            self._receive()

    def _send(self) -> None:
        submits, call = self._calls[self._number % len(self._calls)]
        self._number += 1
        self._sent[self._number] = (time.perf_counter(), submits)
        self._socket.sendall(b'{"jsonrpc":"2.0","id":%d,' % self._number + call)

    def _receive(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the daemon closed the neighbour's connection: its log says why")
        now = time.perf_counter()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            reply = json.loads(line)
            if "error" in reply:
                raise RuntimeError(f"the neighbour was refused: {reply['error']}")
            sent, submits = self._sent.pop(reply["id"])
            kinds = self.seconds.setdefault(self._period, {"look": [], "submit": []})
            kinds["submit" if submits else "look"].append(now - sent)


def main() -> None:
    path = sys.argv[1]
    client = Client(path)  # type: ignore[arg-type]
    job = client.call("job.submit", **_SPEC)["job"]["id"]
    client.close()
    neighbour = Neighbour(path, job)
    print("ready", flush=True)
    neighbour.run()
    print(json.dumps(neighbour.seconds), flush=True)


if __name__ == "__main__":
    main()
