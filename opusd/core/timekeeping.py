"""Jumps of the wall's clock: what lasts a while does not notice them, and what names a wall time is compared again.

Moments are kept in wall time, for people read them. The wall's clock jumps when somebody sets it, and when a
suspended machine wakes, since the monotonic clock stood still. A moment that came from a duration then moves by as
much (`shift`, which lists them all). When a job was made and became ready is not rewritten, for there may be a
million of them: each keeps by how much the clock had jumped until then (`Extra.skew`), and order, score and expiry
are reckoned in steady time, the wall's less all its jumps.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict, replace

from opusd.core import cooling
from opusd.core.job import PLAIN, SECOND, Job, Run
from opusd.core.lifecycle import Status

if TYPE_CHECKING:
    from opusd.core.decision import Decision
    from opusd.core.state import State

TOLERANCE: Final = SECOND
"""A smaller jump is none. The anchor stays, so small ones add up to a jump, and the error to this at most."""


class Timeline(msgspec.Struct, frozen=True):
    """`offset` is wall minus monotonic time as last believed: in one boot only jumps change it. `skew` is their sum.

    `seen` is a wall time that had been reached when the registry was written last.
    """

    boot: str = ""
    offset: int = 0
    skew: int = 0
    seen: int = 0


def restore(kept: dict[str, Any], seen: int) -> Timeline:
    """The timeline from the settings of the registry: a jump while no daemon ran is seen at the first look."""
    return msgspec.convert({**kept.get(_NAME, {}), "seen": seen}, Timeline)


def look(decision: Decision, boot: str, offset: int) -> int:
    """Before anything else is decided: by how much the wall's clock has jumped since the last look, which is seen to.

    After another boot there is nothing to compare: what the wall's clock says in between has passed, unless it
    went back.
    """
    known = decision.state.timeline
    jump = offset - known.offset if known.boot == boot else min(0, decision.now - known.seen)
    if abs(jump) <= TOLERANCE:
        if known.boot != boot:
            _set(decision, replace(known, boot=boot, offset=offset))
        return 0
    shift(decision, jump)
    _set(decision, replace(known, boot=boot, offset=offset, skew=known.skew + jump))
    return jump


def shift(decision: Decision, by: int) -> None:
    """Move every moment that came from a duration. Whoever adds such a moment adds it here, or in what this calls."""
    state = decision.state
    for job in [*state.running.values(), *state.waiting_for_time(Status.RETRYING, Status.NEEDS_INPUT)]:
        after = _shifted(job, by)
        if after != job:
            decision.put(job, after, "updated", detail={"clock_jumped_seconds": by / 1e6}, actor="scheduler")
    cooling.shift(decision, by)
    _shift_marks(state, by)
    decision.undone_by(partial(_shift_marks, state, -by))


def _shifted(job: Job, by: int) -> Job:
    """This job with its time limits, its backoff and its question's patience where they belong after the jump."""
    changes: dict[str, Any] = {}
    if job.run is not None:
        changes["run"] = _shifted_run(job.run, by)
    if job.due_at is not None:
        changes["due_at"] = job.due_at + by
    after = replace(job, **changes)
    question = (job.extra or PLAIN).question
    if question is not None and question.until is not None:
        after = after.with_extra(question=replace(question, until=question.until + by))
    return after


def _shifted_run(run: Run, by: int) -> Run:
    moments = {name: getattr(run, name) for name in ("timeout_at", "kill_at", "lease_until")}
    return replace(run, **{name: at + by for name, at in moments.items() if at is not None})


def _shift_marks(state: State, by: int) -> None:
    """What memory alone keeps: who is first since when, last starts and submissions, the pause for want of room."""
    if state.first is not None:
        state.first = (state.first[0], state.first[1] + by)
    if state.breather is not None:
        state.breather = replace(state.breather, until=state.breather.until + by)
    for agent, at in state.last_start.items():
        state.last_start[agent] = at + by
    for recent in state.submissions.values():
        for place, at in enumerate(recent):
            recent[place] = at + by


def dated(state: State, before: Job | None, after: Job, now: int) -> Job:
    """A job that is made or becomes ready now keeps by how much the clock has jumped until now."""
    skew = state.timeline.skew
    made = before is None and after.queued_at is None
    ready = after.queued_at == now and (before is None or before.queued_at != now)
    if not (made or ready) or (after.extra or PLAIN).skew == skew:
        return after
    return after.with_extra(skew=skew)


_NAME: Final = "clock"


def _set(decision: Decision, timeline: Timeline) -> None:
    state = decision.state
    old, state.timeline = state.timeline, timeline
    kept = {name: value for name, value in asdict(timeline).items() if name != "seen"}
    decision.keep(_NAME, kept, partial(setattr, state, "timeline", old))
