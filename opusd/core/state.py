"""The unfinished jobs and every index over them: a cache of the registry, never the truth.

`apply(before, after)` is the only way in, and its own inverse: `apply(after, before)` undoes it. Nothing
here decides; what can be derived from the jobs is derived, so a rebuild from the registry gives an equal State.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final

from opusd.core import sizes
from opusd.core.dependencies import Inheritance
from opusd.core.job import Job, Run, Terms
from opusd.core.lifecycle import ALIVE, Status
from opusd.core.order import Heir, place, rank_key, rank_keys
from opusd.core.pauses import Pauses
from opusd.core.quotas import Accounts
from opusd.core.ready import Lane, Signature, signature_of, traits_of
from opusd.core.relations import Relations
from opusd.core.room import Room
from opusd.core.timekeeping import Timeline
from opusd.core.timers import Timers
from opusd.core.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.core.breather import Breather
    from opusd.core.budgets import Day
    from opusd.core.cooling import Cooling
    from opusd.core.limits import Limits


class State:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.max_concurrent = 0
        self.slots: dict[str, int] = {}
        self.sized: dict[str, sizes.Size] = {}  # what people set, whether or not it holds
        sizes.settle(self)
        self.pauses = Pauses()
        self.draining = False
        self.breather: Breather | None = None  # the machine refused to start something
        self.room = Room()  # what the machine had when it was last looked at
        self.short: tuple[str, ...] = ()  # what it has too little of: nothing is launched
        self.jobs: dict[int, Job] = {}
        self.relations = Relations()
        self.keys = self.relations.keys
        self.dependents = self.relations.dependents
        self.descendants = self.relations.descendants
        self.groups = self.relations.groups
        self.tree_sizes = self.relations.tree_sizes
        self.submissions = self.relations.submissions
        self.lanes: dict[str, Lane] = {}
        self.running: dict[int, Job] = {}
        self.pushed: dict[int, Job] = {}  # those of them that the daemon itself runs
        self.statuses: Counter[Status] = Counter()
        self.tiers: Counter[int] = Counter()
        self.agents: Counter[str] = Counter()
        self.held_needs: Counter[str] = Counter()
        self.accounts = Accounts(limits)
        self.windows = Windows(limits)
        self.cooling: dict[str, Cooling] = {}  # agents whose provider limits them
        self.days: dict[str, Day] = {}  # agents with a budget a day -> what they used
        self.last_start: dict[str, int] = {}  # agent -> when it last started a job, for starts_per_minute
        self.lent: set[int] = set()  # running jobs whose agent waits for its own tree
        self.last_job = 0
        self.last_event = 0
        self.first: tuple[int, int] | None = None  # (job first in order, since when): see scheduler.reservation
        self.reserved: tuple[int, tuple[tuple[str, int], ...]] | None = None  # (key, needs) of the one that reserves
        self.inheritance = Inheritance(self._move)
        self.timeline = Timeline()
        self.timers = Timers(self.jobs)
        self._signed: dict[int, tuple[Terms, Signature]] = {}  # by identity, for to hash Terms costs more than this

    def relimit(self, limits: Limits) -> None:
        """The configuration was read again. Sizes that people set stay until the configured value itself changes."""
        self.limits = limits
        sizes.settle(self)
        for lane in self.lanes.values():
            lane.close()
        self.lanes = {}
        self.accounts.relimit(limits, self.jobs.values())
        self.windows.relimit(limits)
        self._signed.clear()
        alike: dict[int, tuple[Job, list[int]]] = {}
        for job in self.jobs.values():
            if job.status is Status.QUEUED:
                alike.setdefault(id(job.terms), (job, []))[1].append(self.rank_key(job))
        self._fill_lanes(alike.values())

    # --- changes ----------------------------------------------------------------------------------

    def apply(self, before: Job | None, after: Job | None) -> None:
        """Replace `before` by `after`. None: not there; a final job is not kept."""
        if before is None and after is not None and not after.final:
            self._add(after)
            return
        old = None if before is None or before.final else before
        new = None if after is None or after.final else after
        if old is None and new is None:
            return
        job = new or old
        assert job is not None
        # Before anything is changed: a stale record must not leave half of a change behind.
        assert self.jobs.get(job.id) is old, f"job {job.id} is not what this change begins with"
        if old is not None and old.status is Status.QUEUED:
            self.lanes[old.terms.agent].remove(self.rank_key(old))
        self._recount(old, new)
        if new is None:
            del self.jobs[job.id]
            if after is not None:
                self.inheritance.forget(job.id)
        else:
            self.jobs[job.id] = new
        if old is None:
            self.relations.add(job)
        elif new is None:
            self.relations.remove(job)
        if before is None or after is None:
            self.relations.grow(job, 1 if before is None else -1)
        if job.edges or (old is not None and old.edges):
            self._relink(old, new)
        if new is None:
            if job.root not in self.jobs and job.root not in self.descendants:
                self.relations.forget_tree(job.root)
            return
        if new.status is Status.QUEUED:
            self.lane(new.terms.agent).push(self.rank_key(new), self.signature(new))
        if new.run is not None and new.status in ALIVE:
            self._runs(new)
        self.timers.remind(old, new)

    def _relink(self, old: Job | None, new: Job | None) -> None:
        if (old.edges if old else ()) is not (new.edges if new else ()) or _blocked(old) is not _blocked(new):
            self.relations.link(old, new)
            self.inheritance.change(old, new, self.jobs.get)
        elif new is not None and old is not None and new.edges and old.terms is not new.terms:
            self.inheritance.change(old, new, self.jobs.get)

    def _add(self, job: Job) -> None:
        """`apply` of a job that is not there, which is what most changes are."""
        assert job.id not in self.jobs, f"job {job.id} is there already"
        self.jobs[job.id] = job
        if job.key is not None or job.ancestors or job.terms.group is not None:
            self.relations.add(job)
        if job.ancestors:
            self.relations.grow(job, 1)
        if job.edges:
            self.relations.link(None, job)
            self.inheritance.change(None, job, self.jobs.get)
        if job.status is Status.QUEUED:
            self.lane(job.terms.agent).push(self.rank_key(job), self.signature(job))
        self._count(job, 1)
        self.timers.remind(None, job)

    def load(self, jobs: Iterable[Job], alike: Iterable[list[Job]] = ()) -> None:
        """Fill an empty state: what `apply` would give for each, but a million jobs in half a second.

        `alike`: further jobs, by lists that share their Terms, which are queued and have no key, ancestors, edges or
        extras. By the thousand, so that a job is still in the processor's cache when its key is made.
        """
        queued: dict[int, tuple[Job, list[int]]] = {}  # by identity of their Terms, which are interned
        linked: list[Job] = []
        rest = iter(jobs)
        while some := list(islice(rest, _LOADED_TOGETHER)):
            self._load_some(some, queued, linked)
        for same in alike:
            self._load_alike(same, queued)
        for job, keys in queued.values():
            self._count(job, len(keys))
        self._fill_lanes(queued.values())
        self.timers.loaded()
        for job in linked:
            self.relations.link(None, job)
            self.inheritance.change(None, job, self.jobs.get)

    def _load_some(self, jobs: list[Job], queued: dict[int, tuple[Job, list[int]]], linked: list[Job]) -> None:
        waits = Status.QUEUED
        alike: defaultdict[int, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.edges:
                linked.append(job)
            if job.key is not None or job.ancestors:
                self.relations.add(job)
            if job.status is waits and job.extra is None:
                alike[id(job.terms)].append(job)
                continue
            self.jobs[job.id] = job
            if job.terms.group is not None:
                self.relations.add(job)
            if job.status is waits:
                queued[-job.id] = (job, [self.rank_key(job)])
            else:
                self._count(job, 1)
            self.timers.load((job,))
        for same in alike.values():
            self._load_alike(same, queued)

    def _load_alike(self, jobs: list[Job], queued: dict[int, tuple[Job, list[int]]]) -> None:
        terms = jobs[0].terms
        self.jobs.update({job.id: job for job in jobs})
        keys = rank_keys(jobs, place(terms.tier, terms.boost, self.limits.points))
        queued.setdefault(id(terms), (jobs[0], []))[1].extend(keys)
        if terms.group is not None:
            for job in jobs:
                self.relations.add(job)
        if terms.expires_in is not None:
            self.timers.load(jobs)

    def _fill_lanes(self, alike: Iterable[tuple[Job, list[int]]]) -> None:
        """Keys of jobs that share their Terms, with one of those jobs."""
        lanes: dict[str, dict[Signature, list[int]]] = {}
        for job, keys in alike:
            lanes.setdefault(job.terms.agent, {}).setdefault(self.signature(job), []).extend(keys)
        for agent, entries in lanes.items():
            self.lane(agent).load(entries)

    # --- reading ----------------------------------------------------------------------------------

    def rank_key(self, job: Job) -> int:
        return rank_key(job, self.limits.points, self.inheritance.of(job.id))

    def signature(self, job: Job) -> Signature:
        """Jobs of the same Terms have the same: what one of them submitted is of one tree."""
        terms = job.terms
        known = self._signed.get(id(terms))
        if known is not None and known[0] is terms:
            return known[1]
        signature = self._signature(job, terms)
        if len(self._signed) >= _MOST_SIGNED:
            self._signed.clear()
        self._signed[id(terms)] = (terms, signature)
        return signature

    def _signature(self, job: Job, terms: Terms) -> Signature:
        agent = self.limits.agents.get(terms.agent)
        claimed = agent is not None and not agent.slots
        traits = traits_of(terms.type, int(terms.tier), terms.labels) if claimed else None
        return signature_of(terms.interactive, terms.group, terms.needs, self.accounts.binding(job), traits)

    def lane(self, agent: str) -> Lane:
        lane = self.lanes.get(agent)
        if lane is None:
            lane = self.lanes[agent] = Lane()
        return lane

    def position(self, job: Job) -> tuple[int, int]:
        """(rank in its lane, 1 first; how many are ahead over all lanes) of a queued job."""
        key, agent = self.rank_key(job), job.terms.agent
        own = ahead = self.lanes[agent].order.rank(key)
        for name, lane in self.lanes.items():
            if name != agent:
                ahead += lane.order.rank(key)
        return own + 1, ahead

    def queued(self) -> int:
        return self.statuses[Status.QUEUED]

    def pool_busy(self) -> int:
        """Pool slots taken: interactive ones, workers' and lent ones are not counted."""
        return sum(1 for job in self.pushed.values() if self.takes_slot(job))

    def agent_busy(self, agent: str) -> int:
        return sum(1 for job in self.pushed.values() if job.terms.agent == agent and self.takes_slot(job))

    def quota_busy(self, account: str) -> int:
        """Running jobs of an account; those that wait for their own tree are not counted, or it could never end."""
        lent = (self.running[number] for number in self.lent if number in self.running)
        return self.accounts.running[account] - sum(1 for job in lent if account in self.accounts.of(job))

    def lend(self, number: int) -> None:
        """The agent of a running job waits for its own tree: what it takes of slots and quotas counts as free."""
        self.lent.add(number)
        if number in self.running:
            self.woke(self.running[number])

    def interactive_busy(self) -> int:
        return sum(1 for job in self.pushed.values() if _run(job).over and job.id not in self.lent)

    def takes_slot(self, job: Job) -> bool:
        return not _run(job).over and job.id not in self.lent

    def free_slot_number(self) -> int:
        """The smallest OPUS_SLOT that no running attempt of the daemon's has."""
        taken = {_run(job).slot for job in self.pushed.values()}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def next_due(self) -> tuple[int, Job] | None:
        """The next job that time alone changes, and when."""
        return self.timers.next(self.timeline.skew)

    def waiting_for_time(self, *statuses: Status) -> list[Job]:
        """The jobs of these statuses that time alone changes."""
        if not any(self.statuses[status] for status in statuses):
            return []
        return [job for _, job in self.timers.standing() if job.status in statuses]

    def expires_at(self, job: Job) -> int | None:
        """When the wall's clock will show a job's expiry, unless it jumps before; None for one that does not expire."""
        return None if job.expiry is None else job.expiry + self.timeline.skew

    def due(self, job: Job) -> int | None:
        """When time alone next changes this job."""
        return job.due if job.expiry is None else self.expires_at(job)

    # --- indexes ----------------------------------------------------------------------------------

    def _move(self, number: int, old: Heir | None, new: Heir | None) -> None:
        """A queued job inherits another tier: it changes its place."""
        job = self.jobs.get(number)
        if job is None or job.status is not Status.QUEUED:
            return
        lane = self.lanes[job.terms.agent]
        lane.remove(rank_key(job, self.limits.points, old))
        lane.push(rank_key(job, self.limits.points, new), self.signature(job))

    def _recount(self, old: Job | None, new: Job | None) -> None:
        """What is counted of the one is counted of the other now."""
        if old is None or new is None or old.terms is not new.terms:
            if old is not None:
                self._count(old, -1)
            if new is not None:
                self._count(new, 1)
        elif old.status is not new.status or old.run is not new.run:
            self.statuses[old.status] -= 1
            self.statuses[new.status] += 1
            self.accounts.count(old, -1)
            self.accounts.count(new, 1)
            if old.status in ALIVE and new.status not in ALIVE:
                self._stops(old)
            elif new.status in ALIVE and old.status not in ALIVE:
                self._starts(new)

    def _count(self, job: Job, by: int) -> None:
        terms = job.terms
        self.statuses[job.status] += by
        self.tiers[terms.tier] += by
        self.agents[terms.agent] += by
        self.accounts.count(job, by)
        if job.status in ALIVE:
            if by > 0:
                self._starts(job)
            else:
                self._stops(job)

    def _starts(self, job: Job) -> None:
        self._runs(job)
        for name, amount in job.terms.needs:
            self.held_needs[name] += amount

    def _stops(self, job: Job) -> None:
        del self.running[job.id]
        self.pushed.pop(job.id, None)
        for name, amount in job.terms.needs:
            self.held_needs[name] -= amount
        self.woke(job)

    def _runs(self, job: Job) -> None:
        self.running[job.id] = job
        if _run(job).worker is None:
            self.pushed[job.id] = job

    def woke(self, job: Job) -> None:
        """What this job held is free: jobs that lack it are looked at again."""
        for name, _ in job.terms.needs:
            self.wake(f"need:{name}")
        for account in self.accounts.of(job):
            self.wake(f"quota:{account}")

    def wake(self, name: str) -> None:
        for lane in self.lanes.values():
            lane.wake(name)


_LOADED_TOGETHER: Final = 1000
_MOST_SIGNED: Final = 4096


def _run(job: Job) -> Run:
    assert job.run is not None, f"job {job.id} is {job.status} without a run"
    return job.run


def _blocked(job: Job | None) -> bool:
    return job is not None and job.status is Status.BLOCKED
