"""docs/states.md from the table of transitions in opusd/core/lifecycle.py."""

from __future__ import annotations

import sys

from fresh import page

from opusd.core.lifecycle import ALIVE, FINAL, TRANSITIONS, Status, Step

MEANS = {
    Status.HELD: "put aside by a person",
    Status.BLOCKED: "a dependency is not satisfied",
    Status.SCHEDULED: "not before its `run_at`",
    Status.QUEUED: "ready",
    Status.RUNNING: "an attempt is under way",
    Status.CANCELLING: "its attempt is being ended because a person asked",
    Status.NEEDS_INPUT: "its agent asked a person something; its slot is free",
    Status.RETRYING: "failed, and waits for its next attempt",
    Status.COMPLETED: "done",
    Status.FAILED: "failed, and not tried again unless somebody says `retry`: a dead letter",
    Status.CANCELLED: "ended by a person, or because what it waited for can't come",
    Status.EXPIRED: "was ready for longer than its `expires_in`, and had no attempt",
}
MOVES = {
    Step.HOLD: "put aside: `opusctl hold` (with `--stop` a running one too, once its attempt has ended)",
    Step.BLOCK: "on its way to the queue it is found that a dependency is not satisfied",
    Step.SCHEDULE: "on its way to the queue it is found that its `run_at` is not there yet",
    Step.QUEUE: "it is ready: let go, retried, its time or its dependency has come, or its attempt was put back",
    Step.START: "it is first in order, and there is a slot and what it needs",
    Step.COMPLETE: "its attempt ended well",
    Step.FAIL: "its attempt ended badly, and no retry is left",
    Step.BACK_OFF: "its attempt ended badly, and is made again after a while",
    Step.ASK: "its agent asks a person (not in this version)",
    Step.LOSE: "nobody saw how its attempt ended; it is put back, and fails after the third such loss",
    Step.STOP: "a person cancels or stops it: its processes get SIGTERM, and SIGKILL after the grace",
    Step.CANCEL: "cancelled: at once, or when its attempt has ended",
    Step.EXPIRE: "its `expires_in` is over, or nobody answered its question in time",
}
HEAD = """\
# The states of a job

Made by `docs/generate_states.py` from the table in `opusd/core/lifecycle.py`, which is the only place where a status
changes; edit that, then `make generate`.

"""
PLACES = """\
On submission, release, retry and put-back the first that applies wins: `held`, `blocked`, `scheduled`, `queued`. The
diagram leaves out the moves among these four, and the retry of what has ended; the tables have them all.

"""


def diagram() -> list[str]:
    """Mermaid draws fifty arrows as a hedge: those among the waiting states, and out of the final ones, stay out."""
    waiting = {Status.HELD, Status.BLOCKED, Status.SCHEDULED, Status.QUEUED}
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR", "    [*] --> waiting: submit", "    state waiting {"]
    lines += [f"        {status}" for status in Status if status in waiting]
    lines += ["    }"]
    drawn: dict[tuple[str, str], list[str]] = {}
    for (status, step), to in TRANSITIONS.items():
        if status in FINAL or (status in waiting and to in waiting):
            continue
        source = "waiting" if status in waiting and step is Step.CANCEL else str(status)
        words = drawn.setdefault((source, str(to)), [])
        if str(step) not in words:
            words.append(str(step))
    lines += [f"    {source} --> {to}: {', '.join(words)}" for (source, to), words in drawn.items()]
    lines += [f"    {status} --> [*]" for status in Status if status in FINAL]
    return [*lines, "```", ""]


def kind(status: Status) -> str:
    return "final" if status in FINAL else "an attempt may have processes" if status in ALIVE else ""


def tables() -> list[str]:
    lines = ["## States", "", "| status | means | may become | |", "| --- | --- | --- | --- |"]
    for status in Status:
        goals = dict.fromkeys(str(to) for (source, _), to in TRANSITIONS.items() if source is status)
        lines.append(f"| {status} | {MEANS[status]} | {', '.join(goals)} | {kind(status)} |")
    lines += ["", "## Steps", "", "Each is a word of the audit trail too: `job.started`, `job.held`, ...", ""]
    lines += ["| step | when | from | to |", "| --- | --- | --- | --- |"]
    for step in Step:
        moves = [(source, to) for (source, each), to in TRANSITIONS.items() if each is step]
        goals = dict.fromkeys(str(to) for _, to in moves)
        lines.append(f"| {step} | {MOVES[step]} | {', '.join(source for source, _ in moves)} | {', '.join(goals)} |")
    return [*lines, "", "Any other step is refused as `Conflict`, and nothing changes.", ""]


if __name__ == "__main__":
    sys.exit(page("states.md", HEAD + PLACES + "\n".join([*diagram(), *tables()])))
