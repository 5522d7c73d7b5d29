"""Workers, who take jobs over the socket; agents that speak to the daemon; and those who listen to its events."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.api.params import WorkerClaim, WorkerError
from opusd.api.results import Claims, Finished, Subscription
from opusd.core.access import Caller
from opusd.core.errors import NotFound, OpusError
from opusd.core.times import from_rfc3339
from opusd.rpc.subscriptions import EventSink, Outlet
from tests.simulation.storms.disk import POISON
from tests.simulation.storms.house import Connection, Seat

if TYPE_CHECKING:
    from opusd.core.job import Event
    from tests.simulation.storms.crowd import Crowd
    from tests.simulation.storms.yard import Process

_WORKERS = 3
_UNSENT = 4_096
"""Bytes of events; more than that unread, and one lags."""
_TRIES = 5
_TWICE = 0.08
"""How often a worker says at once, and in other words, how it went."""
_LISTENERS = ({}, {}, {"kinds": ["job.completed", "job.failed", "job.started"]}, {"group": "small"})


class Held(msgspec.Struct):
    job: int
    attempt: int
    token: str


class Workers:
    """Each claims, renews its lease or forgets to, and ends what it has, in time or late, once or twice."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd, self.chance, self.after = crowd, crowd.chance, crowd.house.yard.after
        self.busy = dict.fromkeys([f"w{number}" for number in range(_WORKERS)], 0)
        self._summaries = count(1)

    def act(self) -> None:
        for name in self.busy:
            self.look(name)
        self.after(self.chance.choice((0.01, 0.5, 10.0)) * self.chance.random() + 0.001, self.act)

    def look(self, name: str) -> None:
        """Whoever has nothing to do asks for something."""
        if self.busy[name] or self.crowd.over or not self.crowd.house.is_open:
            return
        self.busy[name] += 1
        wanted = self._wanted(name)
        fields = {key: getattr(wanted, key) for key in wanted.__struct_fields__}
        wait = self.chance.choice((0, 0, 5, 120))

        def told(outcome: Any) -> None:
            self.busy[name] -= 1
            self._got(name, outcome)

        if self.crowd.call("worker.claim", told, **{**fields, "wait": wait}) is None:
            self.busy[name] -= 1

    def _wanted(self, name: str) -> WorkerClaim:
        lease = self.chance.choice((5, 20, 60))
        tier = "normal" if name == "w1" else None
        return WorkerClaim(worker=name, lease=lease, count=self.chance.choice((1, 1, 2)), min_tier=tier)

    def _got(self, name: str, outcome: Any) -> None:
        if isinstance(outcome, Claims | Finished):
            for claim in outcome.claims:
                self.busy[name] += 1
                held = Held(claim.job.id, claim.attempt, claim.token)
                self._work(name, held, 0)
                if self.chance.random() < _TWICE:  # and again when it is just over
                    left = from_rfc3339(claim.expires_at) - self.crowd.house.clock.now()
                    self.after(
                        left / 1e6 + self.chance.random() * 0.02, lambda held=held: self._end(name, held, late=True)
                    )

    def _work(self, name: str, held: Held, beats: int) -> None:
        pick, chance = self.chance.random(), self.chance
        if pick < 0.05 and not self.crowd.calm:  # it falls silent, and comes back when its lease is long over
            self.busy[name] -= 1
            self.after(200.0, lambda: self._end(name, held, late=True))
        elif pick < 0.4 and beats < 4:
            progress = {"progress": None} if pick < 0.2 else {}
            self.crowd.call("worker.heartbeat", id=held.job, token=held.token, **progress)
            self.after(chance.choice((0.1, 3.0)), lambda: self._work(name, held, beats + 1))
        else:
            pause = chance.choice((0.0, 0.05, 2.0)) * chance.random()
            self.after(pause, lambda: self._end(name, held))
            if chance.random() < _TWICE:
                self.after(pause, lambda: self._end(name, held, late=True))

    def _end(self, name: str, held: Held, *, late: bool = False, tries: int = 0) -> None:
        pick = self.chance.random()

        def told(outcome: Any) -> None:
            self._got(name, outcome)
            again = outcome is None or getattr(outcome, "name", "") in ("storage_unavailable", "internal_error")
            if again and not late and tries < _TRIES:
                self.after(self.chance.random() * 5, lambda: self._end(name, held, tries=tries + 1))
                return
            if not late:
                self.busy[name] -= 1
            if self.chance.random() < 0.1 and not late:  # and says it once more
                self.after(self.chance.random(), lambda: self._end(name, held, late=True))

        common = {"id": held.job, "token": held.token}
        claim = self._wanted(name) if self.chance.random() < 0.3 and not late else None
        call = None
        if pick < 0.6:
            data = POISON if self.chance.random() < 0.03 else None
            result = {"summary": f"r{next(self._summaries)}", "data": data}
            call = self.crowd.call("worker.complete", told, **common, result=result, claim=claim)
        elif pick < 0.8:
            error = WorkerError(class_=self.chance.choice(("agent_error", "rate_limited", "oom")))
            call = self.crowd.call("worker.fail", told, **common, error=error, claim=claim)
        elif pick < 0.9:
            call = self.crowd.call("worker.release", told, **common)
        else:
            call = self.crowd.call("worker.ask", told, **common, text="which?")
        if call is None:
            told(None)


