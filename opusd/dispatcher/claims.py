"""Workers that wait for jobs, and what they get: decided with what made a job ready, in the same transaction.

First come, first served among those that a job fits. What could not be handed over (the claim was cancelled, its
connection gone) goes back to its place at no cost.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from opusd.api.framing import LINE_LIMIT
from opusd.core import leases
from opusd.core.attempts import End
from opusd.core.leases import Wanted
from opusd.core.retry import FailureClass
from opusd.dispatcher.tokens import mint
from opusd.dispatcher.views import Snapshot, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.core.decision import Decision
    from opusd.core.job import Spec
    from opusd.dispatcher.desk import Desk

_FEW: Final = 64
_LOOK_AGAIN: Final = 1.0
"""Seconds between looks at a claim that was decided and whose commit is on its way."""


class Asked(NamedTuple):
    """One claim: who, for what, how many, and for how many microseconds."""

    worker: str
    wanted: Wanted
    most: int
    lease: int


class Taken(NamedTuple):
    """One job that a worker now holds. `spec` is that of a job which was submitted in the very same decision."""

    seen: Snapshot
    token: str
    spec: Spec | None = None


class _Waiting:
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.ready = asyncio.Event()
        self.taken: list[Taken] = []
        self.abandoned = False


class Claims:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._waiting: dict[Wanted, dict[int, _Waiting]] = {}  # by serial number, the earliest first
        self._serial = count()
        desk.engine.serve = desk.writer.follow = self._serve

    def take(self, decision: Decision, asked: Asked) -> list[Taken]:
        """As much of what is asked for as there is now."""
        tokens: dict[str, str] = {}

        def minted() -> tuple[str, bytes]:
            attempt_id, token, hashed = mint()
            tokens[attempt_id] = token
            return attempt_id, hashed

        actor, decision.actor = decision.actor, f"worker:{asked.worker}"
        jobs = leases.claim(decision, asked.worker, asked.wanted, asked.most, asked.lease, minted)
        decision.actor = actor
        state, now = decision.state, decision.now
        born = _born(decision) if jobs else {}
        return [
            Taken(snapshot(state, job, now), tokens[job.run.attempt_id], born.get(job.id))
            for job in jobs
            if job.run is not None
        ]

    async def wait(self, asked: Asked, seconds: float) -> list[Taken]:
        """Until there is something for this claim and that is on disk, or the time is over."""
        clock, until = self._desk.clock, self._desk.clock.monotonic() + seconds
        waiting, serial = _Waiting(asked), next(self._serial)
        self._enter(serial, waiting)
        self._desk.engine.poke()
        try:
            while not await clock.wait(waiting.ready, max(until - clock.monotonic(), 0.0)):
                if self._leave(serial, waiting):
                    return []
                until = clock.monotonic() + _LOOK_AGAIN  # it was decided, and is on its way to disk
        except asyncio.CancelledError:
            waiting.abandoned = True
            self._leave(serial, waiting)
            self.give_back(waiting.taken)
            raise
        return waiting.taken

    def give_back(self, taken: Iterable[Taken]) -> None:
        """Nobody learned that it holds these: they are queued again where they stood."""
        self.unlearned((one.seen.job.id, one.seen.job.attempts) for one in taken)

    def refuse(self, job: int, attempt: int, size: int) -> None:
        """No reply holds this claim, whoever asks for it: to give it back would be to hand it out again."""
        message = (
            f"no worker can be told of it: its claim has {size} bytes, and a line has at most {LINE_LIMIT}: "
            "submit it with less, or with files in place of texts"
        )
        end = End(failure=FailureClass.CONFIG, message=message)
        self._desk.engine.spawn(self._desk.engine.end(job, attempt, end))

    def unlearned(self, held: Iterable[tuple[int, int]]) -> None:
        """The same, of (job, attempt)."""
        end = End(failure=FailureClass.LOST, message="the claim was not answered", never_ran=True)
        for job, attempt in held:
            self._desk.engine.spawn(self._desk.engine.end(job, attempt, end))

    def _serve(self, decision: Decision) -> None:
        """With each decision, what it made ready; and in each turn, what time did."""
        while self._waiting:
            first = {next(iter(line)): next(iter(line.values())) for line in self._waiting.values()}
            if not any(self._give(decision, serial, first[serial]) for serial in sorted(first)):
                return

    def _give(self, decision: Decision, serial: int, waiting: _Waiting) -> bool:
        taken = self.take(decision, waiting.asked)
        if not taken:
            return False
        self._leave(serial, waiting)
        decision.undone_by(lambda: self._enter(serial, waiting))
        decision.effects.append(lambda: self._hand_over(waiting, taken))
        return True

    def _hand_over(self, waiting: _Waiting, taken: list[Taken]) -> None:
        if waiting.abandoned:
            self.give_back(taken)
        else:
            waiting.taken = taken
            waiting.ready.set()

    def _enter(self, serial: int, waiting: _Waiting) -> None:
        if waiting.abandoned:
            return
        line = self._waiting.setdefault(waiting.asked.wanted, {})
        behind = bool(line) and serial < next(reversed(line))  # it comes back after a commit that failed
        line[serial] = waiting
        if behind:
            self._waiting[waiting.asked.wanted] = {number: line[number] for number in sorted(line)}

    def _leave(self, serial: int, waiting: _Waiting) -> bool:
        """Whether it still stood in line."""
        line = self._waiting.get(waiting.asked.wanted, {})
        stood = line.pop(serial, None) is not None
        if not line:
            self._waiting.pop(waiting.asked.wanted, None)
        return stood


def _born(decision: Decision) -> dict[int, Spec]:
    """The Specs of the jobs that a small decision submits: who waited for one need not read it from the registry."""
    changes = decision.changes
    if len(changes) > _FEW:
        return {}
    return {change.after.id: change.spec for change in changes if change.before is None and change.spec is not None}
