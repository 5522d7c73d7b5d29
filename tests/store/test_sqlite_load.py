"""A start reads the unfinished jobs as `records` gives them, whatever they are and however they lie."""

import random

import msgspec
import pytest

from opusd.core.job import Edge, EdgeState, Extra, Job, Source, Terms, Tier, intern
from opusd.core.lifecycle import Status
from opusd.core.limits import Quota
from opusd.core.state import State
from opusd.store import open_store, sqlite_load
from opusd.store.base import Batch, Query
from opusd.testing.records import FULL_EXTRA, FULL_RUN, FULL_TERMS, START, born, job
from opusd.testing.shape import shape_of
from tests.core.world import limits

TERMS = [Terms(boost=boost, agent=f"agent {boost}") for boost in range(sqlite_load._FREQUENT + 3)]
RARE = [
    {"key": 'a "quoted" [key]'},
    {"version": 7},
    {"queued_at": START - 1},
    {"run_at": START},
    {"due_at": START},
    {"started_at": START},
    {"attempts": 1},
    {"retries": 2},
    {"losses": 1},
    {"ancestors": (1, 2)},
    {"extra": FULL_EXTRA},
    {"extra": Extra(skew=5)},
    {"terms": FULL_TERMS},
    {"edges": (Edge(1, state=EdgeState.SATISFIED), Edge(2))},
    {"status": Status.HELD},
    {"status": Status.BLOCKED, "edges": (Edge(1),)},
    {"status": Status.SCHEDULED},
    {"status": Status.RETRYING, "retries": 1},
    {"status": Status.RUNNING, "run": FULL_RUN, "attempts": 2},
    {"status": Status.CANCELLING},
    {"status": Status.COMPLETED},
]


async def kept(tmp_path, jobs):
    """The path of a registry with these jobs, and what `query` says of the unfinished."""
    path = tmp_path / "opusd.db"
    store = await open_store(path)
    await store.commit(Batch(changes=[born(one) for one in jobs]))
    unfinished = [one for one in jobs if not one.final]
    records = await store.query(Query(order="id", limit=len(jobs)))
    assert [record.job for record in records if not record.job.final] == unfinished
    await store.close()
    return path, unfinished


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1000])
async def test_jobs_of_every_kind_are_read_as_they_are(tmp_path, chunk):
    some = random.Random(chunk)
    jobs, number = [], 2
    for _ in range(400):
        number += some.choice([1] * 30 + [2, 9])
        fields = {"terms": TERMS[0]} if number < 200 else {"terms": some.choice(TERMS)}
        if some.random() < 0.1:
            fields |= some.choice(RARE)
            if "key" in fields:
                fields["key"] += str(number)
        jobs.append(job(number, **fields))
    jobs += [job(number + 1 + at, **fields) for at, fields in enumerate(RARE)]
    path, unfinished = await kept(tmp_path, jobs)
    assert sqlite_load.load(path, chunk).jobs == unfinished


@pytest.mark.parametrize("chunk", [1, 5, 1000])
async def test_jobs_of_equal_terms_share_them(tmp_path, chunk):
    terms = [Terms(tier=Tier.URGENT), Terms(source=Source.AGENT), *TERMS]
    path, _ = await kept(tmp_path, [job(at, terms=terms[at % len(terms)], version=1 + at % 3) for at in range(1, 90)])
    found = sqlite_load.load(path, chunk).jobs
    assert len({id(one.terms) for one in found}) == len(terms)


async def test_what_is_told_apart_as_alike_has_nothing_of_its_own(tmp_path):
    fields = [*({"terms": terms} for terms in TERMS[:4] * 9), *RARE]
    jobs = [job(at, **one) for at, one in enumerate(fields, 3)]
    path, unfinished = await kept(tmp_path, jobs)
    found = sqlite_load.load(path, 5)
    for alike in found.alike:
        plain = [Job(id=one.id, status=Status.QUEUED, terms=alike[0].terms, created_at=one.created_at) for one in alike]
        assert alike == [msgspec.structs.replace(one, queued_at=one.created_at) for one in plain]
    assert sum(map(len, found.alike)) > 20
    assert found.jobs == unfinished


async def test_a_job_that_just_waits_keeps_one_number_for_both_of_its_times(tmp_path):
    path, _ = await kept(tmp_path, [job(at) for at in range(1, 30)])
    for one in sqlite_load.load(path, 4).jobs:
        assert one.created_at is one.queued_at


async def test_an_empty_registry_has_no_jobs(tmp_path):
    path, _ = await kept(tmp_path, [])
    assert msgspec.to_builtins(sqlite_load.load(path)) == {
        "others": [], "alike": [], "last_job": 0, "last_event": 0, "settings": {}, "finals": {}, "attempts": {},
    }  # fmt: skip


ODD = ["a\0b", "'\"\\\\", "\u2028", "1", "null", "[1]", "  ", "é" * 50, "\x7f\x01", "🐙", "-0", "claude"]
LONGEST = 2**62 - START


@pytest.mark.parametrize("seed", range(4))
async def test_what_a_start_makes_of_it_is_what_the_jobs_made_one_by_one(tmp_path, seed):
    """Also of texts that look like something else, of the largest numbers, and of agents that are configured no more"""
    some, number, jobs = random.Random(seed), 0, []
    terms = [
        Terms(
            agent=some.choice(ODD),
            type=some.choice(ODD),
            tier=some.choice(list(Tier)),
            boost=some.choice((-49, 0, 49)),
            group=some.choice((None, "small", *ODD)),
            expires_in=some.choice((None, None, 1, LONGEST)),
            needs=some.choice(((), ((some.choice(ODD), 2**53),))),
            submitted_by=some.choice(("user:1", "user:4294967295")),
            labels=some.choice(((), (some.choice(ODD),))),
        )
        for _ in range(12)
    ]
    for place in range(300):
        number += some.choice([1] * 20 + [2, 5_000, 1 << 20])
        fields = {"terms": intern(some.choice(terms[place // 60 : place // 60 + 3]))}
        if some.random() < 0.15:
            fields |= some.choice(RARE)
            if "key" in fields:
                fields["key"] = f"{some.choice(ODD)} {number}"
        jobs.append(job(number, **fields))
    path, unfinished = await kept(tmp_path, jobs)
    rules = limits(groups={"small": Quota(max_running=1)})
    lived = State(rules)
    for one in unfinished:
        lived.apply(None, one)
    for chunk in (1, 3, 64, 1000):
        found = sqlite_load.load(path, chunk)
        loaded = State(rules)
        loaded.load(found.others, found.alike)
        assert shape_of(loaded) == shape_of(lived)
        assert {one.id: loaded.signature(one) for one in unfinished} == {
            one.id: lived.signature(one) for one in unfinished
        }
