"""What every store must do, as tests; and a store whose commits fail when a test says so.

`Conformance` is a class of coroutine tests that each take an open, empty `store`; a test module makes a
subclass, and a fixture of that name. It imports no test framework, and knows no particular store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from opusd.core.errors import Conflict, InvalidParams
from opusd.core.job import (
    Attempt,
    Change,
    Edge,
    EdgeState,
    IfUnmet,
    Job,
    On,
    Outcome,
    Spec,
    Terms,
)
from opusd.core.lifecycle import Status
from opusd.core.retry import PRESETS, FailureClass
from opusd.store.base import Batch, CommitFailed, CommitRefused, Detail, Forgotten, Query, Record, Store
from opusd.testing.records import (
    FULL_EXTRA,
    FULL_OUTCOME,
    FULL_RUN,
    FULL_SPEC,
    FULL_TERMS,
    START,
    active_of,
    born,
    changed,
    event,
    everything,
    job,
    record_of,
    refused,
    run,
)
from opusd.testing.store_reading import Reading

if TYPE_CHECKING:
    from pathlib import Path


class FailingStore:
    """A store around another: each of `fail_next` is raised by one commit, which then changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fail_next: list[Exception] = []
        self.open = store.open
        self.close = store.close
        self.load_active = store.load_active
        self.records = store.records
        self.details = store.details
        self.by_key = store.by_key
        self.query = store.query
        self.attempts = store.attempts
        self.unpruned = store.unpruned
        self.history = store.history
        self.tree_size = store.tree_size
        self.events = store.events
        self.oldest_event = store.oldest_event
        self.durations = store.durations
        self.prunable = store.prunable
        self.forget = store.forget
        self.backup = store.backup
        self.facts = store.facts

    async def commit(self, batch: Batch) -> None:
        if self.fail_next:
            raise self.fail_next.pop(0)
        await self._store.commit(batch)


# --- the suite ------------------------------------------------------------------------------------------


