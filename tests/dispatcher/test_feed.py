"""Events for subscribers: what is kept and what comes, in one line without a gap, whatever happens in between."""

import asyncio
import itertools
import json
import random

import pytest

from opusd.api import params as p
from opusd.core.errors import NotFound, StorageUnavailable
from opusd.dispatcher import feed as module
from opusd.dispatcher.feed import Feed
from opusd.dispatcher.upkeep import Upkeep
from opusd.store.base import CommitFailed
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, cancelling, noting, submitting, turns


class Session:
    def __init__(self, caller=PERSON):
        self.caller = caller
        self.turn = asyncio.Lock()


class Ear:
    """A sink that takes its time: `room` lasts for as many turns of the loop as `pace()` says."""

    def __init__(self, number=1, pace=lambda: 0):
        self.subscription = number
        self.closed = False
        self.on_close = None
        self.events = []
        self.heard = asyncio.Event()
        self._pace = pace

    def __call__(self, cursor, event):
        assert not self.closed
        event = json.loads(event)
        assert event["cursor"] == cursor
        self.events.append(event)
        self.heard.set()

    def tell(self, events):
        for cursor, event in events:
            self(cursor, event)

    async def room(self):
        await turns(self._pace())

    @property
    def cursors(self):
        return [event["cursor"] for event in self.events]

    async def until(self, count):
        async with asyncio.timeout(BOUND):
            while len(self.events) < count:
                self.heard.clear()
                await self.heard.wait()

    def close(self):
        self.closed = True
        self.on_close()


@pytest.fixture
async def feed(engines):
    feed = Feed(0)
    feed.attach(engines.desk)
    engines.watchers.append(feed.released)
    await engines.begin(dispatch=False)
    return feed


async def subscribe(feed, ear, **wanted):
    async with asyncio.timeout(BOUND):
        return await feed.events_subscribe(Session(), p.EventsSubscribe(**wanted), ear)


async def test_a_new_subscriber_hears_what_comes_from_now_on(engines, feed):
    await engines.submit()
    ear = Ear()
    assert (await subscribe(feed, ear)).cursor == 1
    await engines.submit()
    assert ear.cursors == [2]


async def test_a_subscriber_from_0_hears_all_that_is_kept_and_then_what_comes(engines, feed, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 2)
    for _ in range(5):
        await engines.submit()
    ear = Ear()
    assert (await subscribe(feed, ear, since=0)).cursor == 0
    await ear.until(5)
    await engines.submit()
    assert ear.cursors == [1, 2, 3, 4, 5, 6]


async def test_nothing_is_heard_before_it_is_on_disk(engines, feed):
    live, late = Ear(1), Ear(2)
    await subscribe(feed, live)
    engines.store.hold()
    submitted = asyncio.create_task(engines.submit())
    await engines.store.came(1)
    asking = asyncio.create_task(subscribe(feed, late, since=0))
    await turns(20)
    assert (live.events, late.events, asking.done()) == ([], [], False)
    engines.store.open_door()
    await submitted
    await asking
    await late.until(1)
    assert live.cursors == late.cursors == [1]


async def test_who_catches_up_while_a_commit_is_on_disk_and_not_yet_told_of_hears_it_once(engines, feed, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 1)
    for _ in range(3):
        await engines.submit()
    ear = Ear(pace=lambda: 20)
    await subscribe(feed, ear, since=0)
    engines.store.told.clear()
    submitted = asyncio.create_task(engines.submit())
    await engines.store.wrote(4)
    await ear.until(3)
    await turns(200)
    assert (ear.cursors, submitted.done()) == ([1, 2, 3], False)
    engines.store.told.set()
    await submitted
    await engines.engine.drained()
    assert ear.cursors == [1, 2, 3, 4]


