"""The verbs about agents: which there are, how they fare, and whether a job would start at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opusd.api import results
from opusd.core import breather, cooling, explain, quotas, scheduler, windows
from opusd.core.job import Source
from opusd.core.times import to_rfc3339
from opusd.dispatcher.views import time_view

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.api import params as p
    from opusd.core.access import Caller
    from opusd.dispatcher.desk import Desk, Session
    from opusd.dispatcher.tally import Tally


class CapacityVerbs:
    def __init__(self, desk: Desk, tally: Tally) -> None:
        self._desk = desk
        self._tally = tally

    async def queue_capacity(self, session: Session, params: p.QueueCapacity) -> results.Capacity:
        desk, state = self._desk, self._desk.state
        desk.require_agent(params.agent)
        name = params.agent or state.limits.default_agent or "exec"
        async with session.turn:
            durations = sorted(await desk.store.durations(name, params.type) or await desk.store.durations(name, None))
        median = durations[len(durations) // 2] if durations else None
        now = desk.now()

        def look() -> results.Capacity:
            lane = len(state.lane(name).order)
            slots = min(state.slots[name], state.max_concurrent)
            busy = state.agent_busy(name)
            accounts = self._accounts(session.caller, params.source)
            queued, most = self._tightest(name, accounts)
            opens = (
                windows.opening(state, name, now),
                cooling.closed_until(state, name, now),
                breather.until(state, now),
            )
            shut = state.draining or state.pauses.everything() or state.pauses.agent(name)
            wait = None if shut else explain.estimated_wait(state, name, lane, median)
            full = queued >= most
            if wait is not None:
                wait += max([0, *(at - now for at in opens if at is not None)])
            held = bool(state.short) or opens[-1] is not None or not scheduler.may_start(state, name, now)
            held = held or any(quotas.exhausted(state, account) for account in accounts)
            free = not shut and not held and busy < slots and state.pool_busy() < state.max_concurrent and not lane
            return results.Capacity(
                state="full" if full else "open" if free else "busy",
                running=busy,
                slots=slots,
                queued=lane,
                max_queued=most,
                retry_after=None if not full else max(1.0, (median or 60_000_000) / 1e6 / max(1, slots)),
                estimated_start=None if wait is None else to_rfc3339(now + wait),
            )

        return await desk.writer.read(look)

    def _accounts(self, caller: Caller, source: str | None) -> tuple[str, ...]:
        """Whose quotas would hold a job that this caller submits."""
        own = None if caller.job is None else self._desk.state.jobs.get(caller.job)
        said = source or (Source.AGENT.value if caller.agent else Source.USER.value)
        return self._desk.state.accounts.whose(caller.actor, 0 if own is None else own.root, said)

    def _tightest(self, agent: str, accounts: Iterable[str]) -> tuple[int, int]:
        """(queued, most) of the limit on queued jobs that leaves the least room."""
        state = self._desk.state
        bounds = [
            (len(state.lane(agent).order), state.limits.agents[agent].max_queued),
            (state.queued(), state.limits.max_queued),
            *((state.accounts.queued[name], state.accounts.quota(name).max_queued) for name in accounts),
        ]
        return min(bounds, key=lambda bound: bound[1] - bound[0])

    async def agent_list(self, session: Session, params: p.AgentList) -> results.Agents:
        del params
        state, tally = self._desk.state, self._tally

        def look() -> list[results.AgentInfo]:
            return [
                results.AgentInfo(
                    name=name,
                    slots=min(state.slots[name], state.max_concurrent),
                    busy=state.agent_busy(name),
                    queued=len(state.lanes[name].order) if name in state.lanes else 0,
                    paused=state.pauses.agent(name),
                    cooling_until=time_view(cooling.closed_until(state, name, self._desk.now())),
                    attempts=tally.attempts[name],
                    success_rate=tally.success_rate(name),
                )
                for name in state.limits.agents
            ]

        async with session.turn:
            return results.Agents(agents=await self._desk.writer.read(look))
