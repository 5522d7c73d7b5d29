"""The static rank key gives the order of the contract's formula, at any time."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.core.job import Job, Terms, Tier
from opusd.core.lifecycle import Status
from opusd.core.order import Heir, Points, job_of, rank_key, score
from tests.core.world import HOUR, START, World

POINTS = Points()
ids = st.integers(1, 2**40 - 1)
times = st.one_of(st.integers(0, 3 * START), st.integers(START, START + 12 * HOUR), st.integers(START, START + 3))


def job(number: int, tier: Tier, boost: int, queued_at: int) -> Job:
    boost = 0 if tier is Tier.CRITICAL else boost
    return Job(id=number, status=Status.QUEUED, terms=Terms(tier=tier, boost=boost), created_at=0, queued_at=queued_at)


jobs = st.builds(job, ids, st.sampled_from(Tier), st.integers(-49, 49), times)


def formula(one: Job, points: Points, now: int) -> tuple[object, ...]:
    assert one.queued_at is not None
    tier = one.terms.tier
    if tier is Tier.CRITICAL:
        return 0, one.queued_at, one.id
    base = {Tier.LOW: points.low, Tier.NORMAL: points.normal, Tier.URGENT: points.urgent}[tier]
    waited = Fraction(now - one.queued_at, HOUR)
    return 1, -(base + one.terms.boost + points.rate * waited), one.queued_at, one.id


@given(st.lists(jobs, max_size=30, unique_by=lambda one: one.id), times)
def test_sorting_by_rank_key_is_sorting_by_base_plus_boost_plus_rate_times_waited(found: list[Job], now: int) -> None:
    by_key = sorted(found, key=lambda one: rank_key(one, POINTS))
    assert by_key == sorted(found, key=lambda one: formula(one, POINTS, now))


@given(st.lists(jobs, max_size=10, unique_by=lambda one: one.id), times)
def test_score_is_the_formula_and_orders_what_is_not_critical(found: list[Job], now: int) -> None:
    for one in found:
        value = score(one, POINTS, now)
        if one.terms.tier is Tier.CRITICAL:
            assert value is None
        else:
            assert value == pytest.approx(float(-formula(one, POINTS, now)[1]), abs=1e-6)  # type: ignore[operator]


def test_a_job_that_is_not_queued_has_no_score() -> None:
    held = Job(id=1, status=Status.HELD, terms=Terms(), created_at=0)
    assert score(held, POINTS, START) is None


@given(jobs)
def test_the_key_names_its_job(one: Job) -> None:
    assert job_of(rank_key(one, POINTS)) == one.id


def test_equal_scores_go_by_age_then_by_id() -> None:
    # Normal has a head start of exactly 4 hours over low.
    low, normal = job(7, Tier.LOW, 0, START), job(3, Tier.NORMAL, 0, START + 4 * HOUR)
    assert rank_key(low, POINTS) < rank_key(normal, POINTS)
    assert rank_key(job(3, Tier.NORMAL, 0, START + 4 * HOUR - 1), POINTS) < rank_key(low, POINTS)
    assert rank_key(job(1, Tier.LOW, 5, START), POINTS) < rank_key(job(2, Tier.LOW, 5, START), POINTS)


def test_critical_goes_before_all_however_long_they_waited_and_first_come_first_served() -> None:
    ancient = job(1, Tier.URGENT, 49, 0)
    human, later = job(9, Tier.CRITICAL, 0, 2 * START), job(8, Tier.CRITICAL, 0, 2 * START + 1)
    assert rank_key(human, POINTS) < rank_key(later, POINTS) < rank_key(ancient, POINTS)


@given(jobs, jobs)
def test_nothing_that_became_ready_later_than_the_bound_goes_first_but_critical(one: Job, other: Job) -> None:
    assert POINTS.bound_hours() == pytest.approx(11.92)
    assert one.queued_at is not None
    assert other.queued_at is not None
    if other.terms.tier is not Tier.CRITICAL and other.queued_at - one.queued_at > POINTS.bound_hours() * HOUR:
        assert rank_key(one, POINTS) < rank_key(other, POINTS)


def test_the_bound_follows_from_the_configured_numbers() -> None:
    assert Points(low=0, normal=10, urgent=52, rate=10).bound_hours() == 15
    assert Points(low=30, normal=20, urgent=10, rate=118).bound_hours() == 1


def test_an_heir_stands_as_if_it_had_the_tier_with_its_own_boost_and_age() -> None:
    low = job(1, Tier.LOW, 9, START)
    heir = Heir(Tier.URGENT, 2, START)
    assert rank_key(low, POINTS, heir) == rank_key(job(1, Tier.URGENT, 9, START), POINTS)
    assert score(low, POINTS, START + HOUR, heir) == 200 + 9 + 25
    assert rank_key(job(1, Tier.URGENT, 9, START), POINTS, Heir(Tier.LOW, 2, 0)) == rank_key(
        job(1, Tier.URGENT, 9, START), POINTS
    )


def test_an_heir_of_critical_takes_the_time_of_the_humans_submission() -> None:
    heir = Heir(Tier.CRITICAL, 2, START + HOUR)
    assert rank_key(job(1, Tier.LOW, 9, START), POINTS, heir) == rank_key(
        job(1, Tier.CRITICAL, 0, START + HOUR), POINTS
    )
    own = job(1, Tier.CRITICAL, 0, START)
    assert rank_key(own, POINTS, heir) == rank_key(own, POINTS)
    assert score(job(1, Tier.LOW, 9, START), POINTS, START, heir) is None


def test_ageing_lets_an_old_low_job_go_before_a_new_urgent_one() -> None:
    world = World(max_concurrent=0)
    old = world.submit(tier=Tier.LOW)
    world.now += 8 * HOUR + 1
    world.submit(tier=Tier.URGENT)
    world.resize(1)
    assert world.started() == [old.id]
