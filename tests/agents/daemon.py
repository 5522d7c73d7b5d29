"""A daemon to be killed: opens a pool on a folder, starts what stdin names, prints what is reported."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import uvloop

from opusd.agents.pool import AgentPool
from opusd.agents.spec import Launch, Report


def say(report: Report) -> None:
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()


async def main(runs: Path) -> None:
    pool = AgentPool(runs=runs, report=say)
    await pool.open()
    sys.stdout.write(f'{{"launcher": {pool.launcher_pid}}}\n')
    sys.stdout.flush()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        line = sys.stdin.buffer.readline()
        if line:
            pool.start(msgspec.json.decode(line, type=Launch))
            sys.stdout.write('{"sent": true}\n')
            sys.stdout.flush()

    loop.add_reader(0, hear)
    await asyncio.Event().wait()


uvloop.run(main(Path(sys.argv[1])))
