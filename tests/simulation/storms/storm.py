"""One storm: a house, those who use it, a disk that fails and kills at any step; then calm, until nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.simulation.storms.crowd import Crowd
from tests.simulation.storms.disk import CALM, Disk, Weather
from tests.simulation.storms.house import House
from tests.simulation.storms.judge import Judge
from tests.simulation.storms.loop import Loop
from tests.simulation.storms.watchers import Agents, Workers, listeners
from tests.simulation.storms.yard import Yard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LENGTH = 10_000
"""Steps of one storm before it calms down."""
_BETWEEN_KILLS = 1_500
_DISK_GOES_TOO = 0.15
_LONGEST_CALM = 150_000
_LAST_STEPS = 20_000


class Storm:
    def __init__(self, seed: int, folder: Path, length: int = LENGTH) -> None:
        self.seed, self.length = seed, length
        (folder / "runs").mkdir(exist_ok=True)
        self.chance = chance = random.Random(seed)
        self.loop = loop = Loop(chance)
        self.disk = Disk(loop, chance)
        self.yard = Yard(loop, chance)
        self.house = House(loop, self.disk, self.yard, folder, chance)
        self.judge = Judge(self.house)
        self.crowd = Crowd(self.house, self.judge, chance)
        self.workers = Workers(self.crowd)
        self.agents = Agents(self.crowd)
        self.listeners = listeners(self.crowd)
        self.house.died = self._died
        self._kill_at = self._some_steps()

    def _some_steps(self) -> int:
        return self.loop.steps + 1 + int(self.chance.expovariate(1 / _BETWEEN_KILLS))

    @contextmanager
    def here(self) -> Iterator[None]:
        """asyncio asks for the loop that runs, and the daemon for numbers of nobody's."""
        state = random.getstate()
        random.seed(self.seed)
        asyncio._set_running_loop(self.loop)
        try:
            with self.house.instead():
                yield
        finally:
            self.house.died = lambda: None
            self.house.kill()
            asyncio._set_running_loop(None)
            random.setstate(state)

    def run(self) -> None:
        """Until everything has ended; AssertionError for whatever may not be."""
        with self.here():
            self.house.start()
            for begin in (self.crowd.act, self.workers.act, self._change, *(one.act for one in self.listeners)):
                self.yard.after(self.chance.random(), begin)
            while self.loop.steps < self.length:
                self._step()
                if self.loop.steps >= self._kill_at:
                    self._strike()
            self._calm()

    def _step(self) -> None:
        self.loop.step()
        if self.yard.strikes:
            self.yard.strikes = False
            self.judge.saw("killed in the middle of a step")
            self.house.kill()
        self.judge.step()

    def seen(self) -> Counter[str]:
        """How often what happened, in the registry and in the log."""
        seen = Counter(self.judge.seen)
        seen.update({f"log: {event}": count for event, count in self.house.log.items()})
        return seen + Counter(commits=self.judge.commits, heard=sum(one.heard for one in self.listeners))

    # --- what befalls it ----------------------------------------------------------------------------

    def _change(self) -> None:
        """Another weather; and now and then somebody sets the clock."""
        if self.crowd.calm:
            return
        self.disk.change()
        if self.chance.random() < 0.02:
            self.house.clock.ahead += self.chance.choice((-3_600, -40, 30, 7_200)) * 1_000_000
            self.judge.saw("clock set")
        self.yard.after(self.chance.choice((0.01, 1.0, 30.0)) * self.chance.random(), self._change)

    def _strike(self) -> None:
        """kill -9, or SIGTERM."""
        self._kill_at = self._some_steps()
        if self.house.daemon is None:
            return
        if self.chance.random() < 0.2:
            self.judge.saw("stopped")
            if self.chance.random() < _DISK_GOES_TOO:
                self.disk.weather = Weather(unknown=0.3)
            self.house.daemon.stop()
        else:
            self.judge.saw("killed")
            self.house.kill()

    def _died(self) -> None:
        if self.chance.random() < 0.2:
            self.judge.saw("power lost")
            self.yard.lose_power()
            self.house.clock.boots += 1
        pause = self.chance.choice((0.01, 1.0, 300.0)) * self.chance.random()
        self.yard.after(pause, self.house.start)

    # --- the end ------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Nothing fails any more and nobody asks for more: everything has to come to its end."""
        self.crowd.calm = self.yard.patient = True
        self.disk.weather = CALM
        last = self.loop.steps + _LONGEST_CALM
        self._settle()
        while self.judge.jobs or not self._is_still():
            self._step()
            left = [f"job {job.id} is {job.status}" for job in self.judge.jobs.values()][:5]
            assert self.loop.steps < last, f"it does not come to its end: {left or self._left()}"
        self._nothing_is_left()

    def _settle(self) -> None:
        self.crowd.settle()
        self.yard.after(20.0, self._settle)

    def _is_still(self) -> bool:
        return self.house.is_dispatching and not self._left() and not any(one.next() for one in self.listeners)

    def _left(self) -> list[str]:
        server, engine = self.house.server, self.house.engine
        if server is None or engine is None:
            return ["no daemon"]
        return [call.method for call in server.calls.values() if call.method != "worker.claim"]

    def _nothing_is_left(self) -> None:
        engine = self.house.engine
        state, server = engine.state, self.house.server
        assert server is not None
        claims, waits = server.commands.worker_claim.__self__._claims, server.commands.job_wait.__self__
        self.crowd.over = True
        for call in list(server.calls.values()):
            self.house.hang_up(call.seat.connection)
        last = self.loop.steps + _LAST_STEPS
        while server.calls or engine._tasks or not self.judge.is_settled(engine):
            self._step()
            assert self.loop.steps < last, f"{len(server.calls)} calls and {len(engine._tasks)} tasks do not end"
        assert not claims._waiting
        for left in (waits._by_job, waits._idle, waits._awaited, waits._lending):
            assert not left
        assert not engine._follower._follows
        assert not server.commands.job_get.__self__._desk.live
        assert not self.yard.alive(), "a process is left"
        assert not state.running
        assert not state.lent
        assert not state.jobs
        assert not +state.held_needs
        assert not engine._starts._known
        self.judge.compare(state)
