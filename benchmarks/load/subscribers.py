"""Subscribers that stop reading while events flow, beside one that reads.

Half of them wake up before the daemon gives them up: each must find the events in order, then one `event.lagged`, and
a connection that can still be used. The others never read again and are closed; the short form does not wait for that.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import time

from load.crowd import Crowd
from load.stage import Scenario, Stage

_EVENT = re.compile(rb'"event":\{"cursor":(\d+)')
_LAGGED = re.compile(rb'"method":"event.lagged","params":\{"subscription":\d+,"cursor":(\d+)\}')
_BATCH = 100
_FIRST = 6_000
"""Events that no socket and no bound of the daemon can hold."""
_OTHERS = 5  # the stage's own client, the neighbours and the attentive subscriber
_PATIENCE = 45.0


def subscribers(stage: Stage) -> None:
    count, total = stage.pick(1000, 50), stage.pick(100_000, 10_000)
    crowd = Crowd(stage.daemon.socket)
    crowd.connect(count)
    _subscribe(stage, crowd)
    argv = [sys.executable, "-m", "load.listener", str(stage.daemon.socket)]
    listener = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        stage.check(_line(listener) == "ready\n", "the listener did not come")
        stage.begin()
        begun = time.monotonic()
        made = _flow(stage, _FIRST)
        _hears(stage, listener)  # and with it all who subscribed before it
        wakes = range(0, count, 2)
        _wake(stage, crowd, wakes)
        made += _flow(stage, total - made)
        took = time.monotonic() - begun
        heard = _hears(stage, listener)
        stage.rest()
        if not stage.quick:
            _until_given_up(stage, len(wakes) + _OTHERS)
        stage.end()
    finally:
        listener.kill()
        listener.communicate()
        crowd.close()
    stage.check(not heard["gaps"], f"the attentive subscriber missed events at {heard['gaps']} places")
    stage.done(
        f"{made:,} events in {took:.1f} s to {count:,} that do not read; one that reads got all {heard['events']:,} in"
        f" order and fell behind {heard['lags']} times"
    )


def _subscribe(stage: Stage, crowd: Crowd) -> None:
    """To what the load does, and to nothing of the neighbour's."""
    crowd.listen()
    for number in range(len(crowd.sockets)):
        crowd.call(number, number, "events.subscribe", group="load")
    for answered, (number, message) in enumerate(crowd.messages(10.0), 1):
        stage.check("result" in message, f"subscriber {number} was refused: {message}")
        if answered == len(crowd.sockets):
            break
    crowd.deafen()


def _flow(stage: Stage, events: int) -> int:
    """At least so many events of jobs that are put aside; how many there were."""
    first = stage.cursor()
    made = 0
    batch = {"jobs": [{"command": ["true"], "cwd": "/", "held": True, "group": "load"}] * _BATCH}
    while made < events:
        stage.client.many("job.submit_batch", [batch] * 8, in_flight=4)
        made = stage.cursor() - first
    return made


def _hears(stage: Stage, listener: subprocess.Popen[str]) -> dict[str, int]:
    """Until the attentive subscriber has heard of all that happened; what it has heard."""
    assert listener.stdin is not None
    listener.stdin.write(f"{stage.cursor()}\n")
    listener.stdin.flush()
    heard: dict[str, int] = json.loads(_line(listener))
    return heard


def _line(listener: subprocess.Popen[str]) -> str:
    assert listener.stdout is not None
    if not select.select([listener.stdout], [], [], _PATIENCE)[0]:
        raise RuntimeError("the attentive subscriber hears nothing any more")
    return listener.stdout.readline()


def _wake(stage: Stage, crowd: Crowd, numbers: range) -> None:
    """These read what there is for them."""
    heard: dict[int, list[int]] = {number: [] for number in numbers}
    told: dict[int, int] = {}
    crowd.listen(numbers)
    for number, line in crowd.lines(5.0):
        if found := _EVENT.search(line):
            heard[number].append(int(found[1]))
        elif found := _LAGGED.search(line):
            told[number] = int(found[1])
            stage.check(heard[number][-1:] == [told[number]], f"subscriber {number} was told the wrong cursor")
            crowd.call(number, "ping", "system.ping")
        elif b'"id":"ping"' in line:
            heard[number].append(0)  # its connection goes on
            if sum(each[-1:] == [0] for each in heard.values()) == len(numbers):
                break
    stage.check(len(told) == len(numbers), f"of {len(numbers)} that woke up {len(told)} were told that they lag")
    stage.check(all(each[-1:] == [0] for each in heard.values()), "a connection could not be used after event.lagged")
    first = min(heard.values(), key=len)[:-1]
    stage.check(first and all(each[: len(first)] == first for each in heard.values()), "events came in another order")
    least, most = (choose(len(each) - 1 for each in heard.values()) for choose in (min, max))
    crowd.deafen()
    stage.dropped(
        f"{len(told)} that woke up had {least:,} to {most:,} events, then event.lagged with the last one's cursor"
    )


def _until_given_up(stage: Stage, left: int) -> None:
    """Until those that never read are closed."""
    begun = time.monotonic()
    while (found := stage.client.call("system.info")["connections"]) > left:
        if time.monotonic() > begun + _PATIENCE:
            break
        time.sleep(0.1)
    stage.check(found <= left, f"{found - left} connections that never read are still open")
    stage.dropped("the others were closed, for they took no byte for 30 s")


SUBSCRIBERS = Scenario(
    name="subscribers",
    title="1,000 subscribers do not read",
    config="[socket]\nmax_connections = 2000\n",
    run=subscribers,
    growth=768e6,
)
