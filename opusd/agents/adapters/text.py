"""Any program: its exit code is all that it says of success, and the end of its output its summary."""

from __future__ import annotations

from opusd.agents.adapters.base import Observation, Verdict
from opusd.agents.adapters.failures import ended
from opusd.agents.spec import Exit


class Text:
    def feed(self, text: str) -> list[Observation]:
        return []

    def gap(self) -> None:
        pass

    def end(self, exit: Exit, now: int, tail: str) -> Verdict:  # noqa: A002
        failure = ended(exit)
        if failure is None:
            return Verdict(summary=tail)
        return Verdict(failure=failure.failure, message=failure.message, summary=tail)
