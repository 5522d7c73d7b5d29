"""A notifier on a real registry, with a clock that the test turns and sinks that answer as it says."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.config.notifications import Sink
from opusd.core import attempts
from opusd.core.attempts import End
from opusd.core.job import Outcome
from opusd.core.retry import FailureClass
from opusd.observers.notifier import Notifier
from opusd.observers.sending import Sent
from tests.dispatcher.bench import BOUND, Paced, WriterBench

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.core.decision import Decision
    from opusd.core.job import Job, Spec
    from opusd.observers.outbox import Entry

TAKEN = Sent(ok=True)
REFUSED = Sent(ok=False, message="HTTP 500")


def sink(name: str = "desk", *on: str, **fields: Any) -> Sink:
    return Sink(name=name, on=frozenset(on or {"failed"}), command=("true",), **fields)


class NotifierBench(WriterBench):
    """`answers[sink]` are what it answers in order, then that it took it; a Future is waited for."""

    def __init__(self, store: Paced, **changed: Any) -> None:
        super().__init__(store, **changed)
        self.tried: list[tuple[str, Entry]] = []
        self.answers: dict[str, list[Sent | asyncio.Future[Sent] | Exception]] = defaultdict(list)
        self.notifier: Notifier | None = None
        self._telling: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def begin(self, *sinks: Sink) -> Notifier:
        """What the daemon does when it starts, or starts again."""
        if self.running is None:
            self.run()
        snapshot = await self.store.load_active()
        self.notifier = notifier = Notifier(
            self.store, self.writer, self.clock, send=self._send, log=self.say, settings=snapshot.settings,
            cursor=snapshot.last_event,
        )  # fmt: skip
        notifier.configure(sinks)
        self.watchers = [lambda _, events: notifier.released(events)]
        self._telling = asyncio.create_task(notifier.run())
        return notifier

    async def die(self) -> None:
        """As kill -9 does: at once, with nothing said."""
        if self._telling is not None:
            self._telling.cancel()
            with suppress(asyncio.CancelledError):
                await self._telling
        self.watchers = []

    async def _send(self, to: Sink, entry: Entry) -> Sent:
        self.tried.append((to.name, entry))
        async with self._news:
            self._news.notify_all()
        answer = self.answers[to.name].pop(0) if self.answers[to.name] else TAKEN
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Sent) else await answer

    async def tries(self, count: int) -> list[tuple[str, Entry]]:
        """Until there were so many tries in all."""
        async with asyncio.timeout(BOUND), self._news:
            await self._news.wait_for(lambda: len(self.tried) >= count)
        return self.tried

    async def waits(self, count: int, name: str = "desk") -> None:
        """Until so many messages wait for a sink, on disk too; asked after each commit."""
        notifier, store = self.notifier, self.store
        assert notifier is not None
        async with asyncio.timeout(BOUND), store.arrived:
            await store.arrived.wait_for(lambda: {one.name: one.waiting for one in notifier.about()}[name] == count)
        async with asyncio.timeout(BOUND):
            await self.writer.settled()

    async def taken(self, count: int, name: str = "desk") -> None:
        """Until a sink took so many, and the registry knows."""
        notifier, store = self.notifier, self.store
        assert notifier is not None
        async with asyncio.timeout(BOUND), store.arrived:
            await store.arrived.wait_for(lambda: {one.name: one.sent for one in notifier.about()}[name] >= count)
        async with asyncio.timeout(BOUND):
            await self.writer.settled()

    async def outbox(self) -> list[str]:
        """The kinds of what is on disk and waits, by number."""
        kept = (await self.store.load_active()).settings
        entries = [value for name, value in kept.items() if name.startswith("outbox:")]
        return [entry["kind"] for entry in sorted(entries, key=lambda entry: entry["number"])]

    async def notified(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = (await self.store.load_active()).settings.get("notified")
        return found

    # --- jobs -------------------------------------------------------------------------------------

    async def decide(self, verb: Callable[[Decision], Any]) -> Any:
        async with asyncio.timeout(BOUND):
            return await self.writer.fact(verb)

    async def started(self, **fields: Any) -> Job:
        job = await self.submit(**fields)
        return await self.start(job)

    async def start(self, job: Job) -> Job:
        started: Job = await self.decide(
            lambda decision: attempts.start(
                decision, self.state.jobs[job.id], attempt_id=f"a{job.id}", token_hash=b"", over=False
            )
        )
        return started

    async def end(self, job: Job, failure: str | None = None, *, spec: Spec | None = None, **fields: Any) -> Job:
        end = End(failure=None if failure is None else FailureClass(failure), **fields)
        ended: Job = await self.decide(
            lambda decision: attempts.end(decision, self.state.jobs[job.id], job.attempts, end, Outcome(), spec)
        )
        return ended

    async def fails(self, **fields: Any) -> Job:
        """A dead letter."""
        return await self.end(await self.started(agent="codex", **fields), "agent_error", message="no")


def data(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(entry.body)["data"]
    return found
