"""Writes tests/data/opusd-vN.db, a registry as this version makes it: `python tests/store/old_registry.py`."""

import asyncio
from pathlib import Path

from opusd.core.job import Attempt, Edge, Job, On
from opusd.core.lifecycle import Status
from opusd.store import open_store
from opusd.store.base import Batch
from opusd.store.sqlite_open import shipped_migrations
from opusd.testing.records import FULL_OUTCOME, FULL_RUN, FULL_SPEC, FULL_TERMS, START, born, event, job


async def main() -> None:
    target = Path(__file__).parents[1] / "data" / f"opusd-v{shipped_migrations()[-1].number}.db"
    scratch = target.with_suffix(".scratch")
    store = await open_store(scratch)
    full = Job(
        id=7, status=Status.RUNNING, terms=FULL_TERMS, created_at=START, queued_at=START, run=FULL_RUN, attempts=2,
        key="nightly", ancestors=(1,), edges=(Edge(1), Edge(2, On.ANY)),
    )  # fmt: skip
    attempt = Attempt(job=7, agent="claude", run=FULL_RUN)
    changes = [
        born(job(1), event=event(1, 1)),
        born(job(2, Status.HELD)),
        born(full, spec=FULL_SPEC, outcome=FULL_OUTCOME, attempt=attempt, event=event(2, 7, detail={"a": 1})),
        born(job(9, Status.COMPLETED, key="old")),
    ]
    await store.commit(Batch(changes=changes, events=[event(3, kind="queue.paused")], settings={"paused": ["*"]}))
    await store.commit(Batch(pruned=[(9, False)]))
    await store.backup(target)
    await store.close()
    scratch.unlink()


if __name__ == "__main__":
    asyncio.run(main())
