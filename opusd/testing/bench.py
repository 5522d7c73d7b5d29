"""A workbench for real agents: a pool in a scratch folder, what it reported, and waiting for what it will."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from opusd.agents.pool import AgentPool
from opusd.agents.spec import Ended, Launch, NeverRan, Report, Started
from opusd.agents.traces import Claim, bury

T = TypeVar("T")
R = TypeVar("R", bound=Report)


class Bench:
    """A pool with real processes, and what it reported so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.reports: list[Report] = []
        self.launches: list[Launch] = []
        self._changed = asyncio.Event()
        self.pool = self.new_pool()

    def new_pool(self, **options: Any) -> AgentPool:
        """Another pool on the same folder, as a daemon that comes after this one has."""
        self.pool = AgentPool(runs=self.runs, report=self._heard, **options)
        return self.pool

    def _heard(self, report: Report) -> None:
        self.reports.append(report)
        self._changed.set()

    def launch(self, *argv: str, job: int = 1, attempt: int = 1, **fields: Any) -> Launch:
        """A launch with what most tests need; not started."""
        fields.setdefault("attempt_id", secrets.token_hex(16))
        fields.setdefault("env", {"PATH": os.environ["PATH"]})
        fields.setdefault("workdir", str(self.folder))
        launch = Launch(job=job, attempt=attempt, argv=list(argv), **fields)
        self.launches.append(launch)
        return launch

    def start(self, *argv: str, **fields: Any) -> Launch:
        launch = self.launch(*argv, **fields)
        self.pool.start(launch)
        return launch

    def python(self, program: str, **fields: Any) -> Launch:
        return self.start(sys.executable, "-I", "-S", "-c", program, **fields)

    async def until(self, happened: Callable[[], T | None], seconds: float = 20.0) -> T:
        """Wait for a report that makes `happened` true."""
        async with asyncio.timeout(seconds):
            while not (found := happened()):
                self._changed.clear()
                await self._changed.wait()
            return found

    async def started(self, job: int = 1, attempt: int = 1) -> Started:
        return await self.until(lambda: self._of(Started, job, attempt))

    async def ended(self, job: int = 1, attempt: int = 1, seconds: float = 20.0) -> Ended:
        return await self.until(lambda: self._of(Ended, job, attempt), seconds)

    async def over(self, job: int = 1, attempt: int = 1) -> Ended | NeverRan:
        return await self.until(lambda: self._of(Ended, job, attempt) or self._of(NeverRan, job, attempt))

    def of(self, kind: type[R]) -> list[R]:
        """The reports of one kind, in order."""
        return [report for report in self.reports if isinstance(report, kind)]

    def _of(self, kind: type[R], job: int, attempt: int) -> R | None:
        return next((report for report in self.of(kind) if (report.job, report.attempt) == (job, attempt)), None)

    async def output(self, until: str, job: int = 1, attempt: int = 1) -> str:
        """The output once it holds these words."""
        seen, offset = "", 0
        async with asyncio.timeout(20):
            while until not in seen:
                chunk = await self.pool.read_output(job, attempt, offset, 1 << 16, 10)
                seen, offset = seen + chunk.data, chunk.next_offset
                assert not chunk.eof or until in seen, seen
        return seen

    async def spare(self) -> int:
        """The shim that waits for the next launch."""
        children = Path(f"/proc/{self.pool.launcher_pid}/task/{self.pool.launcher_pid}/children")
        async with asyncio.timeout(20):
            while True:
                found = [int(pid) for pid in children.read_text().split()]
                if len(found) == 1 and found[0] not in [report.shim_pid for report in self.of(Started)]:
                    return found[0]
                await _pause()

    async def reaped(self, pid: int) -> None:
        """Wait until a process is gone for good."""
        async with asyncio.timeout(20):
            while Path(f"/proc/{pid}").exists():
                await _pause()

    def place(self, job: int = 1, attempt: int = 1) -> Path:
        """The attempt's folder."""
        return self.runs / str(job) / str(attempt)

    async def there(self, path: Path, seconds: float = 20.0) -> None:
        """Wait for a file to appear."""
        async with asyncio.timeout(seconds):
            while not path.exists():
                await _pause()

    def clean_up(self) -> None:
        """Kill whatever is left of all launches."""
        for launch in self.launches:
            if (self.place(launch.job, launch.attempt) / "exit").exists():
                continue  # its shim sweeps
            bury(Claim(), launch.attempt_id)


async def _pause() -> None:
    """Between two looks at what no event tells of."""
    await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.005)
