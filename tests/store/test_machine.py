"""Memory and SQLite take the same random batches, right and wrong, and are the same after each."""

import asyncio
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from opusd.core.job import Attempt, Edge, EdgeState, IfUnmet, Job, On, Outcome, Source, Spec, Terms, Tier
from opusd.core.lifecycle import Status
from opusd.store.base import Batch, CommitRefused, Query, sort_values
from opusd.store.memory import MemoryStore
from opusd.store.sqlite import SqliteStore
from opusd.testing.records import START, born, changed, event, everything, job, run

ids = st.integers(1, 12)
times = st.integers(START, START + 20)
texts = st.text(st.sampled_from("abAB%_é É'"), max_size=6)
terms = st.builds(
    Terms,
    tier=st.sampled_from(Tier),
    boost=st.integers(-49, 49),
    agent=st.sampled_from(["exec", "claude"]),
    type=st.sampled_from(["task", "bug"]),
    source=st.sampled_from(Source),
    group=st.sampled_from([None, "g"]),
    needs=st.sampled_from([(), (("gpu", 1),)]),
    expires_in=st.none() | times,
)
edges = st.lists(
    st.builds(
        Edge, st.integers(13, 15) | ids, st.sampled_from(On), st.sampled_from(IfUnmet), st.sampled_from(EdgeState)
    ),
    max_size=3,
).map(tuple)
specs = st.builds(
    Spec,
    title=texts,
    prompt=st.none() | texts,
    payload=st.dictionaries(texts, st.none() | st.integers(-9, 9) | texts, max_size=2),
    labels=st.lists(st.sampled_from("xyz"), max_size=2),
)
outcomes = st.none() | st.builds(Outcome, result=st.none() | st.just({"summary": "s"}), session_id=st.none() | texts)
fields = st.fixed_dictionaries(
    {},
    optional={
        "terms": terms,
        "edges": edges,
        "started_at": times,
        "attempts": st.integers(0, 3),
        "losses": st.integers(0, 3),
    },
)
wrongs = st.sampled_from(
    [{}] * 12 + [{"completed_at": START}, {"completed_at": None}, {"run": None}, {"queued_at": None}, {"losses": -1}]
)
at_once = st.sampled_from([True, True, False])
statuses = st.sampled_from(Status)
queries = st.builds(
    Query,
    status=st.none() | st.lists(statuses, max_size=3).map(tuple),
    tier=st.none() | st.lists(st.sampled_from([0, 1, 2, 3]), max_size=2).map(tuple),
    agent=st.none() | st.just(("claude",)),
    label=st.none() | st.just("x"),
    group=st.none() | st.just("g"),
    parent=st.none() | ids,
    since=st.none() | times,
    until=st.none() | times,
    time=st.sampled_from(["created", "started", "completed"]),
    text=st.none() | texts,
    dead=st.booleans(),
    order=st.sampled_from(["id", "-id", "completed_at", "-completed_at"]),
    limit=st.integers(1, 3),
)


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.memory = MemoryStore()
        self.sqlite = SqliteStore(Path(self.folder.name) / "opusd.db")
        self.runner.run(self.memory.open())
        self.runner.run(self.sqlite.open())
        self.cursor = 0
        self.batch = Batch()
        self.known: dict[int, Job] = {}  # as they will be when the batch is committed

    def teardown(self) -> None:
        self.runner.run(self.sqlite.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, call):
        answers = []
        for store in (self.memory, self.sqlite):
            try:
                answers.append(self.runner.run(call(store)))
            except CommitRefused:
                answers.append(CommitRefused)
        assert answers[0] == answers[1]
        return answers[0]

    def add(self, change, *, commit) -> None:
        self.batch.changes.append(change)
        self.known[change.after.id] = change.after
        if commit:
            self.commit()

    @rule(
        id_=ids,
        status=statuses,
        more=fields,
        wrong=wrongs,
        spec=specs,
        outcome=outcomes,
        key=st.sampled_from([None] * 4 + ["k", "l"]),
        commit=at_once,
        twice=st.integers(0, 9),
    )
    def create(self, *, id_, status, more, wrong, spec, outcome, key, commit, twice) -> None:
        if id_ in self.known and twice:
            id_ = max(self.known) + 1
        ancestors = tuple(sorted(other for other in self.known if other < id_))[:2] if key is None else ()
        new = job(id_, status, ancestors=ancestors, key=key, **{**more, **wrong})
        self.add(born(new, spec=spec, outcome=outcome), commit=commit)

    @initialize(some=st.lists(statuses, min_size=3, max_size=6), terms=terms)
    def begin(self, some, terms) -> None:
        self.batch.changes += [born(job(number, status, terms=terms)) for number, status in enumerate(some, 1)]
        self.commit()

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(),
        status=statuses,
        more=fields,
        wrong=wrongs,
        spec=st.none() | specs,
        outcome=outcomes,
        stale=st.integers(0, 9),
        commit=at_once,
    )
    def change(self, data, status, more, wrong, spec, outcome, stale, commit) -> None:
        before = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        if stale == 0:
            before = msgspec.structs.replace(before, version=before.version + 1)
        self.add(changed(before, status, spec=spec, outcome=outcome, **{**more, **wrong}), commit=commit)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), number=st.integers(1, 2), failure=st.sampled_from([None, "oom"]), ended=st.none() | times)
    def attempt(self, data, number, failure, ended) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.known)))
        one = Attempt(job=id_, agent="exec", run=run(number), ended_at=START if failure else ended, failure=failure)
        self.add(changed(self.known[id_], attempt=one), commit=True)

    @rule(
        step=st.sampled_from([0] + [1] * 9 + [2]), of=st.none() | ids, kind=st.sampled_from(["job.started", "job.lost"])
    )
    def tell(self, step, of, kind) -> None:
        self.cursor = max(1, self.cursor + step)
        self.batch.events.append(event(self.cursor, of, kind=kind))

    @rule(name=st.sampled_from("ab"), value=st.none() | st.integers() | texts)
    def set(self, name, value) -> None:
        self.batch.settings[name] = value

    @precondition(lambda self: any(known.final for known in self.known.values()))
    @rule(data=st.data(), free_key=st.booleans())
    def prune(self, data, free_key) -> None:
        id_ = data.draw(st.sampled_from([known.id for known in self.known.values() if known.final]))
        self.batch.pruned.append((id_, free_key))
        self.commit()

    @rule()
    def commit(self) -> None:
        batch, self.batch = self.batch, Batch()
        self.both(lambda store: store.commit(batch))
        records = self.runner.run(self.memory.query(Query(limit=100)))
        self.known = {record.job.id: record.job for record in records}

    @rule(before=times.map(lambda at: at + 100), limit=st.integers(0, 4))
    def forget(self, before, limit) -> None:
        self.both(lambda store: store.forget(before, limit))
        self.commit()

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.sqlite.close())
        self.runner.run(self.sqlite.open())

    @rule(query=queries)
    def ask(self, query) -> None:
        while page := self.both(lambda store, query=query: store.query(query)):
            query = msgspec.structs.replace(query, after=sort_values(query.order, page[-1].job))

    @rule(since=st.integers(0, 5), some=st.lists(ids, max_size=2), kinds=st.sampled_from([[], ["job.lost"]]))
    def ask_what_happened(self, since, some, kinds) -> None:
        self.both(lambda store: store.events(since, 3, kinds=kinds, jobs=some))
        self.both(lambda store: store.events(since, 100, group="g"))

    @rule(before=times.map(lambda at: at + 100), some=st.lists(statuses, max_size=2), limit=st.integers(0, 3))
    def ask_what_may_go(self, before, some, limit) -> None:
        self.both(lambda store: store.prunable(before, some, limit))
        self.both(lambda store: store.durations("exec", None))

    @invariant()
    def both_are_the_same(self) -> None:
        self.both(everything)


TestStores = pytest.mark.slow(Stores.TestCase)
TestStores.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes; add Phase.shrink by hand
)