class Keeping:
    """Each test takes an empty store that is open."""

    async def test_an_empty_store_has_nothing(self, store: Store) -> None:
        snapshot = await store.load_active()
        assert (list(snapshot.jobs), snapshot.last_job, snapshot.last_event, snapshot.settings) == ([], 0, 0, {})
        assert await store.events(0, 10) == []
        assert await store.oldest_event() == 0
        assert await store.records([1]) == []
        assert await store.by_key(["k"]) == {}
        assert await store.query(Query()) == []
        assert await store.attempts(1) == []
        assert await store.unpruned([1]) == set()
        assert await store.history(1, 10) == []
        assert await store.tree_size(1) == 0
        assert await store.durations("exec", None) == []
        assert await store.prunable(START * 2, [], 10) == []
        assert await store.forget(START * 2, 10) == Forgotten()

    async def test_an_empty_batch_is_no_change(self, store: Store) -> None:
        await store.commit(Batch())
        assert (await everything(store))["records"] == []

    async def test_every_field_of_a_record_comes_back_as_it_was(self, store: Store) -> None:
        edges = (Edge(1), Edge(2, On.FAILURE, IfUnmet.CANCEL, EdgeState.UNMET), Edge(1, On.ANY, IfUnmet.RUN))
        full = Job(
            id=7,
            version=12,
            status=Status.CANCELLING,
            terms=msgspec.structs.replace(FULL_TERMS, policy=PRESETS["slow"], labels=("a", "b,c")),
            created_at=START,
            queued_at=START + 1,
            run_at=START + 2,
            due_at=START + 3,
            started_at=START + 4,
            key="nightly/é",
            ancestors=(1, 4, 5),
            edges=edges,
            attempts=2,
            retries=1,
            losses=3,
            extra=FULL_EXTRA,
            run=FULL_RUN,
        )
        attempt = Attempt(job=7, agent="claude", run=FULL_RUN)
        happened = event(
            1, 7, attempt=2, before="queued", after=Status.CANCELLING, actor="user:1000", detail={"a": [None]}
        )
        change = Change(before=None, after=full, spec=FULL_SPEC, outcome=FULL_OUTCOME, attempt=attempt, event=happened)
        await store.commit(Batch(changes=[change]))
        assert await store.records([7]) == [Record(full, FULL_SPEC, FULL_OUTCOME)]
        assert await active_of(store) == [full]
        assert await store.query(Query()) == [Record(full, FULL_SPEC, FULL_OUTCOME)]
        assert await store.attempts(7) == [attempt]
        assert await store.events(0, 10) == [happened]
        assert await store.by_key(["nightly/é", "other"]) == {"nightly/é": (7, FULL_SPEC.digest)}

    async def test_details_are_what_a_record_has_beside_its_job(self, store: Store) -> None:
        full = job(1, Status.COMPLETED)
        waits = [job(number, Status.BLOCKED, edges=(Edge(1), Edge(1, On.ANY))) for number in (5, 3)]
        changes = [Change(before=None, after=full, spec=FULL_SPEC, outcome=FULL_OUTCOME), *map(born, waits)]
        await store.commit(Batch(changes=changes))
        found = await store.details([3, 9, 1])
        assert found[1] == Detail(FULL_SPEC, FULL_OUTCOME, (3, 5))
        assert list(found) == [3, 1]
        [record] = await store.records([3])
        assert found[3] == Detail(record.spec, record.outcome)

    async def test_a_bare_job_comes_back_with_its_defaults(self, store: Store) -> None:
        bare = job(1, Status.HELD)
        await store.commit(Batch(changes=[Change(before=None, after=bare, spec=Spec(title=""))]))
        assert await store.records([1]) == [Record(bare, Spec(title=""), Outcome())]

    async def test_each_status_comes_back(self, store: Store) -> None:
        jobs = [job(number, status) for number, status in enumerate(Status, 1)]
        await store.commit(Batch(changes=[born(one) for one in jobs]))
        assert [record.job for record in await store.query(Query(order="id"))] == jobs
        assert await active_of(store) == [one for one in jobs if not one.final]

    async def test_records_come_in_the_order_asked_and_only_those_that_exist(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(number)) for number in (1, 2, 3)]))
        assert [record.job.id for record in await store.records([3, 9, 1, 3])] == [3, 1, 3]

    async def test_a_change_replaces_all_that_changed_and_keeps_the_rest(self, store: Store) -> None:
        first = job(1, Status.BLOCKED, edges=(Edge(2), Edge(3), Edge(3, On.ANY)))
        await store.commit(Batch(changes=[born(first, spec=FULL_SPEC)]))
        terms = msgspec.structs.replace(FULL_TERMS, boost=3)
        satisfied = (Edge(2, state=EdgeState.SATISFIED), Edge(5, On.FAILURE))
        change = changed(first, Status.QUEUED, queued_at=START + 9, terms=terms, edges=satisfied, losses=2)
        await store.commit(Batch(changes=[change]))
        assert await store.records([1]) == [Record(change.after, FULL_SPEC, Outcome())]
        longer = changed(change.after, edges=(*satisfied, Edge(6)))
        await store.commit(Batch(changes=[longer]))
        assert await active_of(store) == [longer.after]

    async def test_an_equal_job_with_a_new_spec_or_outcome_edits_only_those(self, store: Store) -> None:
        one = job(1)
        await store.commit(Batch(changes=[born(one)]))
        await store.commit(Batch(changes=[Change(before=one, after=one, spec=FULL_SPEC)]))
        await store.commit(Batch(changes=[Change(before=one, after=one, outcome=FULL_OUTCOME)]))
        assert await store.records([1]) == [Record(one, FULL_SPEC, FULL_OUTCOME)]

    async def test_a_job_may_take_several_steps_in_one_batch(self, store: Store) -> None:
        steps = [born(job(1))]
        for status in (Status.RUNNING, Status.RETRYING, Status.QUEUED, Status.RUNNING, Status.COMPLETED):
            steps.append(changed(steps[-1].after, status))
        events = [event(cursor, 1) for cursor in range(1, 7)]
        steps = [msgspec.structs.replace(step, event=one) for step, one in zip(steps, events, strict=True)]
        await store.commit(Batch(changes=steps, events=[event(7, kind="daemon.stopped")]))
        assert (await record_of(store, 1)).job == steps[-1].after
        assert await store.events(0, 10) == [*events, event(7, kind="daemon.stopped")]

    async def test_a_final_job_may_come_back(self, store: Store) -> None:
        dead = job(1, Status.FAILED)
        await store.commit(Batch(changes=[born(dead)]))
        assert await active_of(store) == []
        again = changed(dead, Status.QUEUED, queued_at=START)
        await store.commit(Batch(changes=[again]))
        assert await active_of(store) == [again.after]

    # --- refusals ---

    async def test_a_batch_with_one_wrong_change_changes_nothing(self, store: Store) -> None:
        one, two = job(1, key="k"), job(2)
        await store.commit(Batch(changes=[born(one), born(two)], events=[event(1)], settings={"a": 1}))
        before = await everything(store)
        ok = changed(two, Status.HELD)
        for wrong in (
            born(job(1)),
            born(job(3, key="k")),
            Change(before=None, after=job(3)),
            changed(job(3)),
            changed(job(1, version=4, key="k")),
            changed(one, key="other"),
            changed(one, created_at=1),
            changed(one, ancestors=(0,)),
            born(job(3, Status.COMPLETED, completed_at=None)),
            born(job(3, completed_at=START)),
            born(job(3, Status.RUNNING, run=None)),
            born(job(3, run=run())),
            born(job(3, queued_at=None)),
            born(job(3, Status.SCHEDULED, run_at=None)),
            born(job(3, Status.RETRYING, due_at=None)),
            born(job(3, edges=(Edge(3),))),
            born(job(3), attempt=Attempt(job=1, agent="exec", run=run())),
            born(job(3), event=event(1)),
            born(job(3), spec=Spec(title="", payload={"x": object()})),
        ):
            batch = Batch(changes=[ok, wrong], events=[event(2)], settings={"a": 2})
            with refused(CommitRefused):
                await store.commit(batch)
            assert await everything(store) == before, wrong
        await store.commit(Batch(changes=[ok]))

    async def test_a_step_that_does_not_follow_on_the_one_before_it_is_refused(self, store: Store) -> None:
        one = job(1)
        await store.commit(Batch(changes=[born(one)]))
        with refused(CommitRefused):
            await store.commit(Batch(changes=[changed(one, Status.HELD), changed(one, Status.CANCELLED)]))
        with refused(CommitRefused):
            await store.commit(Batch(changes=[born(job(2)), born(job(2))]))
        assert await active_of(store) == [one]

    async def test_two_new_jobs_of_one_batch_may_not_share_a_key(self, store: Store) -> None:
        with refused(CommitRefused):
            await store.commit(Batch(changes=[born(job(1, key="k")), born(job(2, key="k"))]))
        assert await active_of(store) == []

    async def test_pruning_what_is_not_there_or_not_final_is_refused(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(1))]))
        for number in (1, 2):
            with refused(CommitRefused):
                await store.commit(Batch(pruned=[(number, False)]))

    # --- what is kept of attempts, events, settings ---

    async def test_an_attempt_is_one_row_from_its_start_to_its_end(self, store: Store) -> None:
        first = Attempt(job=1, agent="exec", run=run(1))
        running = job(1, Status.RUNNING)
        await store.commit(Batch(changes=[born(running, attempt=first)]))
        ended = Attempt(
            job=1,
            agent="exec",
            run=msgspec.structs.replace(FULL_RUN, attempt=1),
            ended_at=START + 50,
            failure=FailureClass.TIMEOUT,
            message="too long",
            exit_code=None,
            signal=15,
            session_id="s",
            usage={"cost_usd": 0.5},
            log_bytes=1234,
        )
        waiting = changed(running, Status.QUEUED, queued_at=START, attempt=ended)
        again = changed(waiting.after, Status.RUNNING, attempt=Attempt(job=1, agent="codex", run=run(2)))
        await store.commit(Batch(changes=[waiting, again]))
        assert await store.attempts(1) == [ended, Attempt(job=1, agent="codex", run=run(2))]

    async def test_a_start_is_told_how_many_jobs_and_attempts_have_ended_and_how(self, store: Store) -> None:
        for number, status in ((1, Status.COMPLETED), (2, Status.FAILED), (3, Status.COMPLETED), (4, Status.QUEUED)):
            failure = FailureClass.TIMEOUT if status is Status.FAILED else None
            row = Attempt(job=number, agent="codex", run=run(1), ended_at=START, failure=failure)
            await store.commit(Batch(changes=[born(job(number, status), attempt=row)]))
        under_way = Attempt(job=5, agent="exec", run=run(1))
        await store.commit(Batch(changes=[born(job(5, Status.RUNNING), attempt=under_way)]))
        snapshot = await store.load_active()
        assert snapshot.finals == {"completed": 2, "failed": 1}
        assert snapshot.attempts == {"codex": (4, 3)}

    async def test_events_are_filtered_by_cursor_kind_job_and_group(self, store: Store) -> None:
        grouped = job(2, terms=Terms(group="g"))
        events = [event(1, 1), event(2, 2), event(3, 1, kind="job.started"), event(5, kind="queue.paused"), event(9, 2)]
        await store.commit(Batch(changes=[born(job(1)), born(grouped)], events=events))
        assert await store.events(0, 3) == events[:3]
        assert await store.events(3, 10) == events[3:]
        assert await store.events(0, 10, kinds=["job.started", "queue.paused"]) == events[2:4]
        assert await store.events(0, 10, jobs=[1]) == [events[0], events[2]]
        assert await store.events(2, 10, group="g") == [events[4]]
        assert (await store.load_active()).last_event == 9

    async def test_a_setting_is_kept_replaced_and_deleted(self, store: Store) -> None:
        await store.commit(Batch(settings={"paused": ["*"], "pool": {"max": 3}, "gone": 1}))
        await store.commit(Batch(settings={"pool": 4, "gone": None, "never": None}))
        assert (await store.load_active()).settings == {"paused": ["*"], "pool": 4}

    # --- the rest ---

    async def test_a_backup_is_private_and_never_overwrites(self, store: Store, tmp_path: Path) -> None:
        await store.commit(Batch(changes=[born(job(1))]))
        target = tmp_path / "copy.db"
        await store.backup(target)
        assert target.stat().st_mode & 0o777 == 0o600
        assert target.stat().st_size > 0
        content = target.read_bytes()
        with refused(Conflict):
            await store.backup(target)
        assert target.read_bytes() == content

    async def test_a_backup_to_a_place_where_none_can_be_is_the_callers_to_put_right(
        self, store: Store, tmp_path: Path
    ) -> None:
        await store.commit(Batch(changes=[born(job(1))]))
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "no" / "such", tmp_path / "file" / "copy", tmp_path, tmp_path / ("x" * 300)):
            with refused(InvalidParams):
                await store.backup(path)
        assert (tmp_path / "file").read_text() == "mine"
        await store.backup(tmp_path / "copy")

    async def test_nobody_holds_a_part_of_the_store_in_hands(self, store: Store) -> None:
        payload = {"list": [1]}
        settings = {"names": ["a"]}
        await store.commit(Batch(changes=[born(job(1), spec=Spec(title="", payload=payload))], settings=dict(settings)))
        payload["list"].append(2)
        settings["names"].append("b")
        (await record_of(store, 1)).spec.payload["list"].append(3)
        assert (await record_of(store, 1)).spec.payload == {"list": [1]}
        assert (await store.load_active()).settings == {"names": ["a"]}

    async def test_the_facts_name_the_store(self, store: Store) -> None:
        assert (await store.facts())["store"]

    async def test_a_failing_store_fails_as_often_as_told_and_changes_nothing(self, store: Store) -> None:
        failing = FailingStore(store)
        failing.fail_next = [CommitFailed("disk full")]
        with refused(CommitFailed):
            await failing.commit(Batch(changes=[born(job(1))]))
        assert await active_of(failing) == []
        await failing.commit(Batch(changes=[born(job(1))]))
        assert await active_of(failing) == await active_of(store) == [job(1)]


class Conformance(Keeping, Reading):
    """The whole suite: what a subclass with a fixture `store` is tested for."""


class Reopened:
    """A store that is closed and opened again between every two calls: it can hold nothing but what is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            await self._store.open()
            try:
                return await getattr(self._store, name)(*arguments, **options)
            finally:
                await self._store.close()

        return call
