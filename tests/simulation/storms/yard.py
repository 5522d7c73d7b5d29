"""The processes of agents, which outlive the daemon that started them. Each goes its way, and ends as chance has it.

What no daemon was there to hear is told to the next one that asks. A pool is one daemon's view of the yard.
"""

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.agents.spec import Adopted, Chunk, Ended, Exit, Launch, NeverRan, Report, Started
from tests.simulation.storms.disk import POISON
from tests.simulation.storms.loop import LIFE

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable, Sequence

    from tests.simulation.storms.loop import Loop

Key = tuple[int, int]
WAYS = {
    "good": 40, "bad": 12, "killed": 3, "lost": 5, "no program": 2, "no room": 2, "never": 2, "limited": 5,
    "silent": 2, "curious": 4, "poison": 2, "out of memory": 1, "unverified": 2, "stubborn": 4, "parent": 6,
}  # fmt: skip
_STRUCK = 0.01
_LIMITED = (
    b'{"type":"rate_limit_event","rate_limit_info":{"status":"rejected"}}\n'
    b'{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"rate limit"}\n'
)


class Process(msgspec.Struct):
    """`began` false: its shim is still to come. `end` is what its shim wrote down when it was over."""

    launch: Launch
    way: str
    began: bool = False
    end: Ended | None = None
    told: bool = False  # somebody asked it to end
    output: bytes = b""
    readers: list[Any] = []  # futures of those who wait for more output

    @property
    def key(self) -> Key:
        return self.launch.job, self.launch.attempt


class Yard:
    """`parent` is called when a process begins that has something to say to the daemon: its key, its token, its way."""

    def __init__(self, loop: Loop, chance: random.Random) -> None:
        self.processes: dict[Key, Process] = {}
        self.pool: Pool | None = None
        self.speaks: Callable[[Process], None] = lambda _: None
        self.started: Callable[[Process], None] = lambda _: None
        self.count = 0
        self.patient = False
        self.strikes = False  # the daemon is killed in this step: it does nothing more that anybody sees
        self.loop, self.chance = loop, chance

    def alive(self) -> list[Process]:
        """Those that run, or may yet begin."""
        return [process for process in self.processes.values() if process.end is None]

    def is_alive(self, key: Key) -> bool:
        process = self.processes.get(key)
        return process is not None and process.end is None

    def start(self, launch: Launch) -> None:
        key = (launch.job, launch.attempt)
        assert key not in self.processes, f"attempt {key} is launched twice"
        assert all(other.launch.job != launch.job for other in self.alive()), (
            f"job {launch.job} would run twice at once"
        )
        [way] = self.chance.choices(list(WAYS), list(WAYS.values()))
        self.processes[key] = process = Process(launch, way)
        self.count += 1
        self.started(process)
        self.after(self.chance.random() * 0.01, lambda: self._begin(process))

    def _begin(self, process: Process) -> None:
        if self.processes.get(process.key) is not process or process.end is not None:
            return
        if process.way == "never":
            del self.processes[process.key]
            self.report(NeverRan(job=process.launch.job, attempt=process.launch.attempt))
            return
        if process.way in ("no program", "no room"):
            errno = 2 if process.way == "no program" else 28
            self.over(process, Exit(kind="spawn", errno=errno, message="it can't be started"))
            return
        process.began = True
        self.report(Started(job=process.launch.job, attempt=process.launch.attempt, shim_pid=self.count))
        if process.way in ("curious", "parent"):
            self.after(self.chance.random(), lambda: self.speaks(process))
        length = self.chance.choice((0.0, 0.01, 0.2, 3.0, 60.0)) * self.chance.random()
        if process.way == "silent" and not self.patient:
            length = 3_000.0
        self.after(length, lambda: self._finish(process))

    def _finish(self, process: Process) -> None:
        if process.end is not None or process.way == "curious":
            if process.way == "curious":
                process.way = "good"
                self.after(60 * self.chance.random(), lambda: self._finish(process))
            return
        match process.way:
            case "bad":
                self.over(process, Exit(kind="exit", code=self.chance.choice((1, 2, 137)), message="failed"))
            case "killed":
                self.over(process, Exit(kind="signal", signal=9))
            case "lost":
                self.over(process, Exit(kind="lost", message="its shim ended without a record"))
            case "limited":
                process.output += _LIMITED
                self.over(process, Exit(kind="exit", code=1))
            case "out of memory":
                self.over(process, Exit(kind="signal", signal=9), oom=1)
            case "unverified":
                self.over(
                    process, Exit(kind="exit", code=0), verify=Exit(kind="exit", code=1, message="2 tests failed")
                )
            case "poison":
                self.over(process, Exit(kind="exit", code=0), result=b'"%s"' % POISON.encode())
            case _:
                process.output += b'{"type":"result","subtype":"success","is_error":false,"result":"done"}\n'
                self.over(process, Exit(kind="exit", code=0), result=b'{"by": %d}' % self.count)

    def over(self, process: Process, how: Exit, **fields: Any) -> None:
        """None of its processes is left."""
        if process.end is not None:
            return
        job, attempt = process.key
        process.end = Ended(
            job=job, attempt=attempt, exit=how, asked=process.told, log_bytes=len(process.output), **fields
        )
        readers, process.readers = process.readers, []
        for news in readers:
            _wake(news)
        self.report(process.end)

    def stop(self, key: Key, grace: float) -> None:
        process = self.processes.get(key)
        if process is None or process.end is not None:
            return
        process.told = True
        wait = grace if process.way == "stubborn" else min(grace, self.chance.random() * 0.5)
        number = 9 if process.way == "stubborn" else 15
        self.after(wait, lambda: self.over(process, Exit(kind="signal", signal=number)))

    def lose_power(self) -> None:
        """Nothing of them is left, and what had not begun never will."""
        for process in self.alive():
            if process.began:
                self.over(process, Exit(kind="lost", message="the machine was started again"))
            else:
                del self.processes[process.key]

    def report(self, report: Report) -> None:
        """To whoever watches; the shim's own record stays where nobody does."""
        if self.pool is not None:
            self.pool.hear(report)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.loop.call_later(seconds, act, context=Context())


