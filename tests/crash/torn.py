"""The registry of a killed daemon, its log torn: what a disk may leave of it after the power went.

The log is cut at each 4 KiB of its last MiB, or holds zeros from there on. Opened by our store it must give a beginning
of the history, whole to some transaction, with the jobs as those events leave them.
"""

import asyncio
import shutil
import sqlite3
from contextlib import closing

from opusd.store.sqlite import SqliteStore
from tests.crash.promises import trail
from tests.crash.stage import Stage
from tests.crash.workload import CONFIG, Account, perform

STEP = 4096
LAST = 1 << 20


def run(folder, *, every=1):
    """How many torn logs were opened, and what was wrong with each that was not as it should be."""
    source = folder / "torn"
    source.mkdir()
    killed(source)
    whole = history(source / "opusd.db")
    size = (source / "opusd.db-wal").stat().st_size
    places = range(max(0, size - LAST) // STEP * STEP, size, STEP * every)
    wrong = []
    for place in places:
        for zeros in (0, size - place):
            copy = folder / "copy"
            copy.mkdir()
            shutil.copy(source / "opusd.db", copy)
            with (source / "opusd.db-wal").open("rb") as log:
                copy.joinpath("opusd.db-wal").write_bytes(log.read(place) + bytes(zeros))
            found = asyncio.run(opened(copy / "opusd.db", whole))
            wrong += [f"the log {'zeroed' if zeros else 'cut'} at {place} of {size}: {line}" for line in found]
            shutil.rmtree(copy)
    return 2 * len(places), wrong


def killed(place):
    """The files of a daemon that was killed after the workload, its log not yet written back."""
    house = place / "house"
    house.mkdir()
    stage, account = Stage(house, None, CONFIG), Account()
    try:
        stage.start()
        asyncio.run(perform(stage.socket, stage.work, account))
        stage.kill()
        for name in ("opusd.db", "opusd.db-wal"):
            shutil.copy(stage.state / name, place)
    finally:
        stage.remove()
    assert account.finished


def history(path):
    """The events of a registry, read from a copy that is then thrown away."""
    copy = path.with_name("whole")
    copy.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.with_name(name), copy)
    events, _ = read(copy / path.name)
    shutil.rmtree(copy)
    return events


def read(path):
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        events = [dict(row) for row in db.execute("SELECT * FROM events ORDER BY cursor")]
        return events, {row["id"]: dict(row) for row in db.execute("SELECT * FROM jobs")}


async def opened(path, whole):
    store = SqliteStore(path)
    try:
        await store.open()
        snapshot = await store.load_active()
    finally:
        await store.close()
    events, jobs = read(path)
    broken = list(trail(events, jobs))
    if events != whole[: len(events)]:
        broken.append("its events are no beginning of the history")
    if snapshot.last_event != (events[-1]["cursor"] if events else 0):
        broken.append(f"the store says that the last event is {snapshot.last_event}")
    unfinished = {number: row["status"] for number, row in jobs.items() if row["completed_at"] is None}
    if {job.id: job.status.value for job in snapshot.jobs} != unfinished:
        broken.append("the store loads other jobs than there are")
    return broken
