"""What a job's history shows of one that was tried without end."""

import asyncio
from types import SimpleNamespace

from opusd.api import params as p
from opusd.dispatcher import reads
from opusd.dispatcher.tally import Tally
from opusd.store.base import Snapshot
from tests.core.world import PERSON


async def test_of_very_many_attempts_the_newest_are_shown_and_it_says_so(engines, monkeypatch):
    await engines.begin()
    await engines.submit()
    for attempt in range(1, 4):
        await engines.launched(attempt)
        engines.pool.never_ran(1, attempt)
    await engines.launched(4)  # it stays so: nothing else is to happen
    verbs = reads.ReadVerbs(engines.desk, Tally(Snapshot([], 0, 0, {})), engines.pool.read_output, lambda *_: None)

    async def history():
        return await verbs.job_history(SimpleNamespace(caller=PERSON, turn=asyncio.Lock()), p.JobHistory(id=1))

    whole = await history()
    assert whole.truncated is False
    monkeypatch.setattr(reads, "_ATTEMPTS", 2)
    newest = await history()
    assert newest.attempts == whole.attempts[-2:]
    assert newest.truncated is True