class Pool:
    """The interface of AgentPool. `cut`: the daemon is dead, and nothing that it still does is seen by anybody."""

    def __init__(self, yard: Yard, report: Callable[[Report], None], life: int) -> None:
        self._yard, self._report = yard, report
        self._context = Context()
        self._context.run(LIFE.set, life)
        self._watched: set[Key] = set()
        self.cut = False
        self.punches_holes = True

    async def open(self) -> None:
        self._yard.pool = self

    async def close(self) -> None:
        if self._yard.pool is self:
            self._yard.pool = None

    def attempt_of(self, pid: int) -> Key | None:
        return None

    def hear(self, report: Report) -> None:
        if (report.job, report.attempt) in self._watched:
            self._yard.loop.call_soon(self._tell, report, context=self._context)

    def _tell(self, report: Report) -> None:
        if isinstance(report, Ended | NeverRan):
            self._watched.discard((report.job, report.attempt))
        self._report(report)

    def start(self, launch: Launch) -> None:
        if not self.cut:
            self._watched.add((launch.job, launch.attempt))
            self._yard.start(launch)
            self._strike()

    def stop(self, job: int, attempt: int, grace: float) -> None:
        if not self.cut:
            self._yard.stop((job, attempt), grace)
            self._strike()

    def _strike(self) -> None:
        """Now and then the daemon is killed right here."""
        if not self._yard.patient and self._yard.chance.random() < _STRUCK:
            self.cut = self._yard.strikes = True

    def set_deadline(self, job: int, attempt: int, seconds: float | None) -> None:
        pass

    async def recover(self, running: Sequence[tuple[int, int, str, float | None]]) -> None:
        """Adopted, over meanwhile, or never begun: then it is seen to that it never will."""
        for job, attempt, attempt_id, _ in running:
            hop = self._yard.loop.create_future()
            self._yard.loop.elsewhere(self._yard.chance.random() * 0.002, hop.set_result, None)
            await hop
            process = self._yard.processes.get((job, attempt))
            self._watched.add((job, attempt))
            if process is None or not (process.began or process.end):
                self._yard.processes.pop((job, attempt), None)
                self.hear(NeverRan(job=job, attempt=attempt))
                continue
            assert process.launch.attempt_id == attempt_id
            self.hear(process.end or Adopted(job=job, attempt=attempt, shim_pid=1))

    async def read_output(self, job: int, attempt: int, offset: int, limit: int, wait_s: float) -> Chunk:
        """What there is from `offset` on; when there is nothing, after a while."""
        loop, left = self._yard.loop, wait_s
        while True:
            process = self._yard.processes.get((job, attempt))
            data = b"" if process is None else process.output
            over = process is None or process.end is not None
            if process is None or len(data) > offset or over or left < 1e-6:
                part = data[offset : offset + limit]
                end = offset + len(part)
                eof = over and end >= len(data)
                return Chunk(data=part.decode(), offset=offset, next_offset=end, eof=eof)
            until, news = loop.time() + left, loop.create_future()
            process.readers.append(news)
            wake = loop.call_later(left, _wake, news)
            await news
            wake.cancel()
            left = until - loop.time()


def _wake(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
