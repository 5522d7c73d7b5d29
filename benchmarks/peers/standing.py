"""What a queue costs that stands there: the memory of a queued job, and the time from a restart to the first answer."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path

from rig import Daemon

from peers import servers
from peers.figures import Row, Target
from peers.rows import EVERY_REDIS, REDIS
from peers.subject import Subject

_QUEUED_IN_REDIS = 10_000
CONFIG = """
[agents.queue]
slots = 0
[agents.work]
slots = 0
[agents.idle]
slots = 0
"""


def measure(
    folder: Path, queued: int, rounds: int, subjects: dict[str, Subject], redis: servers.Server | None
) -> list[Row]:
    """Both lines: opusd and beanstalkd hold `queued` jobs each, Redis ten thousand of each library."""
    many = f"{queued:,}"
    restart = Row(
        "restart",
        f"restart with {many} queued to the first answer",
        "s",
        (Target(1, ("beanstalkd",)),),
        more_is_better=False,
    )
    memory = Row(
        "memory",
        f"memory a queued job ({many} of them; {_QUEUED_IN_REDIS:,} in Redis)",
        "bytes",
        (Target(0.8, ("beanstalkd",)), Target(0.6, REDIS, EVERY_REDIS)),
        more_is_better=False,
    )
    folder.mkdir()
    daemon = Daemon(folder / "opusd", CONFIG)
    tube: servers.Server | None = None
    try:
        daemon.start()
        _fill(daemon, queued, memory)
        if "beanstalkd" in subjects:
            tube = servers.beanstalkd(folder / "beanstalkd")
            tube.start("-F")  # to fill it; synchronised from the restart on
            _fill_beanstalkd(tube, queued, memory)
        for _ in range(rounds):
            daemon.stop()
            restart.add("opusd", daemon.start())
            if tube is not None:
                tube.stop()
                restart.add("beanstalkd", tube.start("-f0"))
    finally:
        daemon.stop(signal.SIGKILL)
        if tube is not None:
            tube.stop()
    if redis is not None:
        for name in REDIS:
            if name in subjects:
                subject = subjects[name]
                subject.ask("clear")
                before = _used(redis)
                subject.ask("pour", _QUEUED_IN_REDIS)
                memory.add(name, (_used(redis) - before) / _QUEUED_IN_REDIS)
                subject.ask("clear")
    return [restart, memory]


def _fill(daemon: Daemon, queued: int, memory: Row) -> None:
    driver = Subject("opusd", "opusd", sys.executable, str(daemon.socket))
    before = daemon.memory()[0]
    driver.ask("pour", queued)
    memory.add("opusd", (daemon.memory()[0] - before) / queued)
    driver.close()


def _fill_beanstalkd(tube: servers.Server, queued: int, memory: Row) -> None:
    driver = Subject("beanstalkd", "beanstalkd", sys.executable, str(tube.folder / "s"))
    before = tube.memory()
    driver.ask("pour", queued)
    memory.add("beanstalkd", (tube.memory() - before) / queued)
    driver.close()


def _used(redis: servers.Server) -> int:
    """What Redis itself says that it has allocated: less than what it takes of the machine."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(redis.folder / "s"))
        peer.sendall(b"INFO memory\r\n")
        reply = peer.recv(1 << 16)
        while (found := re.search(rb"used_memory:(\d+)\r\n", reply)) is None:
            reply += peer.recv(1 << 16)
    return int(found[1])
