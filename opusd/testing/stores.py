"""What every store must do, as tests; and a store whose commits fail when a test says so.

`Conformance` is a class of coroutine tests that each take an open, empty `store`; a test module makes a
subclass, and a fixture of that name. It imports no test framework, and knows no particular store.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from opusd.core.errors import Conflict, StorageUnavailable
from opusd.core.job import (
    Attempt,
    Change,
    Edge,
    EdgeState,
    Ending,
    Event,
    IfUnmet,
    Job,
    On,
    Outcome,
    Run,
    Source,
    Spec,
    Terms,
    Tier,
)
from opusd.core.lifecycle import Status
from opusd.core.retry import FailureClass, Policy, Strategy
from opusd.store.base import Batch, CommitFailed, CommitRefused, Query, Record, Snapshot, Store, sort_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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


class FailingStore:
    """A store around another: each of `fail_next` is raised by one commit, which then changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fail_next: list[Exception] = []
        self.open = store.open
        self.close = store.close
        self.load_active = store.load_active
        self.records = store.records
        self.by_key = store.by_key
        self.query = store.query
        self.attempts = store.attempts
        self.dependents = store.dependents
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


# --- making records -----------------------------------------------------------------------------------


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
        "dependents": {record.job.id: await store.dependents(record.job.id) for record in records},
        "trees": {record.job.id: await store.tree_size(record.job.id) for record in records},
    }


async def _ids(store: Store, **asked: Any) -> list[int]:
    return [record.job.id for record in await store.query(Query(**asked))]


async def _record(store: Store, id_: int) -> Record:
    [record] = await store.records([id_])
    return record


async def _active(store: Store) -> list[Job]:
    return list((await store.load_active()).jobs)


# --- the suite ------------------------------------------------------------------------------------------


