"""What the demo holds the daemon to: the audit trail and the witness file, judged by rules written out a second time.

It imports nothing of the daemon. The order is computed here from the contract's formula, and who ran when comes from
what the jobs themselves wrote down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

POOL = 3
BASE = {"low": 0, "normal": 100, "urgent": 200}
RATE = 25  # points an hour
TIERS = ["low", "normal", "urgent", "critical"]


@dataclass
class Run:
    """One attempt as its own process saw it."""

    job: int
    attempt: int
    pid: int
    born: int
    start: float
    end: float | None = None


@dataclass
class Promise:
    text: str
    held: bool
    evidence: str


@dataclass
class Story:
    """All that is known at the end. `down` is when the daemon was dead; times are seconds since 1970."""

    jobs: dict[int, dict[str, Any]]
    events: list[dict[str, Any]]
    runs: list[Run]
    down: tuple[float, float]


def seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def runs_of(lines: list[dict[str, Any]]) -> list[Run]:
    """The witness file as attempts. A second start of one attempt is one more Run: it must not be."""
    runs: list[Run] = []
    for line in lines:
        if line["what"] == "start":
            runs.append(Run(line["job"], line["attempt"], line["pid"], line["born"], line["time"]))
        else:
            for run in runs:
                if (run.pid, run.born) == (line["pid"], line["born"]):
                    run.end = line["time"]
    return runs


# -------------------------------------------------------------------------------------------------- the order


def effective_tier(job: int, status: dict[int, str], jobs: dict[int, dict[str, Any]]) -> str:
    """A job's own tier, or the highest of the blocked jobs that wait for it, over any number of steps."""
    tiers, seen, todo = [jobs[job]["tier"]], {job}, [job]
    while todo:
        upstream = todo.pop()
        for other in jobs.values():
            waits = any(edge["job"] == upstream for edge in other["depends_on"])
            if waits and other["id"] not in seen and status.get(other["id"]) == "blocked":
                seen.add(other["id"])
                todo.append(other["id"])
                tiers.append(other["tier"])
    return max(tiers, key=TIERS.index)


def rank(job: dict[str, Any], tier: str, ready_at: float, now: float) -> tuple[float, float, float, int]:
    """Smallest goes first: critical as it came; then score = base + boost + rate * hours waited."""
    if tier == "critical":
        return (0, ready_at, 0, job["id"])
    score = BASE[tier] + job["boost"] + RATE * (now - ready_at) / 3600
    return (1, -score, ready_at, job["id"])


def wrong_starts(story: Story) -> Iterator[str]:
    """Replay the audit trail: each start must take the best of those that were ready, within the limits."""
    status: dict[int, str] = {}
    queued_at: dict[int, float] = {}
    ready: set[int] = set()

    def place(job: int, now: float) -> tuple[float, float, float, int]:
        return rank(story.jobs[job], effective_tier(job, status, story.jobs), queued_at[job], now)

    for event in story.events:
        job, to, now = event["job"], event["to"], seconds(event["time"])
        if to is None:
            continue
        if to == "running" and job not in ready:
            yield f"job {job} started and was not ready"
        elif to == "running":
            yield from (
                f"job {job} started before job {other}" for other in ready if place(other, now) < place(job, now)
            )
        status[job] = to
        if to == "queued":
            ready.add(job)
            if event["from"] != "running":  # what is put back stands where it stood
                queued_at[job] = now
        else:
            ready.discard(job)


def first_after_death(story: Story) -> tuple[int | None, set[int]]:
    """Of the jobs that were queued when the daemon died, the one that started first; and all of them."""
    queued: set[int] = set()
    for event in story.events:
        if event["to"] == "queued" and seconds(event["time"]) < story.down[0]:
            queued.add(event["job"])
        elif event["to"] == "running" and seconds(event["time"]) < story.down[0]:
            queued.discard(event["job"])
        elif event["to"] == "running" and event["job"] in queued:
            return event["job"], queued
    return None, queued


def idle_time(story: Story) -> float:
    """The longest time for which a slot was free and work was ready, while the daemon was up; in seconds."""
    status: dict[int, str] = {}
    longest, before = 0.0, 0.0
    for event in story.events:
        now = seconds(event["time"])
        ready = [job for job, state in status.items() if state == "queued"]
        running = [job for job, state in status.items() if state == "running" and not story.jobs[job]["interactive"]]
        down = max(0.0, min(now, story.down[1]) - max(before, story.down[0]))
        if ready and len(running) < POOL:
            longest = max(longest, now - before - down)
        if event["to"] is not None:
            status[event["job"]] = event["to"]
        before = now
    return longest


# ------------------------------------------------------------------------------------------------- the witness


def most_at_once(story: Story) -> tuple[int, int]:
    """How many ran at once by their own account: all but interactive jobs, and all."""
    moments = [run.start for run in story.runs]
    most = [0, 0]
    for now in moments:
        alive = [run for run in story.runs if run.start <= now < (run.end or now + 1)]
        most[0] = max(most[0], sum(not story.jobs[run.job]["interactive"] for run in alive))
        most[1] = max(most[1], len(alive))
    return most[0], most[1]


