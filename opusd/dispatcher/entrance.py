"""Where jobs enter that no caller asks for: those of schedules. Source automated, on the account of what made them.

Whoever makes them decides in the same transaction what else is to be true when the job is there (`Door`). Must not
know when jobs are made.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from opusd.core.access import Caller
from opusd.core.admission import Facts, MissingFact, Submission, submit
from opusd.core.decision import Decision
from opusd.core.errors import Conflict, InvalidParams, OpusError, QueueFull, QuotaExceeded
from opusd.core.job import Job
from opusd.dispatcher.desk import Desk, Ref
from opusd.dispatcher.learning import REREADS, learn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opusd.api.types import JobSpec
    from opusd.dispatcher.intake import Intake

T = TypeVar("T")
_NOBODY: Final = Caller()
"""No peer of a connection: the daemon itself, with a person's rights."""
_PATH: Final = "$.job"


class Door:
    """What a decision may ask about one submission; good within that decision alone."""

    def __init__(self, decision: Decision, submission: Submission, facts: Facts) -> None:
        self._decision = decision
        self._submission = submission
        self._facts = facts

    def submit(self) -> int:
        """The job's id: a new one, or that of the key's job. Raises what refuses it."""
        [(job, _)] = submit(self._decision, [self._submission], self._facts, _NOBODY)
        return job.id if isinstance(job, Job) else job

    def unfinished(self, number: int) -> bool:
        """Whether this job, or the one that carries on for it, is not finished. It was named to `enter`."""
        jobs, links = self._decision.state.jobs, self._facts.links
        while number not in jobs and number in links:
            number = links[number]
        return number in jobs


class Entrance:
    def __init__(self, desk: Desk, intake: Intake) -> None:
        self._desk = desk
        self._intake = intake

    async def rehearse(self, sent: JobSpec, actor: str) -> None:
        """The refusal that this would meet now, want of room in the queue aside; nothing is changed."""
        submission = self._read(sent, None)
        facts = Facts()
        await learn(self._desk, _NOBODY, [submission], facts, set())
        decision = Decision(self._desk.state, self._desk.now(), actor)
        try:
            submit(decision, [submission], facts, _NOBODY)
        except (QueueFull, QuotaExceeded):
            pass  # there may be room when it is made
        except OpusError as error:
            raise _inside(error) from None
        finally:
            decision.undo()

    async def enter(
        self,
        sent: JobSpec,
        actor: str,
        decide: Callable[[Decision, Door], T],
        *,
        key: str | None = None,
        watch: Sequence[int] = (),
    ) -> asyncio.Future[T]:
        """Decide now, with a door for this job; what was decided comes when it is on disk.

        `watch` are the jobs that `decide` may ask about. A refusal, of the job too, is raised and nothing is changed.
        """
        submission = self._read(sent, key)
        facts, known = Facts(), set[Ref]()
        for _ in range(REREADS):
            await learn(self._desk, _NOBODY, [submission], facts, known, watch)
            try:
                return self._desk.writer.command(partial(_decided, decide, submission, facts), actor)
            except MissingFact as error:
                known.discard(str(error.data["key"]))
            except OpusError as error:
                raise _inside(error) from None
        raise Conflict("the registry is too busy to tell whether the key is in use: try again")

    def _read(self, sent: JobSpec, key: str | None) -> Submission:
        if sent.key is not None:
            raise InvalidParams(f"{_PATH}.key: each firing gets a key of its own: leave it out", path=f"{_PATH}.key")
        if sent.run_at is not None:
            message = f"{_PATH}.run_at: cron says when; leave it out, or give delay, which counts from each firing"
            raise InvalidParams(message, path=f"{_PATH}.run_at")
        if sent.source not in (None, "automated"):
            message = f"{_PATH}.source: what a schedule submits is of the source automated, not {sent.source}"
            raise InvalidParams(message, path=f"{_PATH}.source")
        sent = replace(sent, key=key, source="automated")
        try:
            return self._intake.submission(sent, self._desk.now(), _PATH)
        except OpusError as error:
            raise _inside(error) from None


def _decided(decide: Callable[[Decision, Door], T], submission: Submission, facts: Facts, decision: Decision) -> T:
    return decide(decision, Door(decision, submission, facts))


def _inside(error: OpusError) -> OpusError:
    """The refusal with the path as it is inside of what was sent: who refused knew the job alone."""
    error.data.pop("index", None)
    path = error.data.get("path")
    if isinstance(path, str) and not path.startswith(_PATH):
        error.data["path"] = _PATH + path[1:]
    return error
