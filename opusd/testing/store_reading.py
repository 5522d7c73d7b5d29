"""The half of the conformance suite that asks and prunes. See `opusd.testing.stores`."""

from __future__ import annotations

from typing import Any

import msgspec

from opusd.core.job import (
    Attempt,
    Change,
    Edge,
    EdgeState,
    Event,
    On,
    Source,
    Spec,
    Terms,
    Tier,
)
from opusd.core.lifecycle import Status
from opusd.store.base import Batch, CommitRefused, Forgotten, Query, Record, Store, sort_values
from opusd.testing.records import (
    FULL_OUTCOME,
    FULL_SPEC,
    START,
    born,
    changed,
    event,
    ids_of,
    job,
    record_of,
    refused,
    run,
)


class Reading:
    """Each test takes an empty store that is open."""

    # --- queries ---

    async def test_each_filter_of_a_query_selects_what_it_says(self, store: Store) -> None:
        other = Terms(tier=Tier.LOW, agent="codex", type="bug", source=Source.AUTOMATED, group="g")
        child = job(4, Status.FAILED, ancestors=(1, 2), started_at=START + 50, completed_at=START + 70)
        plain = [born(job(1)), born(job(2, Status.COMPLETED, ancestors=(1,))), born(job(3, Status.HELD, terms=other))]
        labelled = born(child, spec=Spec(title="x", labels=["for:ana", "b"], prompt="100%_ÄÖ Kelvin Straße S"))
        await store.commit(Batch(changes=[*plain, labelled]))
        assert await ids_of(store) == [4, 3, 2, 1]
        assert await ids_of(store, ids=(1, 4, 9)) == [4, 1]
        assert await ids_of(store, ids=()) == []
        assert await ids_of(store, status=("queued", "held")) == [3, 1]
        assert await ids_of(store, status=("queued", "failed")) == [4, 1]
        assert await ids_of(store, status=("held",), order="id", tier=(0, 2)) == [3]
        assert await ids_of(store, type=("bug",)) == await ids_of(store, agent=("codex", "pi")) == [3]
        assert await ids_of(store, source=("automated",)) == await ids_of(store, group="g") == [3]
        assert await ids_of(store, label="b") == [4]
        assert await ids_of(store, label="for") == []
        assert await ids_of(store, parent=1) == [2]
        assert await ids_of(store, parent=2) == [4]
        assert await ids_of(store, since=START + 2, until=START + 4) == [3, 2]
        assert await ids_of(store, since=START + 50, time="started") == [4]
        assert await ids_of(store, until=START + 71, time="completed") == [4]
        assert await ids_of(store, dead=True) == [4]
        for part, found in {
            "%_": [4],
            "äö k": [4],
            "JOB 3": [3],
            "KELVIN": [4],
            "STRASSE": [4],
            "kelvin straße ſ": [4],
            "x%": [],
            "'": [],
            "DO IT": [3, 2, 1],
        }.items():
            assert await ids_of(store, text=part) == found, part

    async def test_pages_in_each_order_miss_nothing_and_repeat_nothing(self, store: Store) -> None:
        ends = {1: 50, 2: None, 3: 20, 4: 50, 5: None, 6: 10, 7: 50}
        jobs = [
            job(number) if end is None else job(number, Status.COMPLETED, completed_at=START + end)
            for number, end in ends.items()
        ]
        await store.commit(Batch(changes=[born(one) for one in jobs]))
        orders = {
            "id": [1, 2, 3, 4, 5, 6, 7],
            "-id": [7, 6, 5, 4, 3, 2, 1],
            "completed_at": [6, 3, 1, 4, 7, 2, 5],
            "-completed_at": [7, 4, 1, 3, 6, 5, 2],
        }
        for order, expected in orders.items():
            for size in (1, 2, 3, 7):
                seen: list[int] = []
                after = None
                while page := await store.query(Query(order=order, after=after, limit=size)):
                    seen += [record.job.id for record in page]
                    after = sort_values(order, page[-1].job)
                assert seen == expected, (order, size)

    async def test_dependents_and_trees_count_over_finished_jobs_too(self, store: Store) -> None:
        up, down = job(1), job(3, Status.COMPLETED, edges=(Edge(1), Edge(1, On.ANY)), ancestors=(1, 2))
        await store.commit(Batch(changes=[born(up), born(job(2, ancestors=(1,), edges=(Edge(1),))), born(down)]))
        assert [record.dependents for record in await store.records([1, 2])] == [(2, 3), ()]
        assert [await store.tree_size(number) for number in (1, 2, 3)] == [2, 1, 0]

    async def test_durations_are_those_of_what_completed_last(self, store: Store) -> None:
        def done(number: int, seconds: int, **fields: Any) -> Change:
            return born(job(number, Status.COMPLETED, started_at=START, completed_at=START + seconds, **fields))

        bug = Terms(type="bug")
        failed = born(job(4, Status.FAILED, started_at=START))
        unstarted = born(job(5, Status.COMPLETED))
        await store.commit(Batch(changes=[done(1, 30), done(2, 10), done(3, 20, terms=bug), failed, unstarted]))
        assert await store.durations("exec", None) == [30, 20, 10]
        assert await store.durations("exec", "bug") == [20]
        assert await store.durations("codex", None) == []
        await store.commit(Batch(changes=[done(number, number) for number in range(100, 160)]))
        assert await store.durations("exec", "task") == list(range(159, 109, -1))

    # --- pruning ---

    async def test_pruning_takes_what_is_large_and_leaves_what_is_told_later(self, store: Store) -> None:
        attempt = Attempt(job=1, agent="exec", run=run(), ended_at=START, failure="agent_error", message="kept")
        dead = job(1, Status.FAILED, key="k")
        checked = msgspec.structs.replace(FULL_OUTCOME, branch="opus/1-app", verify_output="1 failed")
        change = Change(before=None, after=dead, spec=FULL_SPEC, outcome=checked, attempt=attempt, event=event(1, 1))
        await store.commit(Batch(changes=[change]))
        await store.commit(Batch(pruned=[(1, False)], events=[event(2, 1, kind="job.pruned")]))
        spec = msgspec.structs.replace(FULL_SPEC, prompt=None, command=None, payload={}, metadata={}, env={})
        outcome = msgspec.structs.replace(checked, result=None, verify_output=None)
        assert await store.records([1]) == [Record(dead, spec, outcome, pruned=True)]
        assert await ids_of(store, dead=True) == []  # there is nothing left to run again
        assert await store.attempts(1) == [attempt]
        assert await store.by_key(["k"]) == {}
        assert await store.prunable(START * 2, [], 10) == []
        await store.commit(Batch(changes=[born(job(2, key="k"))]))
        assert (await record_of(store, 1)).job.key == "k"
        assert (await store.by_key(["k"]))["k"][0] == 2
        await store.commit(Batch(pruned=[(1, True)]))
        assert (await record_of(store, 1)).job.key is None

    async def test_a_pruned_job_never_comes_back(self, store: Store) -> None:
        dead = job(1, Status.FAILED)
        await store.commit(Batch(changes=[born(dead)]))
        await store.commit(Batch(pruned=[(1, False)]))
        with refused(CommitRefused):
            await store.commit(Batch(changes=[changed(dead, Status.QUEUED, queued_at=START)]))
        assert (await record_of(store, 1)).job == dead

    async def test_a_pruned_key_may_be_taken_in_the_same_batch(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(1, Status.COMPLETED, key="k"))]))
        await store.commit(Batch(changes=[born(job(2, key="k"))], pruned=[(1, True)]))
        assert (await store.by_key(["k"]))["k"][0] == 2

    async def test_a_job_may_end_and_be_pruned_in_one_batch(self, store: Store) -> None:
        one = job(1)
        await store.commit(Batch(changes=[born(one)]))
        ended = changed(one, Status.CANCELLED, outcome=FULL_OUTCOME)
        await store.commit(Batch(changes=[ended], pruned=[(1, False)]))
        record = await record_of(store, 1)
        assert (record.pruned, record.spec.prompt, record.outcome.result) == (True, None, None)

    async def test_what_an_unfinished_job_waits_for_is_not_prunable(self, store: Store) -> None:
        ended = [job(number, Status.COMPLETED, completed_at=START + 100 - number) for number in (1, 2, 3)]
        failed = job(4, Status.FAILED, completed_at=START + 1)
        waiting = job(5, Status.BLOCKED, edges=(Edge(2), Edge(4, state=EdgeState.UNMET)))
        await store.commit(Batch(changes=[born(one) for one in (*ended, failed, waiting)]))
        assert await store.prunable(START * 2, [], 10) == [3, 1]
        assert await store.prunable(START * 2, [], 1) == [3]
        assert await store.prunable(START + 99, [], 10) == [3]
        await store.commit(Batch(changes=[changed(waiting, Status.CANCELLED)]))
        assert await store.prunable(START * 2, ["failed", "cancelled"], 10) == [4, 5]

    async def test_forgetting_removes_old_pruned_jobs_and_the_oldest_events(self, store: Store) -> None:
        dead = [job(number, Status.FAILED, ancestors=tuple(range(1, number))) for number in (1, 2, 3)]
        attempt = Attempt(job=2, agent="exec", run=run(), ended_at=START)
        under_way = Attempt(job=1, agent="claude", run=run())
        changes = [born(one, event=event(one.id, one.id)) for one in dead]
        changes[0] = msgspec.structs.replace(changes[0], attempt=under_way)
        changes[1] = msgspec.structs.replace(changes[1], attempt=attempt)
        young = Event(cursor=4, time=START * 2, kind="daemon.started")
        late = [event(5), event(6)]
        await store.commit(Batch(changes=changes, events=[young, *late], pruned=[(1, True), (2, True)]))
        assert await store.forget(START, 10) == Forgotten()
        assert await store.forget(START + 1000, 1) == Forgotten({"failed": 1})
        assert await store.tree_size(1) == 2
        assert await ids_of(store) == [3, 2]
        assert await store.forget(START + 1000, 3) == Forgotten({"failed": 1}, events=2, attempts={"exec": (1, 1)})
        assert (await ids_of(store), await store.attempts(2)) == ([3], [])
        assert await store.oldest_event() == 3
        assert await store.forget(START + 1000, 10) == Forgotten(events=1)
        assert await store.events(0, 10) == [young, *late]
        assert await store.forget(START * 3, 10) == Forgotten(events=2)
        assert await store.events(0, 10) == [late[1]]
        assert await store.forget(START * 3, 10) == Forgotten()
        snapshot = await store.load_active()
        assert (snapshot.last_job, snapshot.last_event) == (3, 6)

    async def test_the_history_of_a_job_is_its_newest_events(self, store: Store) -> None:
        events = [event(number, 1 if number % 2 else 2) for number in range(1, 10)]
        await store.commit(Batch(changes=[born(job(1)), born(job(2))], events=events))
        assert await store.history(1, 9) == events[::2]
        assert await store.history(1, 2) == events[6::2]

    async def test_what_exists_and_is_not_pruned_is_told(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(1, Status.FAILED)), born(job(2)), born(job(3, Status.FAILED))]))
        await store.commit(Batch(pruned=[(3, True)]))
        assert await store.unpruned([4, 3, 2]) == {2}

    async def test_a_forgotten_id_is_never_given_again(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(8, Status.FAILED))]))
        await store.commit(Batch(pruned=[(8, True)]))
        assert await store.forget(START * 2, 10) == Forgotten({"failed": 1})
        assert (await store.load_active()).last_job == 8