def early_starts(story: Story) -> list[str]:
    """Jobs that began before what they depend on had ended."""
    found = []
    for run in story.runs:
        for edge in story.jobs[run.job]["depends_on"]:
            ends = [other.end or float("inf") for other in story.runs if other.job == edge["job"]]
            ended = ends[:1] if edge["on"] == "failure" else ends[-1:]  # the attempt that decided it
            if not ended or ended[0] > run.start:
                found.append(f"job {run.job} ran before job {edge['job']} had ended")
    return found


def twice(story: Story) -> list[str]:
    """Attempts that were started more than once, and jobs of which two attempts overlapped."""
    found = []
    for place, run in enumerate(story.runs):
        for other in story.runs[place + 1 :]:
            if other.job != run.job:
                continue
            if other.attempt == run.attempt:
                found.append(f"attempt {run.attempt} of job {run.job} was started twice")
            elif run.end is None or other.start < run.end:
                found.append(f"two attempts of job {run.job} ran at once")
    return found


def untold(story: Story) -> list[str]:
    """Attempts that by their own account ran outside of what the audit trail says of them."""
    spans: dict[tuple[int, int], list[float]] = {}
    for event in story.events:
        if event["to"] == "running" or event["from"] == "running":
            spans.setdefault((event["job"], event["attempt"]), []).append(seconds(event["time"]))
    found = []
    for run in story.runs:
        span = spans.pop((run.job, run.attempt), [float("inf"), 0.0])
        if not (span[0] <= run.start and run.end is not None and run.end <= span[-1]):
            found.append(f"attempt {run.attempt} of job {run.job} ran otherwise than the trail says")
    return found + [f"attempt {attempt} of job {job} is in the trail and never ran" for job, attempt in spans]


def judge(story: Story) -> Iterator[Promise]:
    """The promises that are about the whole story."""
    wrong = list(wrong_starts(story))
    starts = sum(event["to"] == "running" for event in story.events)
    words = wrong[0] if wrong else f"{starts} starts, by the formula worked out again"
    yield Promise("each start took the first in order", not wrong and starts > 0, words)
    pool, everything = most_at_once(story)
    words = f"by their own account {pool} of the pool, {everything} in all"
    yield Promise("never more than 3 at once, and 1 more for people", (pool, everything) == (POOL, POOL + 1), words)
    idle = idle_time(story)
    yield Promise("no slot stays free while work is ready", idle < 1, f"{idle * 1000:.0f} ms at most")
    early = early_starts(story)
    edges = sum(len(job["depends_on"]) for job in story.jobs.values())
    yield Promise("nothing runs before what it depends on", not early, early[0] if early else f"{edges} dependencies")
    first, queued = first_after_death(story)
    words = f"job {first} was the first to start after the restart, {len(queued)} had been queued"
    yield Promise("what is critical goes first, though it came last", first == max(queued, default=None), words)
    lies = untold(story)
    yield Promise("the trail tells what ran", not lies, lies[0] if lies else f"{len(story.runs)} attempts say the same")
    doubled = twice(story)
    words = doubled[0] if doubled else f"{len(story.runs)} attempts, each of them one process"
    yield Promise("nothing runs twice", not doubled, words)


# --------------------------------------------------------------------------------------------------- the table


def chart(story: Story, columns: int = 80) -> Iterator[str]:
    """What ran when: a line a job, in the order of their starts."""
    begin = min(seconds(event["time"]) for event in story.events)
    end = max(seconds(event["time"]) for event in story.events)
    room = columns - 41
    scale = room / max(end - begin, 0.001)

    def column(time: float) -> int:
        return min(room - 1, max(0, int((time - begin) * scale)))

    started = [event["job"] for event in story.events if event["to"] == "running"]
    dead = range(column(story.down[0]), column(story.down[1]) + 1)
    yield f"ID  TIER      {'WHAT':26} WHEN"
    bar = "".join("x" if place in dead else "=" for place in range(room))
    yield f"{'':14}{'the daemon':26}|{bar}|"
    for job in sorted(story.jobs.values(), key=lambda job: [*started, job["id"]].index(job["id"])):
        bar = "".join(_cells(story, job["id"], room, column))
        yield f"{job['id']:2}  {job['tier']:8}  {job['title'][:25]:26}|{bar}|"
    length = f"{end - begin:.1f} s"
    yield f"{'':40}|0{length:>{room - 1}}|"
    yield ": waits for a job   . is queued   # runs   F failed   x the daemon is dead"


def _cells(story: Story, job: int, room: int, column: Any) -> list[str]:
    cells = [" "] * room
    marks = {"blocked": ":", "queued": ".", "running": "#", "failed": "F"}
    trail = [event for event in story.events if event["job"] == job and event["to"] is not None]
    for event, following in zip(trail, [*trail[1:], None], strict=True):
        mark = marks.get(event["to"])
        if mark is None:
            continue
        start = column(seconds(event["time"]))
        stop = start + 1 if following is None else max(start + 1, column(seconds(following["time"])))
        for place in range(start, stop if mark != "F" else start + 1):
            if cells[place] != "#" or mark in "F#":  # what ran for less than a column is still seen
                cells[place] = mark
    return cells
