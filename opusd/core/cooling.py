"""Agents whose provider said "not now": closed until a moment, then one job as a probe, then open.

No retry is spent on a limit, and no launch goes into a closed one beyond the probe.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict, replace

from opusd.core.times import DAY, HOUR, MINUTE, to_rfc3339

if TYPE_CHECKING:
    from opusd.core.decision import Decision
    from opusd.core.job import Job
    from opusd.core.state import State

BELIEVED: Final = 8 * DAY
"""The longest window that a provider has is a week; a day more is for zones and rounding. Beyond it is a mistake."""
PROBE: Final = MINUTE
"""A probe that has run so long has shown that the limit is over."""
MAX_LIMITS: Final = 20
"""Rate limits in a row after which a job fails."""
_JITTER: Final = 0.1


class Cooling(msgspec.Struct, frozen=True):
    """`strikes` counts limits in a row without a good attempt between; `probe` goes first, since `since`.

    `named`: the provider named `until`, which then is a time of the wall's clock; else it is so long from the limit.
    """

    until: int
    strikes: int = 1
    probe: int | None = None
    since: int | None = None
    named: bool = False


def closed(state: State, agent: str, now: int) -> bool:
    """Whether no job of this agent may start now; past `until` the next one that starts is the probe."""
    cooling = state.cooling.get(agent)
    return cooling is not None and (now < cooling.until or cooling.probe is not None)


def closed_until(state: State, agent: str, now: int) -> int | None:
    """When time next changes what `closed` says of this agent; None: it does not."""
    cooling = state.cooling.get(agent)
    if cooling is None:
        return None
    if cooling.probe is not None:  # also when the clock was set back behind the reset that it waited for
        return None if cooling.since is None else cooling.since + PROBE
    return cooling.until if now < cooling.until else None


def next_moment(state: State, now: int) -> int | None:
    """When time next changes what `closed` says of any agent."""
    moments = [closed_until(state, agent, now) for agent in state.cooling]
    return min((at for at in moments if at is not None), default=None)


def limited(decision: Decision, agent: str, named: int | None, chance: float) -> int:
    """An attempt met a limit; until when the agent is closed. `named` is the reset that its output gave."""
    now, cooling = decision.now, decision.state.cooling.get(agent)
    already = cooling is not None and now < cooling.until
    strikes = 1 if cooling is None else cooling.strikes if already else cooling.strikes + 1
    believed = named is not None and now < named <= now + BELIEVED
    if named is not None and believed:
        until = named
    else:
        wait = min(MINUTE << min(strikes - 1, 10), HOUR)
        until = now + int(wait * (1 + _JITTER * chance))
        if already and cooling is not None:
            until = cooling.until  # said already by another attempt of the same minute
    if already and cooling is not None and cooling.until >= until:
        until, believed = cooling.until, cooling.named
    _set(decision, agent, Cooling(until=until, strikes=strikes, named=believed))
    decision.note("agent.cooling", detail={"agent": agent, "until": to_rfc3339(until), "named": named is not None})
    return until


def met(decision: Decision, job: Job, named: int | None) -> None:
    """A running attempt meets a limit and waits by itself: until that is over it stands for the others as a probe."""
    agent, now = job.terms.agent, decision.now
    if named is not None and now < named <= now + BELIEVED:
        limited(decision, agent, named, 0.0)
        return
    cooling = decision.state.cooling.get(agent)
    if cooling is None:
        _set(decision, agent, Cooling(until=now, strikes=0, probe=job.id, since=now))
        decision.note("agent.cooling", detail={"agent": agent, "until": to_rfc3339(now + PROBE), "named": False})
    elif cooling.probe == job.id:
        _set(decision, agent, replace(cooling, since=now))


def began(decision: Decision, job: Job) -> None:
    """A job of an agent whose cool-down is over: it is the probe."""
    cooling = decision.state.cooling.get(job.terms.agent)
    if cooling is not None and cooling.probe is None:
        _set(decision, job.terms.agent, replace(cooling, probe=job.id, since=decision.now))


def ended(decision: Decision, job: Job, *, well: bool) -> None:
    """The probe is over: the others follow when it ended well or ran long enough, else another one goes first."""
    agent = job.terms.agent
    cooling = decision.state.cooling.get(agent)
    if cooling is None or cooling.probe != job.id:
        return
    if well or (cooling.since is not None and decision.now >= cooling.since + PROBE):
        ready(decision, agent)
    else:
        _set(decision, agent, replace(cooling, probe=None, since=None))


def settle(decision: Decision) -> None:
    """Probes that ran long enough, and probes that are gone."""
    for agent, cooling in list(decision.state.cooling.items()):
        if cooling.probe is None or cooling.since is None:
            continue
        if cooling.probe not in decision.state.running:
            _set(decision, agent, replace(cooling, probe=None, since=None))
        elif decision.now >= cooling.since + PROBE:
            ready(decision, agent)


def ready(decision: Decision, agent: str) -> None:
    """The agent is open again: its probe was good, or a person says so."""
    if agent in decision.state.cooling:
        _set(decision, agent, None)
        decision.note("agent.ready", detail={"agent": agent})


def shift(decision: Decision, by: int) -> None:
    """The wall's clock has jumped: what lasts a while moves with it, a reset that a provider named does not."""
    for agent, cooling in list(decision.state.cooling.items()):
        until = cooling.until if cooling.named else cooling.until + by
        since = None if cooling.since is None else cooling.since + by
        moved = replace(cooling, until=until, since=since)
        if moved != cooling:
            _set(decision, agent, moved)


def restore(kept: dict[str, Any]) -> dict[str, Cooling]:
    """Cool-downs from the settings of the registry."""
    return {
        name.removeprefix("cooling:"): msgspec.convert(value, Cooling)
        for name, value in kept.items()
        if name.startswith("cooling:")
    }


def _set(decision: Decision, agent: str, cooling: Cooling | None) -> None:
    known = decision.state.cooling
    old = known.get(agent)
    _put(known, agent, cooling)
    decision.keep(f"cooling:{agent}", None if cooling is None else asdict(cooling), partial(_put, known, agent, old))


def _put(known: dict[str, Cooling], agent: str, cooling: Cooling | None) -> None:
    if cooling is None:
        known.pop(agent, None)
    else:
        known[agent] = cooling