class Agents:
    """What processes say while they run: they ask, or spawn jobs and wait for them."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd, self.house, self.chance = crowd, crowd.house, crowd.chance
        self.house.yard.speaks = self.speak

    def speak(self, process: Process) -> None:
        if process.end is not None or not self.house.is_open:
            return
        job, attempt = process.key
        seat = Seat(Connection(self.house.life), Caller(agent=True, job=job, attempt=attempt))
        if process.way == "curious":
            token = process.launch.env["OPUS_TOKEN"]
            self.house.call(seat, "worker.ask", _unheard, id=job, token=token, text="which?", options=["a", "b"])
            return

        def told(outcome: Any) -> None:
            if outcome is None or isinstance(outcome, OpusError):
                return
            self.crowd.learn(outcome.job.id)
            timeout = self.chance.choice((1, 60, 600))
            self.house.call(seat, "job.wait", _unheard, ids=[outcome.job.id], timeout=timeout)
            self.house.yard.after(30 * self.chance.random(), lambda: self._leave(process, seat))

        self.house.call(seat, "job.submit", told, prompt="a part of it", title=f"child of {job}")

    def _leave(self, process: Process, seat: Seat) -> None:
        """Whoever is over waits no longer."""
        if process.end is None:
            self.house.yard.after(10.0, lambda: self._leave(process, seat))
        else:
            self.house.hang_up(seat.connection)


class Wire:
    """The transport below one subscription: what is written is taken after a while, in order, and some of it never."""

    def __init__(self, listener: Listener, connection: Connection) -> None:
        self.outlet = Outlet(self._write, lambda: len(self._held), _UNSENT)
        self.sink = EventSink(listener.heard, self.outlet, lambda _: None)
        self._listener, self._connection = listener, connection
        self._held = b""
        connection.wires.append(self)

    def _write(self, *pieces: bytes) -> None:
        frames = b"".join(pieces)
        self.outlet.note(len(frames))
        if not self._held:
            chance = self._listener.chance
            self._listener.house.yard.after(chance.choice((0.0, 0.0, 0.01, 3.0)) * chance.random(), self._take)
        self._held += frames

    def _take(self) -> None:
        if self._connection.gone or self._connection.life != self._listener.house.life:
            return
        held, self._held = self._held, b""
        for line in held.splitlines():
            self._listener.hear(msgspec.json.decode(line))
        self.outlet.wake()

    def close(self) -> None:
        """As a connection does when it is lost."""
        self.sink.close()
        self.outlet.close()


class Listener:
    """Somebody who wants every event once, over all connections and daemons: `last` is the cursor that it has seen."""

    def __init__(self, crowd: Crowd, wants: dict[str, Any]) -> None:
        self.crowd, self.house, self.chance = crowd, crowd.house, crowd.chance
        self.wants = wants
        self.last: int | None = 0
        self.heard = 0
        self.connection: Connection | None = None
        self._asking = False
        self._life = 0

    def act(self) -> None:
        """Ask for what comes after the last one, unless somebody tells it already."""
        house = self.house
        if self._life != house.life:
            self.connection, self._asking, self._life = None, False, house.life
        if house.is_open and self.connection is None and not self._asking:
            self._subscribe()
        elif self.connection is not None and self.chance.random() < 0.02 and not self.crowd.calm:
            house.hang_up(self.connection)
            self.connection = None
        house.yard.after(5 * self.chance.random(), self.act)

    def _subscribe(self) -> None:
        connection = Connection(self.house.life)
        wire = Wire(self, connection)
        self._asking = True

        def told(outcome: Any) -> None:
            self._asking = False
            if isinstance(outcome, Subscription):
                assert self.last in (None, outcome.cursor)
                self.last, self.connection = outcome.cursor, connection
                wire.sink.open(outcome.cursor)
            elif isinstance(outcome, NotFound):  # it was pruned
                self.last = None

        self.crowd.call("events.subscribe", told, connection, sink=wire.sink, since=self.last, **self.wants)

    def hear(self, told: dict[str, Any]) -> None:
        """One line of the wire."""
        if told["method"] == "event.lagged":
            assert told["params"]["cursor"] == self.last, "it lags from another event on than the last one"
            self.connection = None
            self.crowd.judge.saw("lagged")
            return
        event = told["params"]["event"]
        if event["kind"] == "job.progress":
            return
        assert event["cursor"] <= len(self.crowd.judge.events), "an event was told that is not on disk"
        due = self.next()
        assert due is not None, "an event was told twice"
        assert (event["cursor"], event["kind"], event["job"]) == (due.cursor, due.kind, due.job), f"not {due}"
        self.last = event["cursor"]
        self.heard += 1

    def next(self) -> Event | None:
        """The first one on disk that it wants and has not heard."""
        events, groups = self.crowd.judge.events, self.crowd.judge.groups
        for event in events[self.last or 0 :]:
            if "kinds" in self.wants and event.kind not in self.wants["kinds"]:
                continue
            if "group" in self.wants and (event.job is None or groups[event.job] != self.wants["group"]):
                continue
            return event
        return None


def listeners(crowd: Crowd) -> list[Listener]:
    return [Listener(crowd, wants) for wants in _LISTENERS]


def _unheard(_: Any) -> None:
    """It goes on as it would."""