async def test_what_a_failed_commit_took_back_is_never_heard_and_its_cursor_is_used_again(engines, feed):
    ear = Ear()
    await subscribe(feed, ear)
    engines.store.fail_next = [CommitFailed("full")]
    engines.writer.fact(noting("first"))
    with pytest.raises(Exception, match="can't be written"):
        await engines.submit()
    assert ear.events == []
    await engines.recovers(0.25)
    await ear.until(1)
    assert [(event["cursor"], event["kind"]) for event in ear.events] == [(1, "first")]


async def test_a_cursor_after_the_last_or_before_the_oldest_is_not_found(engines, feed):
    await engines.submit()
    with pytest.raises(NotFound) as caught:
        await subscribe(feed, Ear(), since=2)
    assert caught.value.data["cursor"] == 1
    await subscribe(feed, Ear(), since=1)


async def test_who_has_left_hears_nothing_more_and_its_catching_up_ends(engines, feed, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 1)
    for _ in range(5):
        await engines.submit()
    ear = Ear(pace=lambda: 5)
    await subscribe(feed, ear, since=0)
    await ear.until(2)
    ear.close()
    async with asyncio.timeout(BOUND):
        await engines.engine.drained()
    await engines.submit()
    assert len(ear.events) == 2


async def test_a_subscriber_to_a_group_hears_of_its_pruned_jobs_too_live_as_afterwards(engines, feed, tmp_path):
    job = await engines.submit(group="g")
    await engines.submit(group="other")
    for number in (1, 2):
        await engines.writer.command(cancelling(number), PERSON.actor)
    live, late = Ear(1), Ear(2)
    await subscribe(feed, live, group="g")
    upkeep = Upkeep(engines.desk, tmp_path, engines.workdirs, finished=None, history=None, every=60.0, log=engines.say)
    await upkeep.job_prune(Session(), p.JobPrune(ids=[job.id, 2]))
    await subscribe(feed, late, since=4, group="g")
    await engines.submit(group="g")
    await engines.submit()
    await engines.engine.drained()
    assert live.cursors == late.cursors == [5, 7]


@pytest.fixture
def slowly(monkeypatch):
    """A turn of the loop tells four things."""
    monkeypatch.setattr(module, "_TOGETHER", 2)
    monkeypatch.setattr(module, "_TURN", 4)


async def test_a_crowd_is_told_in_turns_in_which_others_have_theirs(engines, feed, slowly):
    ears = [Ear(number) for number in range(10)]
    for ear in ears:
        await subscribe(feed, ear)
    for kind in "abc":
        engines.writer.fact(noting(kind))
    settled = asyncio.create_task(engines.desk.settled())
    heard = []
    while sum(len(ear.events) for ear in ears) < 30:
        heard.append(sum(len(ear.events) for ear in ears))
        await turns(1)
    assert settled.done()
    assert heard == sorted(heard)
    assert max(after - before for before, after in itertools.pairwise([*heard, 30])) <= 8
    assert [ear.cursors for ear in ears] == [[1, 2, 3]] * 10


async def test_who_comes_while_a_crowd_is_told_hears_none_of_it(engines, feed, slowly):
    ears = [Ear(number) for number in range(10)]
    for ear in ears:
        await subscribe(feed, ear)
    await engines.submit()
    late = Ear(11)
    assert (await subscribe(feed, late)).cursor == 1
    assert ears[-1].events == []
    await engines.submit()
    await late.until(1)
    assert late.cursors == [2]
    assert [ear.cursors for ear in ears] == [[1, 2]] * 10


async def test_a_crowd_that_can_not_be_told_as_fast_as_things_happen_reads_on_in_the_registry(
    engines, feed, slowly, monkeypatch
):
    monkeypatch.setattr(module, "_BEHIND", 10)
    ears = [Ear(number) for number in range(20)]
    for ear in ears:
        await subscribe(feed, ear)
    for _ in range(40):
        engines.writer.fact(noting("x"))
    await engines.desk.settled()
    assert len(feed._waiting) <= 10
    for ear in ears:
        await ear.until(40)
    await engines.submit()
    await ears[-1].until(41)
    assert [ear.cursors for ear in ears] == [list(range(1, 42))] * 20