class Conformance:
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
        assert await store.dependents(1) == []
        assert await store.tree_size(1) == 0
        assert await store.durations("exec", None) == []
        assert await store.prunable(START * 2, [], 10) == []
        assert await store.forget(START * 2, 10) == 0

    async def test_an_empty_batch_is_no_change(self, store: Store) -> None:
        await store.commit(Batch())
        assert (await everything(store))["records"] == []

    async def test_every_field_of_a_record_comes_back_as_it_was(self, store: Store) -> None:
        edges = (Edge(1), Edge(2, On.FAILURE, IfUnmet.CANCEL, EdgeState.UNMET), Edge(1, On.ANY, IfUnmet.RUN))
        full = Job(
            id=7,
            version=12,
            status=Status.CANCELLING,
            terms=FULL_TERMS,
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
            run=FULL_RUN,
        )
        attempt = Attempt(job=7, agent="claude", run=FULL_RUN)
        happened = event(
            1, 7, attempt=2, before="queued", after=Status.CANCELLING, actor="user:1000", detail={"a": [None]}
        )
        change = Change(before=None, after=full, spec=FULL_SPEC, outcome=FULL_OUTCOME, attempt=attempt, event=happened)
        await store.commit(Batch(changes=[change]))
        assert await store.records([7]) == [Record(full, FULL_SPEC, FULL_OUTCOME)]
        assert await _active(store) == [full]
        assert await store.query(Query()) == [Record(full, FULL_SPEC, FULL_OUTCOME)]
        assert await store.attempts(7) == [attempt]
        assert await store.events(0, 10) == [happened]
        assert await store.by_key(["nightly/é", "other"]) == {"nightly/é": (7, FULL_SPEC.digest)}

    async def test_a_bare_job_comes_back_with_its_defaults(self, store: Store) -> None:
        bare = job(1, Status.HELD)
        await store.commit(Batch(changes=[Change(before=None, after=bare, spec=Spec(title=""))]))
        assert await store.records([1]) == [Record(bare, Spec(title=""), Outcome())]

    async def test_each_status_comes_back(self, store: Store) -> None:
        jobs = [job(number, status) for number, status in enumerate(Status, 1)]
        await store.commit(Batch(changes=[born(one) for one in jobs]))
        assert [record.job for record in await store.query(Query(order="id"))] == jobs
        assert await _active(store) == [one for one in jobs if not one.final]

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
        assert await store.dependents(2) == await store.dependents(5) == [1]
        assert await store.dependents(3) == []
        longer = changed(change.after, edges=(*satisfied, Edge(6)))
        await store.commit(Batch(changes=[longer]))
        assert await _active(store) == [longer.after]

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
        assert (await _record(store, 1)).job == steps[-1].after
        assert await store.events(0, 10) == [*events, event(7, kind="daemon.stopped")]

    async def test_a_final_job_may_come_back(self, store: Store) -> None:
        dead = job(1, Status.FAILED)
        await store.commit(Batch(changes=[born(dead)]))
        assert await _active(store) == []
        again = changed(dead, Status.QUEUED, queued_at=START)
        await store.commit(Batch(changes=[again]))
        assert await _active(store) == [again.after]

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
        assert await _active(store) == [one]

    async def test_two_new_jobs_of_one_batch_may_not_share_a_key(self, store: Store) -> None:
        with refused(CommitRefused):
            await store.commit(Batch(changes=[born(job(1, key="k")), born(job(2, key="k"))]))
        assert await _active(store) == []

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

    # --- queries ---

    async def test_each_filter_of_a_query_selects_what_it_says(self, store: Store) -> None:
        other = Terms(tier=Tier.LOW, agent="codex", type="bug", source=Source.AUTOMATED, group="g")
        child = job(4, Status.FAILED, ancestors=(1, 2), started_at=START + 50, completed_at=START + 70)
        plain = [born(job(1)), born(job(2, Status.COMPLETED, ancestors=(1,))), born(job(3, Status.HELD, terms=other))]
        labelled = born(child, spec=Spec(title="x", labels=["for:ana", "b"], prompt="100%_ÄÖ Kelvin"))
        await store.commit(Batch(changes=[*plain, labelled]))
        assert await _ids(store) == [4, 3, 2, 1]
        assert await _ids(store, ids=(1, 4, 9)) == [4, 1]
        assert await _ids(store, ids=()) == []
        assert await _ids(store, status=("queued", "held")) == [3, 1]
        assert await _ids(store, status=("queued", "failed")) == [4, 1]
        assert await _ids(store, status=("held",), order="id", tier=(0, 2)) == [3]
        assert await _ids(store, type=("bug",)) == await _ids(store, agent=("codex", "pi")) == [3]
        assert await _ids(store, source=("automated",)) == await _ids(store, group="g") == [3]
        assert await _ids(store, label="b") == [4]
        assert await _ids(store, label="for") == []
        assert await _ids(store, parent=1) == [2]
        assert await _ids(store, parent=2) == [4]
        assert await _ids(store, since=START + 2, until=START + 4) == [3, 2]
        assert await _ids(store, since=START + 50, time="started") == [4]
        assert await _ids(store, until=START + 71, time="completed") == [4]
        assert await _ids(store, dead=True) == [4]
        for part, found in {
            "%_": [4],
            "äö k": [4],
            "JOB 3": [3],
            "KELVIN": [4],
            "x%": [],
            "'": [],
            "DO IT": [3, 2, 1],
        }.items():
            assert await _ids(store, text=part) == found, part

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
        assert await store.dependents(1) == [2, 3]
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
        change = Change(
            before=None, after=dead, spec=FULL_SPEC, outcome=FULL_OUTCOME, attempt=attempt, event=event(1, 1)
        )
        await store.commit(Batch(changes=[change]))
        await store.commit(Batch(pruned=[(1, False)], events=[event(2, 1, kind="job.pruned")]))
        spec = msgspec.structs.replace(FULL_SPEC, prompt=None, command=None, payload={}, metadata={}, env={})
        outcome = msgspec.structs.replace(FULL_OUTCOME, result=None)
        assert await store.records([1]) == [Record(dead, spec, outcome, pruned=True)]
        assert await store.attempts(1) == [attempt]
        assert await store.by_key(["k"]) == {}
        assert await store.prunable(START * 2, [], 10) == []
        await store.commit(Batch(changes=[born(job(2, key="k"))]))
        assert (await _record(store, 1)).job.key == "k"
        assert (await store.by_key(["k"]))["k"][0] == 2
        await store.commit(Batch(pruned=[(1, True)]))
        assert (await _record(store, 1)).job.key is None

    async def test_a_pruned_key_may_be_taken_in_the_same_batch(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(1, Status.COMPLETED, key="k"))]))
        await store.commit(Batch(changes=[born(job(2, key="k"))], pruned=[(1, True)]))
        assert (await store.by_key(["k"]))["k"][0] == 2

    async def test_a_job_may_end_and_be_pruned_in_one_batch(self, store: Store) -> None:
        one = job(1)
        await store.commit(Batch(changes=[born(one)]))
        ended = changed(one, Status.CANCELLED, outcome=FULL_OUTCOME)
        await store.commit(Batch(changes=[ended], pruned=[(1, False)]))
        record = await _record(store, 1)
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
        attempt = Attempt(job=2, agent="exec", run=run())
        changes = [born(one, event=event(one.id, one.id)) for one in dead]
        changes[1] = msgspec.structs.replace(changes[1], attempt=attempt)
        young = Event(cursor=4, time=START * 2, kind="daemon.started")
        late = [event(5), event(6)]
        await store.commit(Batch(changes=changes, events=[young, *late], pruned=[(1, True), (2, True)]))
        assert await store.forget(START, 10) == 0
        assert await store.forget(START + 1000, 1) == 1
        assert await store.tree_size(1) == 2
        assert await _ids(store) == [3, 2]
        assert await store.forget(START + 1000, 3) == 3
        assert (await _ids(store), await store.attempts(2)) == ([3], [])
        assert await store.oldest_event() == 3
        assert await store.forget(START + 1000, 10) == 1
        assert await store.events(0, 10) == [young, *late]
        assert await store.forget(START * 3, 10) == 2
        assert await store.events(0, 10) == [late[1]]
        assert await store.forget(START * 3, 10) == 0
        snapshot = await store.load_active()
        assert (snapshot.last_job, snapshot.last_event) == (3, 6)

    async def test_a_forgotten_id_is_never_given_again(self, store: Store) -> None:
        await store.commit(Batch(changes=[born(job(8, Status.FAILED))]))
        await store.commit(Batch(pruned=[(8, True)]))
        assert await store.forget(START * 2, 10) == 1
        assert (await store.load_active()).last_job == 8

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
        with refused(StorageUnavailable):
            await store.backup(tmp_path / "no" / "such" / "folder")

    async def test_nobody_holds_a_part_of_the_store_in_hands(self, store: Store) -> None:
        payload = {"list": [1]}
        settings = {"names": ["a"]}
        await store.commit(Batch(changes=[born(job(1), spec=Spec(title="", payload=payload))], settings=dict(settings)))
        payload["list"].append(2)
        settings["names"].append("b")
        (await _record(store, 1)).spec.payload["list"].append(3)
        assert (await _record(store, 1)).spec.payload == {"list": [1]}
        assert (await store.load_active()).settings == {"names": ["a"]}

    async def test_the_facts_name_the_store(self, store: Store) -> None:
        assert (await store.facts())["store"]

    async def test_a_failing_store_fails_as_often_as_told_and_changes_nothing(self, store: Store) -> None:
        failing = FailingStore(store)
        failing.fail_next = [CommitFailed("disk full")]
        with refused(CommitFailed):
            await failing.commit(Batch(changes=[born(job(1))]))
        assert await _active(failing) == []
        await failing.commit(Batch(changes=[born(job(1))]))
        assert await _active(failing) == await _active(store) == [job(1)]


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
                found = await getattr(self._store, name)(*arguments, **options)
                return Snapshot(list(found.jobs), *_rest(found)) if isinstance(found, Snapshot) else found
            finally:
                await self._store.close()

        return call


def _rest(snapshot: Snapshot) -> Sequence[Any]:
    return snapshot.last_job, snapshot.last_event, snapshot.settings
