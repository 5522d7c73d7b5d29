"""Agents and the command line: `true` from submit to end in 8 slots, an agent's start, `opusctl status`."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rig import Client, Daemon

from peers.figures import Row, Target

_SLOTS = 8
_OPUSCTL = str(Path(sys.executable).with_name("opusctl"))
CONFIG = f"""
max_concurrent = {_SLOTS}
interactive_slots = 0
[agents.exec]
slots = {_SLOTS}
"""


def measure(folder: Path, jobs: int, starts: int, rounds: int) -> list[Row]:
    bare = "a bare loop over the same launcher and shim"
    life = Row("life", "`true` as an agent, 8 slots, its whole life", "jobs/s", (Target(0.7, (bare,)),))
    start = Row(
        "start",
        "submit to the agent's first instruction, idle: p95",
        "ms",
        (Target(1, ("5 ms",)),),
        more_is_better=False,
    )
    imports = 'python3 -c "import argparse, socket, json"'
    status = Row("status", "opusctl status", "ms", (Target(1.6, (imports,)),), more_is_better=False)
    daemon = Daemon(folder, CONFIG)
    try:
        daemon.start()
        client = daemon.client()
        _run([_OPUSCTL, "status"], daemon.socket)
        whole_life(client, _SLOTS)
        asyncio.run(_bare(folder / "bare-0", _SLOTS))
        for number in range(1, rounds + 1):
            life.add("opusd", jobs / whole_life(client, jobs))
            life.add(bare, jobs / asyncio.run(_bare(folder / f"bare-{number}", jobs)))
            start.add("opusd", 1e3 * _start(daemon, client, starts))
            start.add("5 ms", 5.0)
            for _ in range(3):
                status.add("opusd", 1e3 * _run([_OPUSCTL, "status"], daemon.socket))
                status.add(imports, 1e3 * _run([sys.executable, "-c", "import argparse, socket, json"], daemon.socket))
        client.close()
    finally:
        daemon.stop(signal.SIGKILL)
    return [life, start, status]


def whole_life(client: Client, jobs: int) -> float:
    """Seconds from the moment that the first may begin until the last is over, all on disk."""
    client.call("queue.pause", agent="exec")
    batch = [{"agent": "exec", "command": ["true"], "cwd": "/"}] * jobs
    ids = [one["job"]["id"] for one in client.call("job.submit_batch", jobs=batch)["jobs"]]
    begun = time.perf_counter()
    client.call("queue.resume", agent="exec")
    done = client.call("job.wait", ids=ids, timeout=300)
    took = time.perf_counter() - begun
    if not done["done"] or any(job["status"] != "completed" for job in done["jobs"]):
        raise RuntimeError("not every agent completed")
    return took


async def _bare(folder: Path, jobs: int) -> float:
    """The same number of `true` through opusd's launcher and shims, 8 at a time, and nothing around them."""
    from opusd.agents.launcher import Launcher

    folder.mkdir()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    begun = ended = 0

    def launch() -> None:
        nonlocal begun
        begun += 1
        place = folder / str(begun)
        place.mkdir(mode=0o700)
        (place / "out").mkdir(mode=0o700)
        (place / "output.log").touch(mode=0o600)
        launcher.send(_message(begun, place))

    def heard(message: dict[str, Any], pidfd: int | None) -> None:
        if "ready" in message:
            ready.set()
        if "refused" in message:
            over.set_exception(RuntimeError(f"{message}"))
        if pidfd is not None:
            loop.add_reader(pidfd, end, pidfd)

    def end(pidfd: int) -> None:
        nonlocal ended
        loop.remove_reader(pidfd)
        os.close(pidfd)
        ended += 1
        if begun < jobs:
            launch()
        elif ended == jobs:
            over.set_result(None)

    launcher = Launcher(heard, lambda: over.set_exception(RuntimeError("the launcher died")))
    launcher.start()
    await ready.wait()
    before = time.perf_counter()
    for _ in range(min(_SLOTS, jobs)):
        launch()
    await over
    took = time.perf_counter() - before
    await launcher.close()
    return took


def _message(number: int, folder: Path) -> dict[str, Any]:
    """As the pool sends it."""
    from opusd.agents.pool import AgentPool
    from opusd.agents.spec import Launch

    launch = Launch(
        job=number,
        attempt=1,
        attempt_id=secrets.token_hex(16),
        argv=["true"],
        env={"PATH": os.environ["PATH"]},
        workdir="/",
    )
    pool: Any = AgentPool(runs=folder.parent, report=lambda _: None)
    message: dict[str, Any] = pool._message(launch, folder)  # noqa: SLF001 - the very same, or it would be no comparison
    return message


def _start(daemon: Daemon, client: Client, count: int) -> float:
    """p95 of the seconds from the call of submit to a byte that the agent has written into a FIFO."""
    path = daemon.folder / "fifo"
    if not path.exists():
        os.mkfifo(path, 0o600)
    fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    keep = os.open(path, os.O_WRONLY)  # there is always a writer: the end of one agent is not the end of the file
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        job = client.call("job.submit", agent="exec", command=["sh", "-c", 'echo > "$1"', "sh", str(path)], cwd="/")
        select.select([fifo], [], [], 30)
        found.append(time.perf_counter() - begun)
        os.read(fifo, 16)
        client.call("job.wait", ids=[job["job"]["id"]], timeout=30)
    os.close(fifo)
    os.close(keep)
    return statistics.quantiles(found, n=20, method="inclusive")[-1]


def _run(argv: list[str], socket: Path) -> float:
    environment = {**os.environ, "OPUSD_SOCKET": str(socket)}
    begun = time.perf_counter()
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