async def test_who_leaves_while_a_crowd_is_told_hears_nothing_more(engines, feed, slowly):
    ears = [Ear(number) for number in range(10)]
    for ear in ears:
        await subscribe(feed, ear)
    await engines.submit()
    ears[9].close()
    await ears[8].until(1)
    await turns(5)
    assert ears[9].events == []


@pytest.mark.parametrize("seed", range(12))
async def test_whenever_it_began_a_subscriber_misses_nothing_and_hears_nothing_twice(engines, feed, seed, monkeypatch):
    """Random commits and subscriptions, page sizes, turns and paces, all at once."""
    chance = random.Random(seed)
    engines.store.linger = lambda: chance.randrange(40)
    for name, most in (("_PAGE", 6), ("_TOGETHER", 4), ("_TURN", 8), ("_BEHIND", 30)):
        monkeypatch.setattr(module, name, chance.randint(1, most))
    ears = []

    async def listen(number):
        ear = Ear(number, pace=lambda: chance.randrange(4))
        wanted = {"since": chance.choice([None, 0, chance.randint(0, feed.cursor)])}
        if chance.random() < 0.3:
            wanted["kinds"] = chance.choice([["x"], ["job.submitted"], ["x", "job.cancelled"], ["never"]])
        if chance.random() < 0.2:
            wanted["group"] = "g"
        begun = await subscribe(feed, ear, **wanted)
        ears.append((ear, begun.cursor, wanted))

    tasks = []
    for step in range(150):
        act = chance.random()
        if act < 0.15 and len(tasks) < 12:
            tasks.append(asyncio.create_task(listen(step)))
        elif act < 0.5:
            engines.writer.fact(noting(chance.choice("xy")))
        elif act < 0.85:
            engines.writer.fact(submitting(group=chance.choice(["g", None])))
        elif engines.state.jobs:
            engines.writer.fact(cancelling(chance.choice(sorted(engines.state.jobs))))
        if chance.random() < 0.02:
            engines.store.fail_next = [CommitFailed("full")]
        await turns(chance.randrange(6))
        if engines.writer.degraded is not None:
            engines.clock.advance(5)
    async with asyncio.timeout(BOUND):
        while engines.writer.degraded is not None or not all(task.done() for task in tasks):
            engines.clock.advance(5)
            await turns(1)
        await asyncio.gather(*tasks)
        await engines.desk.settled()
        await engines.engine.drained()
        while feed._waiting or feed._together:
            await turns(1)
        await engines.engine.drained()
    whole = await engines.store.events(0, 10_000)
    groups = {record.job.id: record.job.terms.group for record in await engines.store.records(range(1, 200))}
    assert len(ears) >= 5
    for ear, since, wanted in ears:
        kinds, group = wanted.get("kinds"), wanted.get("group")
        assert ear.cursors == [
            event.cursor
            for event in whole
            if event.cursor > since
            and (kinds is None or event.kind in kinds)
            and (group is None or (event.job is not None and groups[event.job] == group))
        ], wanted


async def test_who_catches_up_goes_on_when_the_registry_can_be_read_again(engines, feed, monkeypatch):
    for _ in range(3):
        await engines.submit()
    read, failures = engines.store.events, [StorageUnavailable("disk I/O error")] * 2

    async def events(*arguments, **options):
        if failures:
            raise failures.pop()
        return await read(*arguments, **options)

    monkeypatch.setattr(engines.store, "events", events)
    ear = Ear()
    await subscribe(feed, ear, since=0)
    for _ in range(2):
        async with asyncio.timeout(BOUND):
            await engines.clock.until_waiting()
        engines.clock.advance(1)
    await ear.until(3)
    await engines.submit()
    assert ear.cursors == [1, 2, 3, 4]
