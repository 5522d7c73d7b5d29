"""Submits jobs by the calendar: each firing makes one job, whatever happens.

A firing's job and the schedule's step past it are one decision, so they are on disk together or not at all; the
firing's key guards what a clock that was set back would do again. It sleeps until the next firing and looks at
nothing meanwhile. Must not know what a job is beyond its JobSpec, nor how it is admitted: the `Entrance` does.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
from msgspec.structs import asdict, replace

from opusd.api import results
from opusd.api.types import JobSpec
from opusd.config.hours import local_zone
from opusd.core.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    OpusError,
    QueueFull,
    QuotaExceeded,
    ShuttingDown,
    StorageUnavailable,
)
from opusd.core.times import SECOND, to_rfc3339
from opusd.triggers.almanac import Almanac
from opusd.triggers.plan import Schedule, look, set_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import tzinfo

    from opusd.api.params import ScheduleAdd
    from opusd.clock import Clock
    from opusd.core.decision import Decision

T = TypeVar("T")
MOST: Final = 1000
"""So many schedules at most."""
_PREFIX: Final = "schedule:"
_LONGEST_SLEEP: Final = 30.0
_AGAIN: Final = 60.0
# As the characters of a job's key, of which the name is a part.
_NAME: Final = re.compile(r"[^\s,\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]{1,100}")


class Writer(Protocol):
    """The one that decides and commits."""

    def command(self, decide: Callable[[Decision], T], actor: str) -> asyncio.Future[T]: ...
    def fact(self, decide: Callable[[Decision], T], actor: str = "scheduler") -> asyncio.Future[T]: ...


class Door(Protocol):
    """One submission within one decision."""

    def submit(self) -> int: ...
    def unfinished(self, number: int) -> bool: ...


class Entrance(Protocol):
    """Admits jobs that no caller asks for."""

    async def rehearse(self, sent: JobSpec, actor: str) -> None: ...
    async def enter(
        self,
        sent: JobSpec,
        actor: str,
        decide: Callable[[Decision, Any], T],
        *,
        key: str | None = None,
        watch: Sequence[int] = (),
    ) -> asyncio.Future[T]: ...


class Schedules:
    """`settings` are the registry's at the start. `log(event, level="info", **fields)` writes a record."""

    def __init__(
        self,
        writer: Writer,
        entrance: Entrance,
        clock: Clock,
        *,
        log: Callable[..., None],
        settings: Mapping[str, Any],
        local: Callable[[], tuple[tzinfo, str]] = local_zone,
    ) -> None:
        self._writer = writer
        self._entrance = entrance
        self._clock = clock
        self._log = log
        kept = [msgspec.convert(value, Schedule) for name, value in settings.items() if name.startswith(_PREFIX)]
        self._schedules = {schedule.name: schedule for schedule in sorted(kept, key=lambda one: one.name)}
        self._almanac = Almanac(local=local, log=log)
        self._rests: dict[str, float] = {}  # refused for now: until then (monotonic) it is not tried again
        self._wake = asyncio.Event()

    def configure(self) -> None:
        """The configuration was read again: so is the zone of the machine, and what was refused is tried again."""
        self._almanac.clear()
        self._rests.clear()
        self._wake.set()

    # --- what people do ---------------------------------------------------------------------------

    async def add(self, sent: ScheduleAdd, actor: str) -> asyncio.Future[results.Schedule]:
        """InvalidParams names the field; a JobSpec is refused as job.submit would refuse it, under `$.job`."""
        if not _NAME.fullmatch(sent.name):
            raise InvalidParams("$.name: a name has 1 to 100 characters, no space, comma or control", path="$.name")
        now = self._clock.now()
        self._almanac.read(sent.cron, sent.timezone, now)
        new = Schedule(
            name=sent.name,
            cron=sent.cron,
            timezone=sent.timezone,
            misfire=sent.misfire,
            overlap=sent.overlap,
            job=msgspec.to_builtins(sent.job),
            through=now,
        )
        await self._entrance.rehearse(sent.job, new.actor)
        return self._writer.command(partial(self._decide_add, new, sent.replace), actor)

    def _decide_add(self, new: Schedule, instead: bool, decision: Decision) -> results.Schedule:
        """What is there already stays as it is; what takes its place goes on where it was, if it fires as it did."""
        old = self._schedules.get(new.name)
        if old is None:
            if len(self._schedules) >= MOST:
                raise Conflict(f"there are {MOST} schedules already: remove one first")
        elif _asked(old) == _asked(new):
            return self._view(old)
        elif not instead:
            raise Conflict(f"there is a schedule {new.name!r} already: give replace to put this in its place")
        else:
            new = replace(
                new, paused=old.paused, last_at=old.last_at, last_job=old.last_job, jobs=old.jobs,
            )  # fmt: skip
            if (old.cron, old.timezone) == (new.cron, new.timezone):
                new = replace(new, through=old.through, owed=old.owed)
        self._put(decision, new.name, new)
        decision.note("schedule.added" if old is None else "schedule.replaced", detail={"schedule": new.name})
        return self._view(new)

    def remove(self, name: str, actor: str) -> asyncio.Future[None]:
        def decide(decision: Decision) -> None:
            self._named(name)
            self._put(decision, name, None)
            decision.note("schedule.removed", detail={"schedule": name})

        return self._writer.command(decide, actor)

    def pause(self, name: str, actor: str) -> asyncio.Future[results.Schedule]:
        """No firing until `resume`; what is owed is let go."""
        return self._writer.command(partial(self._decide_pause, name, True), actor)

    def resume(self, name: str, actor: str) -> asyncio.Future[results.Schedule]:
        """It fires from now on: what came due meanwhile was meant not to be."""
        return self._writer.command(partial(self._decide_pause, name, False), actor)

    def _decide_pause(self, name: str, paused: bool, decision: Decision) -> results.Schedule:
        old = self._named(name)
        if old.paused is paused:
            return self._view(old)
        through = old.through if paused else decision.now
        new = replace(old, paused=paused, owed=(), through=through)
        self._put(decision, name, new)
        decision.note("schedule.paused" if paused else "schedule.resumed", detail={"schedule": name})
        return self._view(new)

    async def submit(self, name: str) -> asyncio.Future[int]:
        """Its job, now, whether or not it is paused or one of its jobs is unfinished."""
        found = self._named(name)

        def decide(decision: Decision, door: Door) -> int:
            schedule = self._named(name)
            number = door.submit()
            self._put(decision, name, _went(schedule, number, door))
            return number

        return await self._entrance.enter(_spec(found), found.actor, decide, watch=found.jobs)

    def shown(self, name: str | None) -> list[results.Schedule]:
        """All of them by name, or the one of this name; NotFound."""
        if name is not None:
            return [self._view(self._named(name))]
        return [self._view(schedule) for _, schedule in sorted(self._schedules.items())]

    # --- firing -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever."""
        while True:
            self._wake.clear()
            pause = _LONGEST_SLEEP
            for name in list(self._schedules):
                pause = min(pause, await self._turn(name))
            await self._clock.wait(self._wake, pause)

    async def _turn(self, name: str) -> float:
        """Fire what is due of one schedule; in how many seconds to look at it again."""
        while (schedule := self._schedules.get(name)) is not None:
            calendar, moment = self._almanac.calendar(schedule), self._almanac.next_at(schedule)
            if calendar is None or moment is None:
                return _LONGEST_SLEEP
            now = self._clock.now()
            if moment > now and not set_back(schedule, now):
                return (moment - now) / SECOND
            looked = look(schedule, calendar, now).schedule
            rest = self._rests.get(name, 0.0) - self._clock.monotonic()
            if rest > 0:
                return rest
            try:
                await self._fire(schedule, looked)
            except (QueueFull, QuotaExceeded, StorageUnavailable) as error:
                await self._postpone(schedule, error)
            except ShuttingDown:
                return _LONGEST_SLEEP
            except OpusError as error:
                await self._give_up(name, looked, error)
        return _LONGEST_SLEEP

    async def _fire(self, schedule: Schedule, looked: Schedule) -> None:
        """One decision: what is owed, the job of the first firing of that, and the step past it."""
        if not looked.owed:
            await self._writer.fact(partial(self._decide_look, schedule.name), schedule.actor)
            return
        firing = looked.owed[0]
        decide = partial(self._decide_fire, schedule, firing)
        future = await self._entrance.enter(
            _spec(schedule), schedule.actor, decide, key=schedule.key(firing), watch=schedule.jobs
        )
        await future

    def _decide_fire(self, seen: Schedule, firing: int, decision: Decision, door: Door) -> None:
        """Nothing when the schedule was changed since it was seen: it is looked at again."""
        if self._schedules.get(seen.name) is not seen:
            return
        schedule = self._looked(decision, seen)
        if not schedule.owed or schedule.owed[0] != firing:
            return
        past = replace(schedule, owed=schedule.owed[1:])
        busy = [number for number in schedule.jobs if door.unfinished(number)]
        about = {"schedule": seen.name, "firing": to_rfc3339(firing)}
        if schedule.overlap == "skip" and busy:
            after = replace(past, jobs=tuple(busy))
            said = partial(self._log, "schedule.skipped", **about, job=busy[-1], message="its last job is unfinished")
        else:
            number = door.submit()
            after = replace(_went(past, number, door), last_at=firing, last_error=None)
            said = partial(self._log, "schedule.fired", **about, job=number)
        self._put(decision, seen.name, after)
        decision.effects.append(said)

    def _decide_look(self, name: str, decision: Decision) -> None:
        schedule = self._schedules.get(name)
        if schedule is not None:
            after = self._looked(decision, schedule)
            if after != schedule:
                self._put(decision, name, after)

    def _looked(self, decision: Decision, schedule: Schedule) -> Schedule:
        """The schedule as it is at the time of the decision; what is lost is said when that is on disk."""
        calendar = self._almanac.calendar(schedule)
        if calendar is None:
            return schedule
        looked = look(schedule, calendar, decision.now)
        if looked.lost:
            about = {"schedule": schedule.name, "misfire": schedule.misfire, "through": to_rfc3339(decision.now)}
            decision.effects.append(partial(self._log, "schedule.missed", level="warning", **about))
        return looked.schedule

    async def _postpone(self, schedule: Schedule, error: OpusError) -> None:
        """Refused for now: the firing stays owed, over a restart too, and is tried again."""
        rest = error.data.get("retry_after")
        rest = float(rest) if isinstance(rest, int | float) else _AGAIN
        self._rests[schedule.name] = self._clock.monotonic() + rest
        self._log("schedule.postponed", level="warning", schedule=schedule.name, message=error.message, again=rest)
        if not isinstance(error, StorageUnavailable):
            await self._note(schedule.name, error, None)

    async def _give_up(self, name: str, looked: Schedule, error: OpusError) -> None:
        """This firing makes no job: the next one may."""
        if not looked.owed:
            self._rests[name] = self._clock.monotonic() + _AGAIN
            return
        firing = looked.owed[0]
        if error.data.get("key") == looked.key(firing):  # it made a job before the clock was set back
            await self._note(name, None, firing)
            return
        about = {"schedule": name, "firing": to_rfc3339(firing), "message": error.message}
        self._log("schedule.failed", level="error", **about)
        await self._note(name, error, firing)

    async def _note(self, name: str, error: OpusError | None, passed: int | None) -> None:
        """Write down why a firing made no job, and that it is passed over unless it stays owed."""

        def decide(decision: Decision) -> None:
            schedule = self._schedules.get(name)
            if schedule is None:
                return
            after = self._looked(decision, schedule)
            after = replace(after, owed=tuple(firing for firing in after.owed if firing != passed))
            if error is not None:
                after = replace(after, last_error=error.message)
            if after != schedule:
                self._put(decision, name, after)

        await self._writer.fact(decide, f"{_PREFIX}{name}")

    # --- keeping ----------------------------------------------------------------------------------

    def _named(self, name: str) -> Schedule:
        found = self._schedules.get(name)
        if found is None:
            raise NotFound(f"there is no schedule {name!r}", path="$.name")
        return found

    def _put(self, decision: Decision, name: str, schedule: Schedule | None) -> None:
        old = self._schedules.get(name)
        self._set(name, schedule)
        decision.keep(_PREFIX + name, None if schedule is None else asdict(schedule), partial(self._set, name, old))

    def _set(self, name: str, schedule: Schedule | None) -> None:
        if schedule is None:
            self._schedules.pop(name, None)
            self._rests.pop(name, None)
            self._almanac.keep(self._schedules)
        else:
            self._schedules[name] = schedule
        self._wake.set()

    def _view(self, schedule: Schedule) -> results.Schedule:
        moment = self._almanac.next_at(schedule)
        return results.Schedule(
            name=schedule.name,
            cron=schedule.cron,
            timezone=schedule.timezone,
            misfire=schedule.misfire,
            overlap=schedule.overlap,
            paused=schedule.paused,
            next_at=None if moment is None else to_rfc3339(moment),
            last_at=None if schedule.last_at is None else to_rfc3339(schedule.last_at),
            last_job=schedule.last_job,
            last_error=self._almanac.problem(schedule) or schedule.last_error,
            job=schedule.job,
        )


def _asked(schedule: Schedule) -> tuple[Any, ...]:
    """What a person said of it."""
    return (schedule.cron, schedule.timezone, schedule.misfire, schedule.overlap, schedule.job)


def _spec(schedule: Schedule) -> JobSpec:
    try:
        return msgspec.convert(schedule.job, JobSpec)
    except msgspec.ValidationError as error:  # another version of opusd took it
        raise InvalidParams(f"$.job: {error}", path="$.job") from None


def _went(schedule: Schedule, number: int, door: Door) -> Schedule:
    """The schedule with one more job; where overlaps don't matter only the last is remembered."""
    before = schedule.jobs if schedule.overlap == "skip" else ()
    busy = [one for one in before if one != number and door.unfinished(one)]
    return replace(schedule, last_job=number, jobs=(*busy, number))
