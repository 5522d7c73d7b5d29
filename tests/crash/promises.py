"""What a daemon owes after it was struck: it is started again, brought to rest, and its registry is read.

Each broken promise is a sentence. `relax` allows what the end of a shim may rightly cost: its agent runs again.
"""

import asyncio
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing, suppress

from opus_client import AsyncClient, RpcError
from tests.crash.stage import marks
from tests.crash.workload import LONG, MUST_COMPLETE, SCHEDULE

BOUND = 20.0
OF_THE_MOMENT = {
    "reason",
    "score",
    "position",
    "ahead",
    "tier",
    "inherits",
    "dependents",
    "progress",
    "due_at",
    "workdir",
}
"""Fields of a Job that others change, or the time, without a new version."""
PRUNED = {"prompt", "command", "payload", "metadata", "env", "result", "error", "cwd", "usage", "session_id", "title"}


async def settle(socket, account):
    """After the restart: what was acknowledged is there. Then everything is brought to its end, within the bound."""
    broken = []
    async with AsyncClient(socket) as client:
        there = {job["id"]: job for job in (await client.call("job.list", full=True, limit=1000))["jobs"]}
        broken += list(kept(account, there))
        broken += await come_back(client, account)
        broken += await rest(client, account)
    return broken


def kept(account, there):
    """Each acknowledged Job is there, not in an older version, and in the same version it is the same."""
    pruned = {number for call in account.calls if call.method == "job.prune" for number in call.params["ids"]}
    for said in account.jobs():
        found = there.get(said["id"])
        passing = OF_THE_MOMENT | (PRUNED if said["id"] in pruned else set())
        if found is None:
            yield f"job {said['id']} was acknowledged as {said['status']} and is not there"
        elif found["version"] < said["version"]:
            yield f"job {said['id']} was acknowledged in version {said['version']} and is in {found['version']}"
        elif found["version"] == said["version"]:
            for name in said.keys() & found.keys() - passing:
                if said[name] != found[name]:
                    yield f"job {said['id']}: {name} was acknowledged as {said[name]!r} and is {found[name]!r}"


async def come_back(client, account):
    """What was refused for the disk's sake has not come to be; of what was not answered, all is there or nothing."""
    broken = []
    there = {job["key"] for job in (await client.call("job.list", limit=1000))["jobs"] if job["key"]}
    open_to_doubt = {key for call in account.unanswered() + account.answered() for key in keys_of(call)}
    for call in account.refused():
        broken += [f"{key} was refused and is there" for key in keys_of(call) if key in there - open_to_doubt]
    for call in account.calls:
        if call.method == "job.submit_batch":
            found = [key in there for key in keys_of(call)]
            if any(found) != all(found):
                broken.append(f"a part of the batch is there: {found}")
    for call in account.unanswered():
        if call.method == "job.submit" and "key" in call.params:
            again = await client.call("job.submit", **call.params)
            if again["created"] == (call.params["key"] in there):
                broken.append(f"{call.params['key']} was submitted again: created is {again['created']}")
    return broken


def keys_of(call):
    specs = {"job.submit": [call.params], "job.submit_batch": call.params.get("jobs", [])}.get(call.method, [])
    return [spec["key"] for spec in specs if "key" in spec]


async def rest(client, account):
    """Until every job is final. A worker gives back what it was given, and does what is left."""
    end = time.monotonic() + BOUND
    await client.call("queue.resume")
    for token, claim in account.claims.items():
        with suppress(RpcError):  # its lease is over, or it was complete and nobody heard
            await client.call("worker.complete", id=claim["job"]["id"], token=token)
    while time.monotonic() < end:
        owed = await owes(client)  # asked first: what fires after that is seen among those left
        left = (await client.call("job.list", limit=1000, status=[*ALIVE]))["jobs"]
        if not left and not owed:
            return []
        for job in left:
            with suppress(RpcError):
                await advance(client, job)
        taken = await client.call(
            "worker.claim", worker="rest", agents=["pull"], count=10, lease=2, wait=0 if left else 0.1
        )
        for claim in taken["claims"]:
            await client.call("worker.complete", id=claim["job"]["id"], token=claim["token"])
        if left:
            await client.call("job.wait", ids=[job["id"] for job in left], any=True, timeout=0.25)
    return [f"job {job['id']} ({job['key']}) is stuck as {job['status']}: {job['reason']}" for job in left]


async def owes(client):
    """Whether the firing that was due while no daemon ran is still to come: schedules are looked at after a start."""
    names = {one["name"] for one in (await client.call("schedule.list"))["schedules"]}
    keys = [job["key"] or "" for job in (await client.call("job.list", limit=1000))["jobs"]]
    return SCHEDULE in names and not any(key.startswith(f"schedule:{SCHEDULE}:") for key in keys)


ALIVE = ("held", "blocked", "scheduled", "queued", "running", "cancelling", "needs_input", "retrying")


async def advance(client, job):
    """What only a person can do for a job."""
    if job["key"] in LONG and job["status"] != "cancelling":
        await client.call("job.cancel", id=job["id"], grace=0)
    elif job["status"] == "held":
        await client.call("job.release", id=job["id"])
    elif job["status"] == "blocked" and any(edge["state"] == "unmet" for edge in job["depends_on"]):
        await client.call("job.cancel", id=job["id"])


# --- the registry, read when no daemon runs ---------------------------------------------------------------


