"""job.answer: a person answers what an agent asked, and its job goes on where it stood."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from opusd.core import commands
from opusd.core.access import require_person
from opusd.core.errors import InvalidParams
from opusd.dispatcher.shorter import shorter

if TYPE_CHECKING:
    from opusd.api import params as p
    from opusd.api import types as wire
    from opusd.core.decision import Decision
    from opusd.core.job import Job
    from opusd.dispatcher.desk import Desk, Session

_LONGEST: Final = 64 << 10


class AnswerVerbs:
    job_answer_shorter = staticmethod(shorter)

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def job_answer(self, session: Session, params: p.JobAnswer) -> wire.Job:
        require_person(session.caller, "answering")
        text = params.text.strip()
        if not text or len(text.encode()) > _LONGEST:
            message = f"$.text: an answer is text of 1 to {_LONGEST} bytes"
            raise InvalidParams(message, path="$.text")
        desk = self._desk
        async with session.turn:
            future = None
            while future is None:
                number = await desk.find(params.id)
                await desk.settled()
                record = (await desk.store.records([number]))[0]
                job = desk.unchanged(record)
                if job is None:
                    continue  # another question, perhaps, and other answers before it

                def verb(decision: Decision, job: Job) -> Job:
                    return commands.answer(decision, job, record.spec, params.question, text)  # noqa: B023 - called at once

                future = desk.writer.command(partial(desk.decided, job=job, verb=verb), session.caller.actor)
        return await desk.eventually(partial(desk.show, await future))
