"""An attentive subscriber: a process of its own that reads every event as it comes, and says what it missed.

A subscription that ends with `event.lagged` is taken up again at its cursor. For each cursor that is written to its
standard input it prints {"events", "lags", "gaps", "last"} once it has heard of that one; the end of it ends it.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys

_CURSOR = re.compile(rb'"event":\{"cursor":(\d+)')


class Listener:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._rest = b""
        self.events = self.lags = self.gaps = self.last = 0

    def run(self) -> None:
        self._subscribe({})
        until: int | None = None
        while True:
            readable, _, _ = select.select([self._socket, 0], [], [])
            if self._socket in readable:
                self._receive()
            if 0 in readable:
                asked = os.read(0, 100)
                if not asked:
                    return
                until = int(asked)
            if until is not None and self.last >= until:
                until = None
                found = {"events": self.events, "lags": self.lags, "gaps": self.gaps, "last": self.last}
                print(json.dumps(found), flush=True)

    def _subscribe(self, since: dict[str, int]) -> None:
        call = {"jsonrpc": "2.0", "id": self.lags, "method": "events.subscribe", "params": since}
        self._socket.sendall(json.dumps(call).encode() + b"\n")

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the daemon closed the listener's connection")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            found = _CURSOR.search(line)
            if found is not None:
                cursor = int(found[1])
                self.gaps += cursor != self.last + 1
                self.events += 1
                self.last = cursor
                continue
            message = json.loads(line)
            if message.get("method") == "event.lagged":
                self.lags += 1
                self._subscribe({"since": message["params"]["cursor"]})
            elif not self.lags:
                self.last = message["result"]["cursor"]
                print("ready", flush=True)


if __name__ == "__main__":
    Listener(sys.argv[1]).run()
