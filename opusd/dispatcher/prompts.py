"""What an agent is told: the prompt, and what it has to know of earlier attempts, answers and checks.

Pure. A program that takes up its own session knows its task; it is told why it goes on, and the task again, for a
session may have ended before the first prompt was kept.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from opusd.core import escalation

if TYPE_CHECKING:
    from opusd.core.job import Job, Outcome, Spec


def resumes(job: Job, outcome: Outcome) -> str | None:
    """The session that this job's next attempt takes up, when its agent's program can."""
    if outcome.session_agent != job.terms.agent or (job.extra is not None and job.extra.fresh):
        return None
    return outcome.session_id


def prompt_for(job: Job, spec: Spec, outcome: Outcome, *, resumed: bool) -> str | None:
    """The text for this attempt; None when the job has no prompt."""
    if spec.prompt is None:
        return None
    answered = job.run is not None and job.run.answered and bool(spec.answers)
    if resumed and answered:
        return _answer(spec)
    parts = []
    if resumed:
        parts.append(_interrupted(outcome))
    elif spec.previous:
        parts.append(escalation.words(spec.previous))
    parts.append(spec.prompt)
    if spec.answers and not resumed:
        parts.append(_answers(spec))
    if outcome.verify_output is not None and not (job.extra is not None and job.extra.fresh):
        parts.append(_unverified(spec, outcome.verify_output))
    return "\n\n".join(parts)


def _answer(spec: Spec) -> str:
    last = spec.answers[-1]
    return f"The answer to your question:\n\n{_quoted(last['question'])}\n\n{last['answer']}\n\nGo on with the task."


def _answers(spec: Spec) -> str:
    lines = ["Questions that were asked about this task, and their answers:"]
    for one in spec.answers:
        lines += ["", _quoted(one["question"]), "", str(one["answer"])]
    return "\n".join(lines)


def _unverified(spec: Spec, said: str) -> str:
    """A fresh start has another worktree, where this was not found."""
    check = f", `{shlex.join(spec.verify)}`," if spec.verify else ""
    said = _quoted(said) or "> (no output)"
    return f"What was done for this task so far did not pass its verification{check} which ended with:\n\n{said}"


def _interrupted(outcome: Outcome) -> str:
    error = outcome.error or {}
    words = ": ".join(str(part) for part in (error.get("class"), error.get("message")) if part)
    why = f" ({words})" if words else ""
    return f"The last attempt at this task was interrupted{why}. Go on where it stopped. The task was:"


def _quoted(text: object) -> str:
    return "\n".join(f"> {line}" for line in str(text).splitlines())
