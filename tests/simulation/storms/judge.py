"""What may be true at all: of the registry after each commit, of memory after each step, of every answer and event.

The judge sees each batch at the moment when it is on disk, and nothing of how it was decided.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from opusd import daemon
from opusd.api import types as wire
from opusd.api.methods import METHODS
from opusd.api.results import Waited
from opusd.core import scheduler
from opusd.core.errors import InternalError, LeaseLost, OpusError, ShuttingDown, StorageUnavailable
from opusd.core.job import EdgeState
from opusd.core.state import State
from opusd.dispatcher.tally import Tally
from opusd.dispatcher.tokens import hash_token
from opusd.observers.outbox import Outbox
from opusd.testing.shape import shape_of
from opusd.triggers.plan import Schedule
from tests.simulation.ledger import CONTRACT, STEPS
from tests.simulation.storms.disk import POISON, at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opusd.core.job import Change, Event, Job, Run
    from opusd.store.base import Batch, Snapshot
    from tests.simulation.storms.house import Call, House
    from tests.simulation.storms.yard import Process

FULL_LOOK = 400
"""So many steps at least lie between two comparisons of all of memory with all of the registry."""

IDLE_LOOK = 50
PATIENCE = 60_000_000
"""Microseconds until a call that does not wait is answered, of those in which the disk can be read and written."""


class Judge:
    """`jobs` are the unfinished ones as they are on disk, `heads` all, `versions` what each version of each was."""

    def __init__(self, house: House) -> None:
        self.house, self.loop, self.disk, self.yard = house, house.loop, house.disk, house.yard
        self.jobs: dict[int, Job] = {}
        self.heads: dict[int, Job] = {}
        self.ended: set[int] = set()  # those that were finished at some time
        self.versions: dict[tuple[int, int], tuple[str, int]] = {}  # status, number of the commit
        self.events: list[Event] = []
        self.groups: dict[int, str | None] = {}
        self.commits = 0
        self.starts: dict[
            tuple[int, int], tuple[Run, int, int]
        ] = {}  # attempt -> its run, the daemon that began it, and troubles
        self.lenders: set[int] = set()  # jobs whose agents have waited for their own tree
        self.handed: set[tuple[int, int]] = set()  # attempts that a worker was told of, or may have been
        self.titles: dict[str, int] = {}
        self.actors: set[str] = set()
        self.refused: set[str] = set()
        self.maybe: set[str] = set()  # titles of which nobody knows whether they were taken, for nobody answered
        self.results: set[str] = set()  # summaries that are in the registry
        self.denied: set[str] = set()  # summaries that were refused
        self.digest = sha256()
        self.seen: dict[str, int] = {}
        self._began: dict[int, tuple[int, int]] = {}  # call -> commits and troubles when it was made
        self._calls: dict[str, Call] = {}  # by their actor, until they have an effect
        self._next_look = FULL_LOOK
        self._next_idle = IDLE_LOOK
        self._memory: dict[int, Job] | None = None
        self.disk.applied = self.applied
        house.asked, house.heard = self.asked, self.heard
        self.yard.started = self.launched
        self.loop.quiet = self.quiet

    def saw(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # --- the registry -------------------------------------------------------------------------------

    def applied(self, batch: Batch) -> None:
        self.commits += 1
        events = sorted([*batch.events, *(one.event for one in batch.changes if one.event)], key=lambda one: one.cursor)
        for event in events:
            assert event.cursor == len(self.events) + 1, f"the trail goes from {len(self.events)} to {event.cursor}"
            self.events.append(event)
            self._first(event.actor)
            self.saw(event.kind)
            assert event.actor not in self.refused, f"{event.actor} was refused, and yet {event.kind}"
            words = f"{self.loop.steps} {self.loop.now} {event.cursor} {event.kind} {event.job} {event.after}\n"
            self.digest.update(words.encode())
        for change in batch.changes:
            self._changed(change)
        if batch.pruned:
            self._pruned(batch)

    def _pruned(self, batch: Batch) -> None:
        """Nobody waited for what was pruned; who began to later knows how it ended, which stays."""
        at = {event.job: event.cursor for event in batch.events if event.kind == "job.pruned"}
        since = {
            change.after.id: change.event.cursor
            for change in batch.changes
            if change.event is not None and (change.before is None or change.before.edges != change.after.edges)
        }
        for job in self.jobs.values():
            waits = [edge.upstream for edge in job.edges if edge.state is not EdgeState.SATISFIED]
            gone = [number for number in waits if at.get(number, 0) > since.get(job.id, 0)]
            assert not gone, f"job {job.id} waits for what was pruned: {gone}"

    def _first(self, actor: str) -> None:
        """The calls of one connection take effect in the order sent."""
        if actor in self.actors:
            return
        self.actors.add(actor)
        call = self._calls.pop(actor, None)
        if call is not None:
            connection = call.seat.connection
            assert connection.effect < call.number, f"{call.method} took effect after what was sent later"
            connection.effect = call.number

    def _changed(self, change: Change) -> None:
        before, after, number = change.before, change.after, change.after.id
        known = self.heads.get(number)
        if before is None:
            assert known is None, f"job {number} is made twice"
            assert number == len(self.heads) + 1, "an id was left out"
            assert change.spec is not None
            self._made(after, change.spec.title)
        else:
            assert known is not None
            assert (known.version, known.status) == (before.version, before.status)
            step = before.status.value, after.status.value
            assert step[0] == step[1] or step in STEPS & CONTRACT, f"job {number}: {step[0]} became {step[1]}"
            self._attempts(before, after, change)
        if change.outcome is not None and change.outcome.result is not None:
            summary = str(change.outcome.result["summary"])
            assert summary not in self.denied, f"{summary} was refused, and is kept"
            self.results.add(summary)
        self.heads[number] = after
        self.versions[number, after.version] = after.status.value, self.commits
        if after.final:
            self.ended.add(number)
            self.jobs.pop(number, None)
        else:
            self.jobs[number] = after

    def _made(self, job: Job, title: str) -> None:
        self.groups[job.id] = job.terms.group
        if job.extra is None or job.extra.escalated_from is None:
            if title.startswith("n"):
                assert title not in self.titles or title in self.maybe, f"{title} was submitted once, and made twice"
                assert title not in self.refused, f"{title} was refused, and yet is there"
            self.titles[title] = job.id

    def _attempts(self, before: Job, after: Job, change: Change) -> None:
        old, new = before.run, after.run
        if old is None and new is not None:
            assert new.attempt == before.attempts + 1
            self.starts[after.id, new.attempt] = new, self.house.life, self.disk.troubles
            self._within_limits()
        elif old is not None and new is None:
            key = before.id, old.attempt
            assert not self.yard.is_alive(key) or old.worker is not None, f"attempt {key} is over, and still runs"
            self.yard.processes.pop(key, None)
            row, event = change.attempt, change.event
            if old.worker is not None and row is not None and row.failure is None and event is not None:
                good = old.lease_until is not None and old.lease_until > event.time
                assert good, f"attempt {key} was completed with a lease that was over"
        elif old is not None and new is not None and new.lease_until is None and old.lease_until is not None:
            key = before.id, old.attempt
            self._has_a_holder(key)
            self.saw("lapsed")

    def _has_a_holder(self, key: tuple[int, int]) -> None:
        """What was claimed of this daemon somebody knows of, unless the disk kept it from being given back."""
        _, life, troubles = self.starts[key]
        known = key in self.handed or life != self.house.life or troubles < self.disk.troubles
        assert known, f"nobody was told that it holds attempt {key}"

    def _within_limits(self) -> None:
        """At a start, when that is on disk; above the pool are human's jobs, and whoever lent its slot and goes on."""
        pushed = [job for job in self.jobs.values() if job.run is not None and job.run.worker is None]
        taken = [job for job in pushed if job.run is not None and not job.run.over and job.id not in self.lenders]
        assert len(taken) <= 4, f"{len(taken)} in a pool of 4"
        assert sum(1 for job in pushed if job.run is not None and job.run.over) <= 1
        held = sum(dict(job.terms.needs).get("gpu", 0) for job in self.jobs.values() if job.run is not None)
        assert held <= 2, f"{held} of 2 gpus are held"

    def launched(self, process: Process) -> None:
        """What is launched is on disk as running, with this very attempt."""
        job, attempt = process.key
        known = self.jobs.get(job)
        assert known is not None, f"job {job} is launched, and nothing on disk"
        assert known.run is not None, f"job {job} is launched, and {known.status}"
        assert (known.run.attempt, known.run.attempt_id) == (attempt, process.launch.attempt_id)
        assert known.run.ending is None, f"job {job} is launched, and was ended before"
        token = process.launch.env["OPUS_TOKEN"]
        assert hash_token(token) == known.run.token_hash

    # --- memory -------------------------------------------------------------------------------------

    def step(self) -> None:
        """After each step: where nothing is under way, memory is what is on disk."""
        engine = self.house.engine
        if engine is None:
            self._memory = None
            return
        writer, state = engine.writer, engine.state
        self.lenders.update(state.lent)
        assert len(state.pushed) <= len(state.running) <= len(state.jobs)
        if writer._flying or writer._open or writer._alone is not None:
            return
        if state.jobs is not self._memory:
            assert state.jobs == self.jobs, "memory is not what is on disk"
            self.jobs = dict(state.jobs)  # the same objects: the next look compares no more than addresses
            self._memory = state.jobs
        assert state.jobs == self.jobs, "memory is not what is on disk"
        assert (state.last_event, state.last_job) == (len(self.events), len(self.heads))
        if self.loop.steps >= self._next_look:
            self._next_look = self.loop.steps + FULL_LOOK
            self.compare(state)

    def compare(self, state: State) -> None:
        """All of memory with what a start would make of the registry."""
        snapshot = at_once(self.disk.kept.load_active())
        again = daemon._remembered(state.limits, snapshot, state.timeline.seen)
        mine, fresh = shape_of(state), shape_of(again)
        for name, value in fresh.items():
            assert mine[name] == value, f"memory's {name} is {mine[name]}, and on disk {value}"
        assert (state.max_concurrent, state.slots) == (again.max_concurrent, again.slots)
        assert (snapshot.last_job, snapshot.last_event) == (state.last_job, state.last_event)
        self._compare_others(snapshot)
        self.saw("compared with a rebuild")

    def _compare_others(self, snapshot: Snapshot) -> None:
        """What other parts of the daemon keep in the registry."""
        running: Any = self.house.daemon
        kept = {name: value for name, value in snapshot.settings.items() if name.startswith("schedule:")}
        mine = {f"schedule:{name}": one for name, one in running._schedules._schedules.items()}
        assert mine == {name: msgspec.convert(value, Schedule) for name, value in kept.items()}
        assert running._notifier._outbox._entries == Outbox(snapshot.settings)._entries
        tally, fresh = running._tally, Tally(snapshot)
        assert +tally.finals == +fresh.finals, f"counted {tally.finals}, and there are {fresh.finals}"
        assert (+tally.attempts, +tally.succeeded) == (+fresh.attempts, +fresh.succeeded)

    def quiet(self) -> None:
        """Nothing is ready, and time is about to pass: what could go on has gone on."""
        house, engine = self.house, self.house.engine
        if engine is None or house.is_at_disk or engine.writer.degraded is not None:
            return
        if self.loop.steps >= self._next_idle:
            self._next_idle = self.loop.steps + IDLE_LOOK
            self.idle()
        server = house.server
        assert server is not None
        for call in server.calls.values():
            if call.patience is not None:
                if self.disk.weather.unreadable:
                    call.patience = max(call.patience, self.loop.now + PATIENCE)
                assert self.loop.now < call.patience, f"{call.method} {call.params} is never answered"

    def idle(self) -> None:
        """Nothing that could be started is left queued."""
        engine = self.house.engine
        if engine is None or not self.is_settled(engine):
            return
        due = engine.state.next_due()
        assert due is None or due[0] > self.house.clock.now() - 2, f"job {due[1].id} is due, and nobody wakes"
        for process in self.yard.alive():
            run = self.jobs[process.launch.job].run
            late = run is not None and run.kill_at is not None and run.kill_at + PATIENCE < self.house.clock.now()
            assert process.told or not late, f"attempt {process.key} was to be ended, and nobody told it"
        for job in self.jobs.values():
            if job.run is not None and job.run.worker is not None:
                self._has_a_holder((job.id, job.run.attempt))
        choice = scheduler.choose(engine.state, self.house.clock.now())
        assert choice is None, f"job {choice[0].id} could start, and nobody starts it"

    def is_settled(self, engine: Any) -> bool:
        """Whether the engine has done all that is due, and knows what time it is."""
        writer, clock = engine.writer, self.house.clock
        busy = writer._open or writer._flying or writer._alone is not None or writer.degraded is not None
        return not busy and engine.state.timeline.offset == clock.offset() and self.house.is_dispatching

    # --- answers ------------------------------------------------------------------------------------

    def asked(self, call: Call) -> None:
        self._began[call.number] = self.commits, self.disk.troubles
        if not call.seat.caller.agent:
            self._calls[call.seat.caller.actor] = call
        seconds = getattr(call.params, "timeout" if "timeout" in call.params.__struct_fields__ else "wait", 0)
        if not METHODS[call.method].waits:
            seconds = 0
        call.patience = None if seconds is None else self.loop.now + PATIENCE + int(seconds * 1e6)

    def heard(self, call: Call, outcome: Any) -> None:
        commits, troubles = self._began.pop(call.number)
        self._calls.pop(call.seat.caller.actor, None)
        self.saw(f"{call.method}: {outcome.name if isinstance(outcome, OpusError) else 'answered'}")
        if isinstance(outcome, OpusError):
            self._heard_refusal(call, outcome, troubles)
            return
        for job in _jobs_of(outcome):
            key = job.id, job.version
            assert key in self.versions, f"{call.method} shows version {job.version} of job {job.id}: not on disk"
            status, _ = self.versions[key]
            assert job.status == status, f"{call.method} shows job {job.id} as {job.status}; on disk it was {status}"
            newer = self.versions.get((job.id, job.version + 1))
            assert newer is None or newer[1] > commits, (
                f"{call.method} shows job {job.id} older than it was at the call"
            )
        if isinstance(outcome, Waited) and outcome.done and call.params.until == "final":
            over = [job.id in self.ended for job in outcome.jobs]
            assert any(over) if call.params.any else all(over), "a wait is over, and what was waited for is not"
        for claim in getattr(outcome, "claims", ()):
            run, _, _ = self.starts[claim.job.id, claim.attempt]
            assert run.token_hash == hash_token(claim.token)
            assert (claim.job.id, claim.attempt) not in self.handed, "a job is handed to two workers"
            self.handed.add((claim.job.id, claim.attempt))

    def _heard_refusal(self, call: Call, error: OpusError, troubles: int) -> None:
        actor = call.seat.caller.actor
        writes = METHODS[call.method].kind == "write"
        if isinstance(error, StorageUnavailable):
            known = self.disk.troubles > troubles or self.house.engine is None or self.house.engine.writer.degraded
            assert known, f"{call.method}: {error.message}, and there was no trouble"
        if isinstance(error, InternalError):
            assert POISON in msgspec.json.encode(call.params).decode(), f"{call.method}: {error.message}"
        if not writes or call.seat.caller.agent or call.method == "queue.drain":
            return  # the queue is paused, though nobody waits for it to be empty
        assert actor not in self.actors, f"{call.method} by {actor} was refused with {error!r}, and had an effect"
        self.refused.add(actor)
        for spec in [call.params, *getattr(call.params, "jobs", ())]:
            title = getattr(spec, "title", None)
            if isinstance(title, str) and title.startswith("n") and call.method.startswith("job.submit"):
                assert title not in self.titles or title in self.maybe, (
                    f"{title} was refused with {error!r}, and is there"
                )
                if title not in self.maybe:
                    self.refused.add(title)
        if call.method == "worker.complete":
            summary = call.params.result["summary"]
            assert summary not in self.results, f"{summary} was refused with {error!r}, and is kept"
            self.denied.add(summary)
            self.saw("stale token" if isinstance(error, LeaseLost) else "not completed")
        if isinstance(error, ShuttingDown):
            self.saw("shutting down")


def _jobs_of(found: Any) -> Iterator[wire.Job]:
    """Every Job that an answer shows."""
    match found:
        case wire.Job():
            yield found
        case list():
            for one in found:
                yield from _jobs_of(one)
        case msgspec.Struct():
            for name in ("job", "jobs", "running", "claims"):
                if name in found.__struct_fields__:
                    yield from _jobs_of(getattr(found, name))
        case _:
            pass
