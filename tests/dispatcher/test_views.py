"""The wire's Job is a copy of what all jobs of its Terms have in common: nothing of one gets into another."""

import msgspec
import pytest
from msgspec.structs import replace

from opusd.core.job import Edge, Outcome, Spec, Terms, Tier
from opusd.core.lifecycle import Status
from opusd.core.order import Heir
from opusd.dispatcher import views
from opusd.dispatcher.views import NOTHING, Live, Snapshot, view
from opusd.testing.records import FULL_EXTRA, FULL_OUTCOME, FULL_RUN, FULL_SPEC, FULL_TERMS, START, job

PLAIN = Spec(title="plain")


@pytest.fixture(autouse=True)
def _none_known(monkeypatch):
    monkeypatch.setattr(views, "_blanks", {})


def full(number, terms):
    """A job that has everything a job may have."""
    one = job(
        number,
        Status.RUNNING,
        terms=terms,
        run=FULL_RUN,
        extra=FULL_EXTRA,
        key="k",
        ancestors=(1, 2),
        edges=(Edge(3),),
        attempts=2,
        retries=1,
        queued_at=START,
        run_at=START,
        due_at=START,
        started_at=START,
    )
    return Snapshot(
        job=one, reason="why", score=1.0, position=1, ahead=2, expires_at=START, heir=Heir(Tier.CRITICAL, 7, 0)
    )


def shown(seen, spec=PLAIN, outcome=NOTHING, **fields):
    return msgspec.to_builtins(view(seen, spec, outcome, **fields))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("terms", [Terms(), FULL_TERMS], ids=["plain", "full"])
def test_a_job_is_shown_the_same_whatever_was_shown_of_its_terms_before(monkeypatch, terms, whole):
    plain = Snapshot(job=job(9, terms=terms))
    alone = shown(plain, full=whole)
    monkeypatch.setattr(views, "_blanks", {})
    live = Live(session_id="s", usage=None)
    everything = shown(full(8, terms), FULL_SPEC, FULL_OUTCOME, full=True, live=live, dependents=(5, 6))
    assert shown(plain, full=whole) == alone
    assert shown(full(8, terms), FULL_SPEC, FULL_OUTCOME, full=True, live=live, dependents=(5, 6)) == everything
    assert everything["depends_on"]
    assert everything["dependents"] == [5, 6]


def test_a_new_job_is_shown_as_one_that_was_read_and_has_no_outcome_yet():
    for whole in (True, False):
        seen = Snapshot(job=job(9))
        assert shown(seen, FULL_SPEC, NOTHING, full=whole) == shown(seen, FULL_SPEC, Outcome(), full=whole)


def test_more_terms_than_are_remembered_are_each_shown_as_they_are(monkeypatch):
    monkeypatch.setattr(views, "_MOST_BLANKS", 3)
    several = [Terms(boost=number, agent=f"agent {number}", needs=((f"n{number}", 1),)) for number in range(10)]
    for terms in [*several, *reversed(several), *several[:4] * 2]:
        found = shown(Snapshot(job=job(1, terms=terms)))
        assert (found["boost"], found["agent"], found["needs"]) == (terms.boost, terms.agent, dict(terms.needs))
    assert len(views._blanks) <= 3


def test_terms_that_are_changed_are_shown_as_they_became_though_they_may_lie_where_others_lay():
    for number in range(2000):  # their places in memory are used again
        terms = replace(FULL_TERMS, boost=number % 50, group=f"group {number}")
        found = shown(Snapshot(job=job(1, terms=terms)))
        assert (found["boost"], found["group"]) == (terms.boost, terms.group)
