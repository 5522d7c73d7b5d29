"""What the verbs say of jobs: a line of each, what was done to them, how they ended.

A job here is the object of the wire. Fields that a daemon does not send are taken as absent.
"""

from __future__ import annotations

import time

from opusctl.failure import FAILED, OK, Failure
from opusctl.text import ago, cut, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from opusctl.parsing import Ref
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

    Job = dict[str, Any]

ACTIVE = ("running", "cancelling", "needs_input")
WAITING = ("queued", "retrying", "scheduled", "blocked", "held")
FINAL = ("completed", "failed", "cancelled", "expired")

# The mark before a status on a terminal, its stand-in without Unicode, and the style of both.
LOOKS = {
    "running": ("●", "*", "green"),
    "cancelling": ("◐", "*", "yellow"),
    "needs_input": ("?", "?", "yellow"),
    "queued": ("○", "o", ""),
    "retrying": ("↻", "o", "yellow"),
    "scheduled": ("◷", "o", "blue"),
    "blocked": ("◇", "-", "yellow"),
    "held": ("‖", "-", "dim"),
    "completed": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "cancelled": ("-", "-", "dim"),
    "expired": ("-", "-", "dim"),
}
TITLE_LIMIT = 40  # columns of a title inside a sentence
TIER_STYLES = {"critical": "alarm", "urgent": "yellow", "low": "dim"}


def now() -> float:
    return time.time()


def status_part(screen: Screen, job: Job) -> Part:
    """The status with its mark and colour; the bare word when piped."""
    status = job["status"]
    mark, plain, style = LOOKS.get(status, ("·", ".", ""))
    if not screen.terminal:
        return (status, style)
    return (f"{mark if screen.unicode else plain} {status}", style)


def moment_of(job: Job) -> str | None:
    """The time that matters most of a job in its state: when it ended, started, will be due or became ready."""
    if job["status"] in FINAL:
        return job.get("completed_at")
    if job["status"] in ACTIVE:
        return job.get("started_at") or job.get("queued_at")
    if job["status"] in ("scheduled", "retrying") and (job.get("due_at") or job.get("run_at")):
        return job.get("due_at") or job.get("run_at")
    return job.get("queued_at") or job.get("created_at")


def when_part(screen: Screen, time_of: str | None) -> Part:
    """Relative on a terminal, as on the wire when piped."""
    return (ago(time_of, now()), "dim") if screen.terminal else (time_of or "-")


def job_table(screen: Screen, jobs: Sequence[Job]) -> None:
    """One line a job. When piped every column but the last (the full title) is one word."""
    rows = [
        [
            str(job["id"]),
            status_part(screen, job),
            (str(job.get("tier") or "-"), TIER_STYLES.get(str(job.get("tier")), "")),
            str(job.get("agent") or "-"),
            when_part(screen, moment_of(job)),
            ("" if job.get("position") is None else str(job["position"])),
            str(job.get("title") or ""),
        ]
        for job in jobs
    ]
    titles = ["ID", "STATUS", "TIER", "AGENT", "WHEN", "#", "TITLE"]
    screen.table(titles, rows, right=("ID", "#"))


def brief(screen: Screen, job: Job) -> str:
    """`job 5 (Fix the login) is queued: 3 ahead`; a long title is cut on a terminal."""
    title = str(job.get("title") or "")
    if screen.terminal:
        title = cut(title, TITLE_LIMIT, screen.ellipsis)
    return f"job {job['id']}{f' ({title})' if title else ''} {state(job)}"


def state(job: Job) -> str:
    """`is queued: 3 jobs are ahead`; `completed`; `failed: timeout: no end after 2 h`."""
    status = job["status"]
    if status == "failed" and job.get("escalated_to"):
        return f"failed and was escalated to job {job['escalated_to']}"
    if status == "failed":
        error = job.get("error") or {}
        return "failed: " + ": ".join(str(part) for part in (error.get("class"), error.get("message")) if part)
    if status == "completed":
        return "completed"
    if status == "expired":
        return f"expired: {job['reason']}" if job.get("reason") else "expired"
    words = {"cancelled": "was cancelled", "needs_input": "waits for an answer"}.get(status, f"is {status}")
    reason = job.get("reason")
    if status == "scheduled" and job.get("run_at"):
        reason = f"not before {job['run_at'][:19]}Z, {ago(job['run_at'], now())}"
    return f"{words}: {reason}" if reason else words


def queue_state(job: Job) -> str:
    """`position 3 for claude, 12 jobs ahead`, or nothing when the job is not queued."""
    if job.get("position") is None:
        return ""
    ahead = job.get("ahead")
    lane = f"position {job['position']} for {job.get('agent')}"
    return lane if ahead is None else f"{lane}, {plural(ahead, 'job')} ahead" if ahead else f"{lane}, next in order"


def each(session: Session, refs: Iterable[Ref], act: Callable[[Ref], Any]) -> tuple[list[Any], int]:
    """Do something to each job. One that refuses does not keep the others from it; the first refusal gives the code."""
    results, code = [], OK
    for ref in refs:
        try:
            results.append(act(ref))
        except Failure as failure:
            if failure.exit_code == 3 or failure.word in ("usage", "timed_out", "unwritten"):
                raise
            code = code or failure.exit_code
            if session.screen.as_json:
                session.screen.json({"error": failure.as_error()})
            else:
                session.screen.complain(f"opusctl: {failure.message}")
    return results, code


def tell(screen: Screen, done: Sequence[Any]) -> None:
    """What became of jobs: ids alone under -q, the Jobs as JSON, else a line each."""
    for job in done:
        if screen.as_json:
            screen.json(job)
        elif screen.quiet:
            screen.line(str(job["id"]))
        else:
            screen.line(brief(screen, job))


def last_link(session: Session, job: Job) -> Job:
    """The job that carries on for an escalated one, or the job itself."""
    while job.get("escalated_to"):
        job = session.call("job.get", {"id": job["escalated_to"]})
    return job


def code_of(jobs: Iterable[Job]) -> int:
    """0 when all completed, else 1."""
    return OK if all(job["status"] == "completed" for job in jobs) else FAILED