def audit(place, work, account, *, relax=False):
    """The registry of a daemon that is gone, held against itself, the account, and what agents noted."""
    with closing(sqlite3.connect(place)) as db:
        db.row_factory = sqlite3.Row
        broken = [f"integrity_check: {line}" for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
        events = list(db.execute("SELECT * FROM events ORDER BY cursor"))
        jobs = {row["id"]: row for row in db.execute("SELECT * FROM jobs")}
        attempts = list(db.execute("SELECT * FROM attempts ORDER BY job, attempt"))
    broken += trail(events, jobs)
    broken += heard(events, account)
    broken += acknowledged(events, account)
    broken += ran(jobs, attempts, events)
    broken += effects(jobs, attempts, marks(work), relax=relax)
    expected = {key for call in account.answered() for key in keys_of(call)} & set(MUST_COMPLETE)
    status = {row["key"]: row["status"] for row in jobs.values()}
    broken += [f"{key} ended as {status.get(key)}" for key in sorted(expected) if status.get(key) != "completed"]
    return broken


def trail(events, jobs):
    """Cursors without a gap; for each job, a chain of from and to, down to the status that it has."""
    cursors = [event["cursor"] for event in events]
    if cursors and cursors != list(range(cursors[0], cursors[0] + len(cursors))):
        yield f"the cursors have gaps: {cursors}"
    last = {}
    for event in events:
        job, before, after = event["job"], event["from_status"], event["to_status"]
        if job is None or after is None:
            continue
        if job not in jobs:
            yield f"event {event['cursor']} is of job {job}, which is not there"
        if last.get(job) != before:
            yield f"event {event['cursor']} takes job {job} from {before}, where it was {last.get(job)}"
        last[job] = after
    for number, row in jobs.items():
        if last.get(number) != row["status"]:
            yield f"job {number} is {row['status']}, and its events leave it {last.get(number)}"
    ends = Counter(e["job"] for e in events if e["to_status"] == "completed" != e["from_status"])
    yield from (f"job {job} was completed {times} times" for job, times in ends.items() if times > 1)


def heard(events, account):
    """Every event that was delivered is in the registry, as it was delivered."""
    kept_events = {event["cursor"]: event for event in events}
    names = {"kind": "kind", "job": "job", "from": "from_status", "to": "to_status", "actor": "actor"}
    for event in account.events:
        row = kept_events.get(event["cursor"])
        if row is None:
            yield f"event {event['cursor']} ({event['kind']}, job {event['job']}) was delivered and is not there"
        elif any(event[said] != row[column] for said, column in names.items()):
            yield f"event {event['cursor']} was delivered as {event} and is {dict(row)}"


def acknowledged(events, account):
    """A job that a reply showed in a status has been in it."""
    been = {(event["job"], event["to_status"]) for event in events}
    for said in account.jobs():
        if (said["id"], said["status"]) not in been:
            yield f"job {said['id']} was shown as {said['status']} and never was"


def ran(jobs, attempts, events):
    """Each attempt is numbered, announced and over."""
    numbers = defaultdict(list)
    for row in attempts:
        numbers[row["job"]].append(row["attempt"])
        if row["ended_at"] is None:
            yield f"attempt {row['attempt']} of job {row['job']} never ended, and the job did"
    started = Counter(event["job"] for event in events if event["kind"] == "job.started")
    for number, row in jobs.items():
        if numbers[number] != list(range(1, row["attempts"] + 1)):
            yield f"job {number} has attempts {numbers[number]}, and counts {row['attempts']}"
        if started[number] != row["attempts"]:
            yield f"job {number} was started {started[number]} times in {row['attempts']} attempts"


def effects(jobs, attempts, noted, *, relax):
    """What agents did: only for attempts that are on disk, never two of one job at once, and no success twice."""
    known = {(row["job"], row["attempt"]) for row in attempts}
    begun = Counter((job, attempt) for word, job, attempt, _ in noted if word == "start")
    good = Counter(job for word, job, _, code in noted if word == "end" and code == 0)
    for word, job, attempt, _ in noted:
        if word == "overlap":
            yield f"attempt {attempt} of job {job} ran beside another"
        if (job, attempt) not in known:
            yield f"attempt {attempt} of job {job} ran, and the registry does not know it"
    yield from (f"attempt {attempt} of job {job} began {n} times" for (job, attempt), n in begun.items() if n > 1)
    for number, row in jobs.items():
        if row["agent"] != "exec" or (row["key"] or "").startswith("schedule:"):  # whose job notes nothing
            continue
        if good[number] > 1 and not relax:
            yield f"job {number} did its work {good[number]} times"
        if row["status"] == "completed" and not good[number]:
            yield f"job {number} is completed, and its work was never done"


def only_what_was_told(place, account):
    """When every commit fails from a moment on: nothing is on disk that was not told, and nothing else was told."""
    with closing(sqlite3.connect(place)) as db:
        there = {cursor for (cursor,) in db.execute("SELECT cursor FROM events")}
    more = there - {event["cursor"] for event in account.events}
    return [f"events {sorted(more)} are on disk, and nobody was told"] if more else []


def fired_once(place):
    """A firing that was due when the daemon was started is one job, however often it was started."""
    with closing(sqlite3.connect(place)) as db:
        keys = [key for (key,) in db.execute("SELECT key FROM jobs WHERE key LIKE ?", (f"schedule:{SCHEDULE}:%",))]
    return [] if len(keys) == len(set(keys)) and keys else [f"the schedule fired as {keys}"]


def run_settle(socket, account):
    return asyncio.run(settle(socket, account))
