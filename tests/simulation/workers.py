"""Workers: they claim what there is for them and keep it by heartbeats; some fall silent, and come back too late."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from opusd.core import leases
from opusd.core.errors import LeaseLost
from tests.core.world import MINUTE, SECOND
from tests.simulation.starts import anything

if TYPE_CHECKING:
    from opusd.core.job import Job
    from tests.simulation.week import Week

LEASE = 2 * MINUTE


class Crew:
    """`busy`: the job that each has."""

    def __init__(self, week: Week) -> None:
        self.week = week
        self.busy: dict[str, int | None] = dict.fromkeys(("w1", "w2", "w3"))
        self.until: dict[int, int] = {}  # job -> when the lease on it is over unless it is renewed

    def idle(self) -> bool:
        """Whether one has nothing to do that would take anything."""
        return self.busy["w1"] is None or self.busy["w3"] is None

    def free(self, number: int) -> None:
        """An attempt of this job is over, as its worker knows or will learn."""
        for name, job in self.busy.items():
            if job == number:
                self.busy[name] = None

    def lapse(self, job: Job) -> None:
        """A lease is over when that was said, and never one that was renewed in time."""
        assert self.week.steady == max(self.until[job.id], self.week.ledger.up_since), "a lease is over at another time"
        self.week.seen["lapsed"] += 1

    def claim(self) -> None:
        """Idle workers take what there is for them, each what it wants."""
        state = self.week.world.state
        lane = state.lanes.get("pull")
        if lane is None or not len(lane.order):
            return
        for name, current in self.busy.items():
            if current is not None:
                continue
            tier = 0 if name != "w2" else 1
            wanted = leases.Wanted(min_tier=tier)
            self.week.starts.fits = lambda job, tier=tier: job.terms.tier >= tier  # type: ignore[misc]
            got = self.week.world.decide(
                lambda decision, name=name, wanted=wanted: leases.claim(  # type: ignore[misc]
                    decision, name, wanted, 1, LEASE, self.week.world.mint
                ),
                f"worker:{name}",
            )
            self.week.starts.fits = anything
            for job in got:
                self.busy[name] = job.id
                self.work(job, name)

    def work(self, job: Job, name: str) -> None:
        assert job.run is not None
        self.until[job.id] = self.week.steady + LEASE
        token, number, attempt = job.run.token_hash, job.id, job.attempts
        length, dies = self.week.between(SECOND, 20 * MINUTE), self.week.chance.random() < 0.12
        window = self.week.providers["pull"].closed(self.week.steady)
        done = self.week.steady + (5 * SECOND if window else length)
        failure = "rate_limited" if window else self.week.chance.choice((None,) * 6 + ("agent_error", "oom"))

        def beat() -> None:
            """A heartbeat, or the end; one that fell silent comes back when its lease is long over."""
            if dies and self.week.steady > done - length // 2:
                self.week.after(5 * MINUTE, lambda: self.deliver(number, attempt, token, failure))
            elif self.week.steady >= done:
                self.deliver(number, attempt, token, failure)
            else:
                self.heartbeat(number, token)
                self.week.after(min(40 * SECOND, max(SECOND, done - self.week.steady)), beat)

        self.week.after(SECOND, beat)

    def heartbeat(self, number: int, token: bytes) -> None:
        if self.week.down:
            return
        with suppress(LeaseLost):
            job = leases.holder(self.week.world.state, number, token, self.week.world.now)
            self.week.world.decide(lambda decision: leases.renew(decision, job, None))
            if job.run is not None and job.run.ending is None:
                self.until[number] = self.week.steady + LEASE

    def deliver(self, number: int, attempt: int, token: bytes, failure: str | None) -> None:
        """A worker is done. With an old token it changes nothing, whatever has become of the job."""
        if self.week.down:
            self.week.late.append(lambda: self.deliver(number, attempt, token, failure))
            return
        run = self.week.world.known[number].run
        good = run is not None and run.token_hash == token and (run.lease_until or 0) > self.week.world.now
        try:
            leases.holder(self.week.world.state, number, token, self.week.world.now)
        except LeaseLost:
            assert not good, "a good lease was refused"
            self.week.seen["late worker refused"] += 1
            return
        assert good, "a lease that is over was let in"
        self.week.report(number, attempt, self.week.end(failure))
