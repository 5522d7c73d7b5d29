"""Which starts the contract allows: limits, hours, cool-downs, and the order among those that could have started.

Slow and plain: all queued jobs are looked at, at each start and after each tick. What nobody but the scheduler itself
knows, that a job reserves what it needs, only excuses those that stand behind such a job.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from opusd.core.job import EdgeState, IfUnmet, Tier
from opusd.core.lifecycle import ALIVE, Status
from tests.core import oracle
from tests.core.world import HOUR, MINUTE
from tests.simulation.ledger import ALLOWANCE, cooldown
from tests.simulation.rules import DAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.attempts import End
    from opusd.core.job import Change, Job
    from tests.simulation.ledger import Ledger

BASE = {Tier.LOW: 0, Tier.NORMAL: 100, Tier.URGENT: 200}
RATE = 25
BOUND = (200 + 98) * HOUR // RATE
"""Nothing non-critical that became ready so much later goes before a job."""
TRUST = 8 * DAY
Place = tuple[int, int, int, int]


class Closed(msgspec.Struct):
    """What is known of one agent's provider: closed until a moment, of the wall's clock or not, then one probe."""

    until: int
    wall: bool
    strikes: int
    probe: int | None = None
    since: int = 0


class Starts:
    """`pool`, `slots`, `paused` and `lent` are what people and agents asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.world, self.rules = ledger, ledger.world, ledger.rules
        self.pool = self.rules.max_concurrent
        self.slots = {name: agent.slots for name, agent in self.rules.agents.items()}
        self.paused: set[str] = set()
        self.lent: set[int] = set()
        self.queued: dict[str, dict[int, None]] = {name: {} for name in self.rules.agents}
        self.alive: dict[int, None] = {}
        self.blocked: dict[int, None] = {}
        self.closed: dict[str, Closed] = {}
        self.last: dict[str, int] = {}  # agent -> when it last started something
        self.days: dict[str, tuple[int, int]] = {}  # agent -> (tokens of the day, until when)
        self.fits: Callable[[Job], bool] = anything  # which jobs the claim under way takes
        self._heirs: dict[int, list[Job]] | None = {}
        self.seen = ledger.seen
        ledger.started = self.start
        ledger.limited = self.limited
        ledger.probed = self.probed

    def watch(self, change: Change) -> None:
        """After the ledger's, when `known` has the change."""
        before, after = change.before, change.after
        if before is not None:
            for index in (self.queued[before.terms.agent], self.alive, self.blocked):
                index.pop(after.id, None)
        if after.status is Status.QUEUED:
            self.queued[after.terms.agent][after.id] = None
        elif after.status in ALIVE:
            self.alive[after.id] = None
        elif after.status is Status.BLOCKED:
            self.blocked[after.id] = None
        if after.edges or (before is not None and before.edges):
            self._heirs = None
        row = change.attempt
        if row is not None and row.ended_at is not None and row.usage is not None:
            self.use(row.agent, row.usage["input_tokens"])

    # --- providers ----------------------------------------------------------------------------------

    def limited(self, job: Job, end: End) -> None:
        """The agent is closed from now on: until the reset that was named, or so long that it doubles each time."""
        agent, wall, steady = job.terms.agent, self.world.now, self.ledger.steady()
        known = self.closed.get(agent)
        already = known is not None and self.left(known) > 0
        strikes = 1 if known is None else known.strikes if already else known.strikes + 1
        named = end.limited_until
        if named is not None and wall < named <= wall + TRUST:
            new = Closed(named, wall=True, strikes=strikes)
        elif already and known is not None:
            new = Closed(known.until, wall=known.wall, strikes=strikes)
        else:
            jitter = int(cooldown(strikes) * 0.1 * end.chance)
            new = Closed(steady + cooldown(strikes) + jitter, wall=False, strikes=strikes)
        if already and known is not None and self.left(known) >= self.left(new):
            new = Closed(known.until, wall=known.wall, strikes=strikes)
        self.closed[agent] = new
        self.seen["closed by name" if new.wall else "closed for a while"] += 1

    def left(self, closed: Closed) -> int:
        return closed.until - (self.world.now if closed.wall else self.ledger.steady())

    def probed(self, job: Job, well: bool) -> None:
        """An attempt is over: of a probe's end it depends whether the others follow."""
        agent = job.terms.agent
        closed = self.closed.get(agent)
        if closed is not None and closed.probe == job.id:
            if well or self.ledger.steady() - closed.since >= MINUTE:
                del self.closed[agent]
            else:
                closed.probe = None

    def launch(self, job: Job) -> None:
        """No launch into a closed limit but one probe for each end of a cool-down, until that one was good."""
        agent, now = job.terms.agent, self.ledger.steady()
        closed = self.closed.get(agent)
        if closed is not None:
            inside = f"{agent} was started {self.left(closed) / 1e6:.1f} s into its cool-down"
            assert closed.probe is not None or self.left(closed) <= 0, inside
            if closed.probe is not None:
                assert now - closed.since >= MINUTE, f"{agent} was started beside its probe {closed.probe}"
                del self.closed[agent]
            else:
                closed.probe, closed.since = job.id, now
                self.seen["probe"] += 1
        pace = self.rules.agents[agent].starts_per_minute
        if pace is not None and agent in self.last:
            assert now - self.last[agent] >= MINUTE // pace, f"{agent} starts more than {pace} a minute"
        self.last[agent] = now

    def shut(self, agent: str) -> bool:
        """Whether this agent may start nothing at all now."""
        now, closed = self.ledger.steady(), self.closed.get(agent)
        if f"agent:{agent}" in self.paused or "*" in self.paused or self.spent(agent):
            return True
        pace = self.rules.agents[agent].starts_per_minute
        if pace is not None and now - self.last.get(agent, -DAY) < MINUTE // pace:
            return True
        if closed is None:
            return False
        return now - closed.since < MINUTE if closed.probe is not None else self.left(closed) > -ALLOWANCE

    def use(self, agent: str, tokens: int) -> None:
        budget = self.rules.agents[agent].budget
        if budget is not None:
            used, until = self.days.get(agent, (0, 0))
            if self.world.now >= until:
                used, until = 0, self.world.now - self.world.now % DAY + DAY
            self.days[agent] = used + tokens, until
            self.seen["day used up"] += self.spent(agent)

    def spent(self, agent: str) -> bool:
        budget = self.rules.agents[agent].budget
        used, until = self.days.get(agent, (0, 0))
        return budget is not None and used >= (budget.day_tokens or used + 1) and self.world.now < until

    # --- order --------------------------------------------------------------------------------------

    def heirs(self) -> dict[int, list[Job]]:
        if self._heirs is None:
            known = self.world.known
            blocked = {number: known[number] for number in self.blocked}
            found = oracle.waiters(blocked)
            self._heirs = {number: [known[w] for w in sorted(waiting)] for number, waiting in found.items()}
        return self._heirs

    def place(self, job: Job) -> Place:
        """Sorts as section 4 says: critical first come first served; then by score, older, id."""
        record = self.ledger.of[job.id]
        waiting = self.heirs().get(job.id, ())
        since = record.ready
        assert since is not None
        if record.answered or job.terms.tier is Tier.CRITICAL:
            return 0, since, 0, job.id
        tier = max([job.terms.tier, *(waiter.terms.tier for waiter in waiting)])
        if tier is Tier.CRITICAL:
            made = [self.ledger.of[w.id].made for w in waiting if w.terms.tier is Tier.CRITICAL]
            return 0, min(made), 0, job.id
        return 1, RATE * since - (BASE[tier] + job.terms.boost) * HOUR, since, job.id

    def start(self, before: Job, after: Job) -> None:
        """`before` starts: may it, and was it first among those that could?"""
        run, agent = after.run, after.terms.agent
        assert run is not None
        counts = self.counts()
        others = self.candidates(counts, before.id)
        self.launch(before)
        assert f"agent:{agent}" not in self.paused
        assert "*" not in self.paused
        assert not self.spent(agent), f"{agent} has used up its day"
        assert self.lacks(before, counts) is None, f"job {before.id} started without its {self.lacks(before, counts)}"
        if run.worker is not None:
            assert not self.rules.agents[agent].slots
        elif run.over:
            assert before.terms.interactive
            assert counts["over"] < self.rules.interactive_slots, "more interactive slots than there are"
            self.seen["interactive beside the pool"] += 1
        else:
            assert counts["pool"] < self.pool, "the pool is overfull"
            assert counts[f"agent:{agent}"] < self.slots[agent], f"{agent} has no free slot"
        mine, ready = self.place(before), self.ledger.of[before.id].ready
        assert ready is not None
        self.seen["past half the bound"] += self.ledger.steady() - ready > BOUND // 2
        reserving = self.reserving() if others else []
        for other in others:
            claimed = not self.rules.agents[other.terms.agent].slots
            if claimed is not (run.worker is not None) or not self.fits(other):
                continue
            since = self.ledger.of[other.id].ready
            assert since is not None
            place = self.place(other)
            if place < mine and not self.reserved_before(other, place, reserving):
                late = f"job {before.id} started before job {other.id}"
                assert mine[0] == 0 or ready - since <= BOUND, f"{late}, ready {(ready - since) / HOUR:.1f} h earlier"
                raise AssertionError(f"{late}, which stands before it")
            reserved = place < mine
            self.seen["reserved"] += reserved
            assert not mine[0] or reserved or ready - since <= BOUND, f"job {other.id} waits past the bound"
            self.seen["went before what was older"] += since < ready
            self.seen["compared"] += 1
        self.seen["start"] += 1

    # --- limits -------------------------------------------------------------------------------------

    def counts(self) -> Counter[str]:
        """What those that run now take."""
        found: Counter[str] = Counter()
        for number in self.alive:
            job = self.world.known[number]
            terms, run = job.terms, job.run
            assert run is not None
            for name, amount in terms.needs:
                found[f"need:{name}"] += amount
            if number in self.lent:
                continue
            if run.worker is None:
                found.update(["over"] if run.over else ["pool", f"agent:{terms.agent}"])
            found[f"group:{terms.group}"] += 1
            if not terms.interactive:
                found[f"source:{terms.source.value}"] += 1
                found[f"by:{_by(job)}"] += 1
        return found

    def lacks(self, job: Job, counts: Counter[str]) -> str | None:
        """What this job lacks beside slots and its agent's leave."""
        terms, rules = job.terms, self.rules
        names = [f"agent:{terms.agent}", f"group:{terms.group}"]
        if f"group:{terms.group}" in self.paused:
            return "group, which is paused"
        for name in names:
            if not terms.interactive and name in rules.hours and not rules.hours[name].at(self.world.now)[0]:
                return f"hours of {name}"
        for name, amount in terms.needs:
            if counts[f"need:{name}"] + amount > rules.capacities.get(name, 1):
                return f"need {name}"
        if terms.group in rules.groups and counts[f"group:{terms.group}"] >= rules.groups[terms.group].max_running:
            return f"quota of group {terms.group}"
        if terms.interactive:
            return None
        source = rules.sources.get(terms.source.value)
        if source is not None and counts[f"source:{terms.source.value}"] >= source.max_running:
            return f"quota of source {terms.source}"
        if rules.submitter is not None and counts[f"by:{_by(job)}"] >= rules.submitter.max_running:
            return "quota of its submitter"
        return None

    def candidates(self, counts: Counter[str], but: int | None = None) -> list[Job]:
        """The queued jobs that could start at this moment, reservations aside."""
        known, found = self.world.known, []
        plain, over = counts["pool"] < self.pool, counts["over"] < self.rules.interactive_slots
        lacking: dict[object, bool] = {}  # alike jobs lack the same
        for agent, queued in self.queued.items():
            claimed = not self.rules.agents[agent].slots
            free = claimed or (plain and counts[f"agent:{agent}"] < self.slots[agent])
            if not queued or not (free or over) or self.shut(agent):
                continue
            for job in map(known.__getitem__, queued):
                terms = job.terms
                if not (free or terms.interactive) or job.id == but:
                    continue
                alike = agent, terms.group, terms.needs, terms.source, terms.interactive, _by(job)
                if alike not in lacking:
                    lacking[alike] = self.lacks(job, counts) is not None
                if not lacking[alike]:
                    found.append(job)
        return found

    def waiting(self) -> list[Job]:
        return [self.world.known[number] for queued in self.queued.values() for number in queued]

    def reserved_before(self, job: Job, place: Place, reserving: list[tuple[Place, set[str]]]) -> bool:
        """Whether one that stands before it may have reserved what it needs."""
        names = {name for name, _ in job.terms.needs}
        return any(other < place and names & needs for other, needs in reserving)

    def reserving(self) -> list[tuple[Place, set[str]]]:
        """Those that may have been first for ten minutes, and then reserve what they need."""
        old = self.ledger.steady() - self.rules.reserve_after
        return [
            (self.place(job), {name for name, _ in job.terms.needs})
            for job in self.waiting()
            if job.terms.needs and (since := self.ledger.of[job.id].ready) is not None and since <= old
        ]

    def rest(self, *, idle: bool) -> None:
        """After a tick nothing is left queued that could run, and nothing that has expired; `idle`: a worker is."""
        now = self.ledger.steady()
        for agent, closed in list(self.closed.items()):
            if closed.probe is not None and now - closed.since >= MINUTE:
                del self.closed[agent]
        found = [job for job in self.candidates(self.counts()) if self.rules.agents[job.terms.agent].slots or idle]
        reserving = self.reserving() if found else []
        for job in found:
            assert self.reserved_before(job, self.place(job), reserving), f"job {job.id} could start and was left"
        for job in self.waiting():
            within = job.terms.expires_in
            if within is not None and not job.attempts:
                assert now < (self.ledger.of[job.id].ready or 0) + within, f"job {job.id} should have expired"


def anything(job: Job) -> bool:
    """What a claim takes that asks for nothing, and the daemon itself."""
    return True


def _by(job: Job) -> str:
    """A person, or the tree whose agents submitted it."""
    by = job.terms.submitted_by
    return f"job:{job.root}" if by.startswith("job:") else by


def waits_for_a_person(ledger: Ledger, job: Job) -> bool:
    """Held, or blocked on what was not met, on what is held, or on what waits so itself."""
    known = ledger.world.known
    if job.status is Status.HELD:
        return True
    if job.status is not Status.BLOCKED:
        return False
    return any(
        (edge.state is EdgeState.UNMET and (edge.if_unmet is IfUnmet.BLOCK or ledger.of[job.id].retried))
        or (edge.state is EdgeState.PENDING and waits_for_a_person(ledger, known[edge.upstream]))
        for edge in job.edges
    )
