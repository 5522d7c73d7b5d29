"""Dramatiq on Redis."""

from __future__ import annotations

import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from peers.drivers.serve import PAYLOAD, rate, rate_of_threads, serve, versions


class Dramatiq:
    def __init__(self, path: str) -> None:
        self._broker = RedisBroker(url=f"unix://{path}?db=4")
        dramatiq.set_broker(self._broker)
        self._actor = dramatiq.actor(noop)

    def versions(self) -> str:
        return versions("dramatiq", "redis", "hiredis")

    def _call(self) -> object:
        return self._actor.send(PAYLOAD)

    def submit(self, seconds: float) -> float:
        return rate(self._call, seconds)

    def submit_eight(self, seconds: float) -> float:
        return rate_of_threads(self._call, seconds, 8)

    def pour(self, count: int) -> None:
        for _ in range(count):
            self._call()

    def clear(self) -> None:
        self._broker.client.flushdb()


def noop(text: str) -> None:
    del text


if __name__ == "__main__":
    serve(Dramatiq(sys.argv[1]))
