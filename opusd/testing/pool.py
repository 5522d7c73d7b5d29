"""A pool without processes: what is started is written down, and the test says what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from opusd.agents.spec import Adopted, Chunk, Ended, Exit, Launch, NeverRan, Report, Started

Key = tuple[int, int]


class ScriptedPool:
    """The interface of AgentPool. Reports leave at once, in the order in which the test makes them.

    `launches` and `stops` (job, attempt, grace) are what was asked for, in order. A start reports Started unless
    `silent`; a stop does nothing but to be remembered. `survivors` says what `recover` finds: an attempt in it
    is adopted, one in `ended` ended meanwhile, any other never ran.
    """

    def __init__(
        self,
        *,
        runs: Path | None = None,
        report: Callable[[Report], None],
        limit: int = 64,
        inotify: bool = True,
        silent: bool = False,
    ) -> None:
        self.report = report
        self.limit = limit
        self.silent = silent
        self.punches_holes = True
        self.launcher_pid: int | None = None
        self.launches: list[Launch] = []
        self.stops: list[tuple[int, int, float]] = []
        self.deadlines: dict[Key, float | None] = {}
        self.survivors: set[Key] = set()
        self.ended: dict[Key, Ended] = {}
        self.callers: dict[int, Key] = {}
        self.output: dict[Key, bytes] = {}
        self.most = 0
        self._alive: dict[Key, None] = {}
        self._changed = asyncio.Event()
        self._pid = 1000

    async def open(self) -> None:
        self.launcher_pid = self._pid

    async def close(self) -> None:
        self.launcher_pid = None
        self._wake()

    def running(self) -> list[Key]:
        return list(self._alive)

    def start(self, launch: Launch) -> None:
        key = (launch.job, launch.attempt)
        assert len(self._alive) < self.limit, "the scheduler placed more attempts than the pool may hold"
        assert key not in self._alive, f"attempt {key} is running already"
        assert all(job != launch.job for job, _ in self._alive), f"job {launch.job} would run twice at once"
        self.launches.append(launch)
        self._alive[key] = None
        self.most = max(self.most, len(self._alive))
        self._wake()
        if not self.silent:
            self.began(*key)

    def stop(self, job: int, attempt: int, grace: float) -> None:
        if (job, attempt) in self._alive:
            self.stops.append((job, attempt, grace))
            self._wake()

    def set_deadline(self, job: int, attempt: int, seconds: float | None) -> None:
        self.deadlines[job, attempt] = seconds

    async def recover(self, running: Sequence[tuple[int, int, str, float | None]]) -> None:
        for job, attempt, _, left in running:
            key = (job, attempt)
            if key in self.survivors:
                self._alive[key] = None
                self._pid += 1
                self.deadlines[key] = left
                self.report(Adopted(job=job, attempt=attempt, shim_pid=self._pid))
            elif key in self.ended:
                self.report(self.ended[key])
            else:
                self.report(NeverRan(job=job, attempt=attempt))

    def attempt_of(self, pid: int) -> Key | None:
        return self.callers.get(pid)

    async def read_output(self, job: int, attempt: int, offset: int, limit: int, wait_s: float) -> Chunk:
        while True:
            data = self.output.get((job, attempt), b"")
            over = (job, attempt) not in self._alive
            if len(data) > offset or over or wait_s <= 0:
                part = data[offset : offset + limit]
                end = offset + len(part)
                return Chunk(
                    data=part.decode("utf-8", "replace"), offset=offset, next_offset=end, eof=over and end >= len(data)
                )
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                wait_s = 0

    def output_size(self, job: int, attempt: int) -> int:
        return len(self.output.get((job, attempt), b""))

    # What the test says

    def began(self, job: int, attempt: int) -> None:
        """The shim lives."""
        self._pid += 1
        self.report(Started(job=job, attempt=attempt, shim_pid=self._pid))

    def end(
        self,
        job: int,
        attempt: int = 1,
        *,
        code: int | None = 0,
        signal: int | None = None,
        exit: Exit | None = None,  # noqa: A002 - as the report has it
        result: bytes | None = None,
        result_problem: str | None = None,
        output_tail: str = "",
    ) -> None:
        """The attempt is over: with `code`, by `signal`, or as `exit` says."""
        self._gone(job, attempt)
        if exit is None:
            exit = (  # noqa: A001
                Exit(kind="exit", code=code, message=f"exit code {code}")
                if signal is None
                else Exit(kind="signal", signal=signal, message=f"ended by signal {signal}")
            )
        self.report(
            Ended(
                job=job,
                attempt=attempt,
                exit=exit,
                result=result,
                result_problem=result_problem,
                output_tail=output_tail,
                log_bytes=self.output_size(job, attempt),
            )
        )

    def fail_to_spawn(
        self, job: int, attempt: int = 1, *, errno: int = 2, machine: bool = False, message: str = "cannot start"
    ) -> None:
        """There was no program, no folder or no process for it."""
        self.end(job, attempt, exit=Exit(kind="spawn", errno=errno, machine=machine, message=message))

    def lose(self, job: int, attempt: int = 1, *, message: str = "its shim ended without a record") -> None:
        """Nobody knows how it ended."""
        self.end(job, attempt, exit=Exit(kind="lost", message=message))

    def never_ran(self, job: int, attempt: int = 1, *, why: str = "") -> None:
        """It never began, and never will."""
        self._gone(job, attempt)
        self.report(NeverRan(job=job, attempt=attempt, why=why))

    def write(self, job: int, attempt: int, data: bytes) -> None:
        """The agent prints something."""
        self.output[job, attempt] = self.output.get((job, attempt), b"") + data
        self._wake()

    async def until(self, happened: Callable[[], bool], seconds: float = 5.0) -> None:
        """Wait for a start or a stop that makes `happened` true; TimeoutError when none does in time."""
        async with asyncio.timeout(seconds):
            while not happened():
                await self._changed.wait()

    def _gone(self, job: int, attempt: int) -> None:
        assert (job, attempt) in self._alive, f"attempt {(job, attempt)} does not run"
        del self._alive[job, attempt]
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
