"""Connections that nobody says anything on, up to the limit and beyond it."""

from __future__ import annotations

import time

from load.crowd import Crowd
from load.stage import Scenario, Stage

_LIMIT, _QUICK_LIMIT = 10_000, 500
_BEYOND = 100
_PATIENCE = 10.0
_OTHERS = 4  # the stage's own client and the neighbours


def connections(stage: Stage) -> None:
    limit = stage.pick(_LIMIT, _QUICK_LIMIT)
    idle = limit - _OTHERS
    crowd, late = Crowd(stage.daemon.socket), Crowd(stage.daemon.socket)
    stage.begin()
    before = stage.daemon.memory()[0]
    try:
        begun = time.monotonic()
        crowd.connect(idle)
        _until(stage, limit)
        took = time.monotonic() - begun
        each = (stage.daemon.memory()[0] - before) / idle
        late.connect(_BEYOND)
        late.listen()
        refusals = [message["error"] for _, message in late.messages(_PATIENCE)]
        stage.check(len(refusals) == _BEYOND, f"{_BEYOND} connections beyond the limit, {len(refusals)} were told so")
        stage.check(late.closed == set(range(_BEYOND)), "a connection beyond the limit was not closed")
        told = {(error["code"], error["data"].get("quota"), error["data"].get("limit")) for error in refusals}
        stage.check(told == {(-32004, "connections", limit)}, f"who came too late was told {told}")
        stage.dropped(f"{len(refusals)} beyond max_connections = {limit:,}: QuotaExceeded (connections), closed")
        time.sleep(stage.pick(5, 1))  # they are idle
        crowd.listen()
        answered = _ping(crowd, idle)
        stage.check(not crowd.closed, f"{len(crowd.closed)} idle connections were closed")
        stage.check(answered == idle, f"of {idle} idle connections {answered} were answered")
        closing = time.monotonic()
    finally:
        crowd.close()
        late.close()
    _until(stage, _OTHERS)
    left = time.monotonic() - closing
    stage.end()
    stage.done(
        f"{idle:,} idle connections, made in {took:.1f} s, {each / 1e3:.1f} kB each; all answered a ping afterwards, "
        f"and were gone {left:.1f} s after they were closed"
    )


def _ping(crowd: Crowd, count: int) -> int:
    """Each says something once, a hundred at a time; how many were answered."""
    answered = 0
    for begin in range(0, count, 100):
        piece = range(begin, min(begin + 100, count))
        for number in piece:
            crowd.call(number, number, "system.ping")
        for had, (number, message) in enumerate(crowd.messages(_PATIENCE), 1):
            answered += message.get("id") == number
            if had == len(piece):
                break
    return answered


def _until(stage: Stage, count: int) -> None:
    """Until so many are open."""
    end = time.monotonic() + 60
    while (found := stage.client.call("system.info")["connections"]) != count:
        if time.monotonic() > end:
            stage.check(False, f"{found} connections are open, {count} were expected")
            return
        time.sleep(0.02)


CONNECTIONS = Scenario(
    name="connections",
    title="10,000 idle connections",
    config=f"[socket]\nmax_connections = {_LIMIT}\n",
    quick_config=f"[socket]\nmax_connections = {_QUICK_LIMIT}\n",
    run=connections,
    growth=256e6,
)
