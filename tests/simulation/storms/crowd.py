"""Those who use the daemon: people who do all that may be done to jobs, in any order and at once.

They lose their connections, give up calls, and ask again with the same key when nobody answered.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from opusd.api.results import Submitted, SubmittedBatch
from opusd.api.types import DependsOn, JobSpec
from opusd.core.access import Caller
from opusd.core.errors import OpusError, StorageUnavailable
from opusd.core.times import to_rfc3339
from tests.simulation.storms.disk import POISON
from tests.simulation.storms.house import Connection, Seat

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.simulation.storms.house import Call, House
    from tests.simulation.storms.judge import Judge

DEEDS = {
    "submit": 24, "batch": 4, "again": 6, "cancel": 7, "hold": 3, "release": 4, "update": 5, "retry": 4, "answer": 6,
    "wait": 5, "get": 6, "list": 3, "ask": 5, "logs": 2, "pause": 1, "resume": 4, "resize": 1, "prune": 3,
    "hang_up": 2, "give_up": 3, "schedule": 2, "reload": 1, "drain": 1,
}  # fmt: skip
_KEPT_IN_MIND = 40
_AT_ONCE = 0.15
"""How often somebody asks for a job in the same moment in which something is done to it."""
_UNTIL = 3_600_000_000
_PEOPLE = 4


class Crowd:
    """`known`: the jobs that somebody was told of, the newest last."""

    def __init__(self, house: House, judge: Judge, chance: random.Random) -> None:
        self.house, self.judge, self.chance, self.loop = house, judge, chance, house.loop
        self.known: list[int] = []
        self.calls: list[Call] = []
        self.calm = self.over = False
        self._people: list[Connection] = []
        self._uids = count(1000)
        self._titles = count(1)
        self._unanswered: list[tuple[int, dict[str, Any]]] = []  # (when it was sent, with a key)

    def call(
        self,
        method: str,
        then: Callable[[Any], None] | None = None,
        connection: Connection | None = None,
        **fields: Any,
    ) -> Call | None:
        """As somebody that nobody was before, over one of a few connections."""
        seat = Seat(connection or self._connection(), Caller(uid=next(self._uids)))
        call = self.house.call(seat, method, then or self._told, **fields)
        if call is not None and method != "job.get" and self.chance.random() < _AT_ONCE:
            looked_at = fields.get("id") or (self.some() if self.known else 1)  # before the other is on disk
            self.call(self.chance.choice(("job.get", "job.why")), id=looked_at)
        if call is not None:
            self.calls.append(call)
            if len(self.calls) > 4 * _KEPT_IN_MIND:
                self.calls = [one for one in self.calls if not one.is_over]
        return call

    def _connection(self) -> Connection:
        place = self.chance.randrange(_PEOPLE)
        self._people = [one for one in self._people if not one.gone and one.life == self.house.life]
        if place >= len(self._people):
            self._people.append(Connection(self.house.life))
            return self._people[-1]
        return self._people[place]

    def _told(self, outcome: Any) -> None:
        if isinstance(outcome, Submitted):
            self.learn(outcome.job.id)
        elif isinstance(outcome, SubmittedBatch):
            for one in outcome.jobs:
                self.learn(one.job.id)

    def learn(self, number: int) -> None:
        self.known.append(number)
        del self.known[:-_KEPT_IN_MIND]

    # --- what they do -------------------------------------------------------------------------------

    def act(self) -> None:
        """Somebody does something, and somebody will again."""
        if not self.calm:
            [deed] = self.chance.choices(list(DEEDS), list(DEEDS.values()))
            if self.known or deed in ("submit", "batch"):
                getattr(self, deed)()
            pause = self.chance.choice((0.0, 0.0002, 0.001, 0.01, 0.1, 1.0, 20.0))
            if self.chance.random() < 0.003:
                pause = 3_000.0
            self.house.yard.after(pause * self.chance.random(), self.act)

    def some(self) -> int:
        """One of those that they know, often one of the last."""
        return self.known[-1 - int(len(self.known) * self.chance.random() ** 2)]

    def fields(self) -> dict[str, Any]:
        """Of a JobSpec."""
        chance = self.chance
        found: dict[str, Any] = {"title": f"n{next(self._titles)}"}
        agent = chance.choice(("exec", "claude", "claude", "codex", "pull", "pull"))
        if agent == "exec":
            found["command"] = ["true"]
        else:
            found |= {"prompt": "do it", "agent": agent}
        for name, probability, values in (
            ("priority", 0.3, ("low", "urgent", "high", 10)),
            ("held", 0.05, (True,)),
            ("delay", 0.1, (0.5, 30, 600)),
            ("group", 0.2, ("small", "large")),
            ("interactive", 0.05, (True,)),
            ("expires_in", 0.1, (5, 600)),
            ("timeout", 0.15, (0.5, 20, 300)),
            ("needs", 0.1, ({"gpu": 1}, {"gpu": 2}, {"repo": 1})),
            ("worktree", 0.1, (True,)),
            ("verify", 0.05, (["check"],)),
            ("payload", 0.03, ({POISON: 1},)),
        ):
            if chance.random() < probability:
                found[name] = chance.choice(values)
        if found.get("interactive"):
            found.pop("priority", None)
        if self.known and chance.random() < 0.25:
            on = chance.choice(("success", "failure", "any"))
            unmet = chance.choice((None, "block", "cancel", "run"))
            found["depends_on"] = [DependsOn(job=self.some(), on=on, if_unmet=unmet)]
        if chance.random() < 0.3:
            found["key"] = f"key-{found['title']}"
        return found

    def submit(self) -> None:
        self._submit(self.fields())

    def _submit(self, fields: dict[str, Any]) -> None:
        sent = self.loop.now

        def told(outcome: Any) -> None:
            self._told(outcome)
            if outcome is None:
                self.judge.maybe.add(fields["title"])
            if "key" in fields and (outcome is None or isinstance(outcome, StorageUnavailable)):
                self._unanswered.append((sent, fields))

        self.judge.refused.discard(fields["title"])
        self.call("job.submit", told, **fields)

    def again(self) -> None:
        """What nobody answered is asked again: it is made now, or was made then."""
        self._unanswered = [one for one in self._unanswered if self.loop.now - one[0] < _UNTIL]
        if self._unanswered:
            self._submit(self._unanswered.pop(0)[1])

    def batch(self) -> None:
        specs: list[JobSpec] = []
        for _ in range(self.chance.randint(2, 5)):
            fields = self.fields()
            keys = [spec.key for spec in specs if spec.key is not None]
            if keys and self.chance.random() < 0.5:
                fields["depends_on"] = [self.chance.choice(keys)]
            specs.append(JobSpec(**fields))
        self.chance.shuffle(specs)
        self.call("job.submit_batch", jobs=specs)

    def cancel(self) -> None:
        grace = self.chance.choice((None, 0, 2))
        if self.chance.random() < 0.05:
            self.call("job.cancel", group="large", grace=grace)
        else:
            self.call("job.cancel", id=self.some(), cascade=self.chance.random() < 0.2, grace=grace)

    def hold(self) -> None:
        self.call("job.hold", id=self.some(), stop=self.chance.random() < 0.5)

    def release(self) -> None:
        held = [job.id for job in self.judge.jobs.values() if job.status == "held"]
        self.call("job.release", id=self.chance.choice(held) if held else self.some())

    def update(self) -> None:
        changes: dict[str, Any] = self.chance.choice(
            (
                {"priority": "urgent"}, {"boost": 7}, {"title": "renamed"}, {"timeout": 40}, {"max_retries": 1},
                {"needs": {"gpu": 1}}, {"run_at": to_rfc3339(self.house.clock.now() + 5_000_000)}, {"depends_on": []},
                {"metadata": {"a": 1}}, {"depends_on": [self.some()]}, {"expires_in": None},
            )
        )  # fmt: skip
        self.call("job.update", id=self.some(), **changes)

    def retry(self) -> None:
        dead = [number for number in self.known if number not in self.judge.jobs]
        ids = [self.chance.choice(dead) if dead else self.some()]
        self.call("job.retry", ids=ids, fresh=self.chance.random() < 0.3, cascade=self.chance.random() < 0.2)

    def answer(self) -> None:
        asking = [job for job in self.judge.jobs.values() if job.status == "needs_input"]
        if asking:
            job = self.chance.choice(asking)
            assert job.extra is not None
            assert job.extra.question is not None
            question = job.extra.question.id - (self.chance.random() < 0.1)
            self.call("job.answer", id=job.id, question=question, text="yes")

    def wait(self) -> None:
        ids = sorted({self.some() for _ in range(self.chance.randint(1, 3))})
        until = self.chance.choice(("final", "final", "started"))
        timeout = self.chance.choice((None, 0.01, 5, 600))
        self.call("job.wait", ids=ids, any=self.chance.random() < 0.3, until=until, timeout=timeout)

    def get(self) -> None:
        self.call("job.get", id=self.some())

    def list(self) -> None:
        order = self.chance.choice(("-id", "id", "score", "-completed_at"))
        status = self.chance.choice((None, "queued", ["running", "failed"]))
        self.call("job.list", order=order, status=status, limit=self.chance.choice((5, 100)), full=True)

    def ask(self) -> None:
        method, fields = self.chance.choice(
            (
                ("queue.status", {}), ("queue.peek", {}), ("queue.capacity", {}), ("agent.list", {}),
                ("job.why", {"id": self.some()}), ("job.history", {"id": self.some()}), ("worker.list", {}),
                ("system.info", {}), ("schedule.list", {}), ("notification.list", {}), ("worktree.list", {}),
            )
        )  # fmt: skip
        self.call(method, **fields)

    def logs(self) -> None:
        self.call("job.logs", id=self.some(), wait=self.chance.choice((0, 30)))

    def pause(self) -> None:
        self.call("queue.pause", **self.chance.choice(({}, {"agent": "claude"}, {"group": "large"})))

    def resume(self) -> None:
        fields = self.chance.choice(({}, {}, {"agent": "claude"}, {"group": "large"}))
        self.call("queue.resume", **fields)

    def resize(self) -> None:
        self.call("pool.resize", max_concurrent=self.chance.randint(1, 4))

    def drain(self) -> None:
        self.call("queue.drain", timeout=self.chance.choice((0, 5)))

    def prune(self) -> None:
        over = [number for number in self.known if number not in self.judge.jobs] or [self.some()]
        ids = sorted({self.chance.choice(over) for _ in range(self.chance.randint(1, 3))})
        self.call("job.prune", ids=ids, dry_run=self.chance.random() < 0.2)
        if self.chance.random() < 0.5:  # at this moment somebody begins to wait for one of them
            edge = DependsOn(job=ids[0], on="failure", if_unmet="block")
            self._submit({**self.fields(), "depends_on": [edge]})

    def hang_up(self) -> None:
        self.house.hang_up(self._connection())

    def give_up(self) -> None:
        waiting = [call for call in self.calls if not call.is_over]
        if waiting:
            self.house.cancel(self.chance.choice(waiting))

    def schedule(self) -> None:
        name = self.chance.choice(("hourly", "often"))
        deed = self.chance.choice(("add", "add", "run", "remove", "pause", "resume"))
        if deed == "add":
            job = JobSpec(prompt="look", agent="codex", title="firing")
            cron = "0 * * * *" if name == "hourly" else "*/10 * * * *"
            overlap = self.chance.choice(("queue", "skip"))
            self.call("schedule.add", name=name, cron=cron, timezone="UTC", overlap=overlap, replace=True, job=job)
        else:
            self.call(f"schedule.{deed}", name=name)

    def reload(self) -> None:
        self.house.config = self.chance.choice(self.house.rules)
        self.call("system.reload")

    # --- when the storm is over ---------------------------------------------------------------------

    def settle(self) -> None:
        """What waits for a person gets one."""
        if not self.house.is_open:
            return
        for name in ("hourly", "often"):
            self.call("schedule.remove", name=name)
        for fields in ({}, {"agent": "claude"}, {"group": "large"}):
            self.call("queue.resume", **fields)
        self.call("pool.resize", max_concurrent=4)
        for job in list(self.judge.jobs.values()):
            if job.status == "held":
                self.call("job.release", id=job.id)
            elif job.status in ("blocked", "scheduled", "needs_input"):
                self.call("job.cancel", id=job.id)


def refused(outcome: Any) -> bool:
    return isinstance(outcome, OpusError)
