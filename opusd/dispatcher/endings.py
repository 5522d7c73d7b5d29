"""What becomes of an attempt that is over: its stream and its exit are judged, and the core decides on its End.

An end is a fact: it waits for a registry that can't be read or written, and what can't be kept of it is left out.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict, replace

from opusd.core import attempts
from opusd.core.attempts import End
from opusd.core.errors import InternalError, OpusError
from opusd.core.job import Outcome
from opusd.core.retry import FailureClass

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.agents.adapters.base import Verdict
    from opusd.agents.spec import Ended, Exit
    from opusd.clock import Clock
    from opusd.core.decision import Decision
    from opusd.core.job import Spec
    from opusd.core.state import State
    from opusd.dispatcher.writer import Writer
    from opusd.store.base import Record, Store

NO_ROOM: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
"""A spawn that failed for these says nothing of the job: it is put back, and tried again after a pause."""


class Endings:
    """Commits ends. `log(event, **fields)` takes what a person should know."""

    def __init__(self, state: State, store: Store, clock: Clock, writer: Writer, log: Callable[..., None]) -> None:
        self._state = state
        self._store = store
        self._clock = clock
        self._writer = writer
        self._log = log

    def under_way(self, number: int, attempt: int) -> bool:
        """Whether memory has this attempt as running: a second report of its end changes nothing."""
        job = self._state.jobs.get(number)
        return job is not None and job.run is not None and job.run.attempt == attempt

    async def commit(self, number: int, attempt: int, end: End) -> None:
        """Decide the End and write it; what earlier attempts brought is kept unless this one brings its own."""
        if not self.under_way(number, attempt):
            return
        record = await self.record(number)
        spec, outcome = record.spec, record.outcome
        try:
            await self._writer.fact(partial(self._decide, number, attempt, end, outcome, spec))
        except InternalError as error:
            # What the attempt brought can't be kept; that it is over must be.
            self._log("result.refused", level="error", job=number, attempt=attempt, message=error.message)
            bare = replace(end, result=None, usage=None, detail={"result_ignored": error.message})
            await self._writer.fact(partial(self._decide, number, attempt, bare, outcome, spec))

    def _decide(
        self, number: int, attempt: int, end: End, outcome: Outcome, spec: Spec | None, decision: Decision
    ) -> None:
        current = self._state.jobs.get(number)
        if current is not None:
            attempts.end(decision, current, attempt, end, outcome, spec)

    async def record(self, number: int) -> Record:
        """The job's record, as soon as the registry can be read."""
        never = asyncio.Event()
        while True:
            try:
                return (await self._store.records([number]))[0]
            except OpusError as error:
                self._log("storage.unreadable", level="error", job=number, message=error.message)
                await self._clock.wait(never, 1.0)


def ended(report: Ended, verdict: Verdict, *, first: bool) -> End:
    """The core's End of what the pool saw and the adapter heard."""
    detail: dict[str, Any] = {}
    data: Any = None
    if report.result is not None:
        data = msgspec.json.decode(report.result)
    if report.result_problem is not None:
        detail["result_ignored"] = report.result_problem
    if verdict.failure is None and verdict.message:
        detail["note"] = verdict.message
    failure, message = verdict.failure, verdict.message
    if failure is FailureClass.AGENT_ERROR and report.oom:
        failure = FailureClass.OOM
        message = f"out of memory: {report.oom} of its processes were killed for it ({message})"
    unverified = failure is None and verdict.question is None and report.verify is not None and not _well(report.verify)
    if unverified and report.verify is not None:
        failure, message = FailureClass.VERIFY_FAILED, f"verify: {report.verify.message}"
    return End(
        failure=failure,
        message=message or None,
        exit_code=report.exit.code,
        signal=report.exit.signal,
        result={"summary": verdict.summary.strip(), "data": data},
        session_id=verdict.session_id,
        session_unknown=verdict.session_unknown,
        usage=None if verdict.usage is None else asdict(verdict.usage),
        log_bytes=report.log_bytes,
        first=first,
        never_ran=report.exit.kind == "spawn" and (report.exit.machine or report.exit.errno in NO_ROOM),
        chance=random(),
        limited_until=verdict.limited_until,
        question=None if verdict.question is None else (verdict.question[0], tuple(verdict.question[1])),
        output_tail=report.verify_output if unverified else report.output_tail,
        verify_output=report.verify_output if unverified else None,
        detail=detail,
    )


def _well(how: Exit) -> bool:
    return how.kind == "exit" and how.code == 0
