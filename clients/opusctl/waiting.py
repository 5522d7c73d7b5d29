"""Waiting for jobs, as `opusctl wait` and `opusctl submit --wait` do it: the call, its timeout, its outcome."""

from __future__ import annotations

import time

from opusctl.failure import FAILED, INTERRUPTED, OK, TIMED_OUT, NoDaemon, Refused
from opusctl.jobs import FINAL, brief, code_of, job_table, last_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Ref
    from opusctl.session import Session

AT_ONCE = 500  # ids in one call, so that the reply stays far below 4 MiB
EXPLAINED = 20  # jobs of which it is said how they ended, when not well


def wait_for(
    session: Session,
    ids: Sequence[Ref],
    *,
    group: str | None = None,
    any_of: bool = False,
    until: str | None = None,
    timeout: float | None = None,
    show: bool = True,
) -> int:
    """Wait, show how the jobs ended, give the exit code. Ctrl-C detaches. `show` is off when the ids are printed."""
    try:
        jobs, done = _wait(session, ids, group, any_of, until, timeout)
    except KeyboardInterrupt:
        named = " ".join(str(ref) for ref in ids[:10]) if ids else f"--group {group}"
        session.screen.talk(f"detached; nothing is cancelled. Come back with: opusctl wait {named}")
        return INTERRUPTED
    jobs = [last_link(session, job) for job in jobs]
    try:
        if show:
            _show(session, jobs, done)
    except BrokenPipeError:
        return FAILED
    for job in [job for job in jobs if job["status"] in FINAL and job["status"] != "completed"][:EXPLAINED]:
        session.screen.talk(brief(session.screen, job))
    if not done:
        session.screen.talk(f"timed out after {timeout:g} s" if timeout is not None else "timed out")
        return TIMED_OUT
    if any_of:
        ended = [job for job in jobs if job["status"] in FINAL]
        return code_of(ended) if ended else OK
    return code_of(job for job in jobs if until != "started" or job["status"] in FINAL)


def _show(session: Session, jobs: list[Job], done: bool) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json({"jobs": jobs, "done": done})
    elif screen.quiet:
        for job in jobs:
            screen.line(str(job["id"]))
    elif jobs:
        job_table(screen, jobs)


def _wait(
    session: Session, ids: Sequence[Ref], group: str | None, any_of: bool, until: str | None, timeout: float | None
) -> tuple[list[Job], bool]:
    """The jobs, and whether what was waited for came. Many ids are waited for in turn, all of them in the end."""
    end = None if timeout is None else time.monotonic() + timeout
    if group is not None:
        return _call(session, {"group": group, "any": any_of or None, "until": until}, end)
    if any_of or len(ids) <= AT_ONCE:
        return _call(session, {"ids": list(ids), "any": any_of or None, "until": until}, end)
    jobs: list[Job] = []
    done = True
    for start in range(0, len(ids), AT_ONCE):
        some, done_here = _call(session, {"ids": list(ids[start : start + AT_ONCE]), "until": until}, end)
        jobs += some
        done = done and done_here
    return jobs, done


def _call(session: Session, params: dict[str, Any], end: float | None) -> tuple[list[Job], bool]:
    while True:
        left = None if end is None else max(0.0, round(end - time.monotonic(), 3))
        try:
            reply = session.call("job.wait", {**params, "timeout": left}, patience=None)
        except (NoDaemon, Refused) as failure:
            session.come_back(failure)
        else:
            return reply["jobs"], bool(reply["done"])
