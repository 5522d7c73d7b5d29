"""Jobs, changes and events for tests, each with what its status demands; and looks into a store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.core.job import (
    Change,
    Ending,
    Event,
    Extra,
    Job,
    Outcome,
    Question,
    Run,
    Source,
    Spec,
    Terms,
    Tier,
)
from opusd.core.lifecycle import Status
from opusd.core.retry import FailureClass, Policy, Strategy
from opusd.store.base import Query, Record, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

START = 1_767_225_600_000_000
FULL_TERMS = Terms(
    tier=Tier.URGENT,
    boost=-16,
    agent="claude",
    type="révision",
    source=Source.AGENT,
    group="mission: €",
    interactive=True,
    needs=(("gpu", 2), ("repo:/srv/app", 1)),
    timeout=90_000_000,
    expires_in=3_600_000_000,
    retry=Policy(Strategy.FIBONACCI, 60_000_000, 3_600_000_000, 0.1, 5, (FailureClass.OOM, FailureClass.TIMEOUT)),
    route="reviews",
    submitted_by="job:41",
)
FULL_SPEC = Spec(
    title="Look at this: 'quotes', 100 %_ \\ and ünïcödé 🐙",
    prompt="first line\nsecond line\tΣίσυφος",
    command=["printf", "%s", "a b"],
    payload={"n": 2**63 - 1, "f": 0.1, "deep": [{"null": None}]},
    metadata={"": "empty name"},
    labels=["for:ana", "a,b"],
    cwd="/srv/app",
    env={"A": "1", "B": {"from_env": "C"}},
    worktree=True,
    verify=["make", "test"],
    digest=bytes(range(32)),
)
FULL_OUTCOME = Outcome(
    result={"summary": "done", "data": {"x": [1, 2.5]}},
    error={"class": "agent_error", "message": "no", "exit_code": 3, "signal": None},
    usage={"input_tokens": 1, "cost_usd": 0.25},
    session_id="s-1",
    workdir="/srv/app-1",
)
FULL_EXTRA = Extra(
    limits=2,
    failures=3,
    asked=1,
    question=Question(1, "Which one?", ("this", "that"), START + 99),
    answered=True,
    fresh=True,
    escalated_from=4,
    escalated_to=5,
)
FULL_RUN = Run(
    attempt=2,
    attempt_id="0123456789abcdef",
    token_hash=bytes(range(100, 132)),
    slot=3,
    over=True,
    started_at=START + 5,
    timeout_at=START + 10,
    ending=Ending.CANCEL,
    kill_at=START + 11,
    ending_by="user:1000",
    ending_reason="enough",
    worker="w1",
    lease_until=START + 12,
)


def job(id_: int, status: Status = Status.QUEUED, **fields: Any) -> Job:
    """A job with what its status demands."""
    at = START + id_
    fields.setdefault("created_at", at)
    fields.setdefault("terms", Terms())
    if status is Status.QUEUED:
        fields.setdefault("queued_at", at)
    if status is Status.SCHEDULED:
        fields.setdefault("run_at", at + 10)
    if status is Status.RETRYING:
        fields.setdefault("due_at", at + 10)
    if status in (Status.RUNNING, Status.CANCELLING):
        fields.setdefault("run", run())
    if status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED):
        fields.setdefault("completed_at", at + 100)
    return Job(id=id_, status=status, **fields)


def run(attempt: int = 1) -> Run:
    return Run(
        attempt=attempt, attempt_id=f"{attempt:032x}", token_hash=b"\0" * 32, slot=1, over=False, started_at=START
    )


def born(new: Job, **fields: Any) -> Change:
    fields.setdefault("spec", Spec(title=f"job {new.id}", prompt="do it"))
    return Change(before=None, after=new, **fields)


def changed(before: Job, status: Status | None = None, **fields: Any) -> Change:
    """The next version of a job, with what its status demands."""
    old = msgspec.structs.asdict(before)
    for name in ("id", "status"):
        del old[name]
    status = status or before.status
    if status is not before.status:
        for name in ("run", "completed_at"):
            del old[name]
    own = {name: fields.pop(name) for name in ("spec", "outcome", "attempt", "event") if name in fields}
    return Change(
        before=before, after=job(before.id, status, **{**old, "version": before.version + 1, **fields}), **own
    )


def event(cursor: int, of: int | None = None, **fields: Any) -> Event:
    return Event(cursor=cursor, time=START + cursor, job=of, **{"kind": "job.submitted", **fields})


@contextmanager
def refused(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def everything(store: Store) -> dict[str, Any]:
    """All that can be read, for comparing two stores."""
    snapshot = await store.load_active()
    records = await store.query(Query(order="id", limit=1_000_000))
    keys = [record.job.key for record in records if record.job.key is not None]
    return {
        "active": list(snapshot.jobs),
        "last_job": snapshot.last_job,
        "last_event": snapshot.last_event,
        "settings": snapshot.settings,
        "records": records,
        "events": await store.events(0, 1_000_000),
        "oldest": await store.oldest_event(),
        "keys": await store.by_key(keys),
        "attempts": {record.job.id: await store.attempts(record.job.id) for record in records},
        "unpruned": await store.unpruned([record.job.id for record in records]),
        "histories": {record.job.id: await store.history(record.job.id, 3) for record in records},
        "trees": {record.job.id: await store.tree_size(record.job.id) for record in records},
    }


async def ids_of(store: Store, **asked: Any) -> list[int]:
    return [record.job.id for record in await store.query(Query(**asked))]


async def record_of(store: Store, id_: int) -> Record:
    [record] = await store.records([id_])
    return record


async def active_of(store: Store) -> list[Job]:
    return list((await store.load_active()).jobs)
