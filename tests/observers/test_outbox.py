"""The outbox against the simplest model of it, over commits and undone decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.core.decision import Decision
from opusd.core.state import State
from opusd.core.times import MINUTE, SECOND
from opusd.observers import outbox as module
from opusd.observers.outbox import DELAYS, JITTER, Outbox
from tests.core.world import START, limits

SINKS = ("a", "b")
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "postpone"]), st.sampled_from(SINKS), st.integers(0, 5), st.booleans()),
    max_size=30,
)


def contents(outbox):
    """All that it says of itself, and the line of each sink when it is emptied by what is due first."""
    found = {}
    for sink in SINKS:
        assert outbox.waiting(sink) >= 0
        found[sink] = (outbox.waiting(sink), outbox.first(sink))
    return (len(outbox), found, sorted(entry.id for entry in outbox.of_others(())))


@given(STEPS)
def test_it_is_what_the_registry_makes_of_it_also_when_decisions_are_undone(steps):
    state, kept = State(limits()), {}
    outbox = Outbox({})
    for number, (what, sink, chance, commits) in enumerate(steps):
        decision = Decision(state, START + number)
        entry = outbox.first(sink)
        if what == "add":
            outbox.add(decision, sink, "job.failed", "{}", number)
        elif entry is not None and what == "remove":
            outbox.remove(decision, entry)
        elif entry is not None:
            outbox.postpone(decision, entry, chance / 5)
        if commits:
            kept |= decision.settings
            kept = {name: value for name, value in kept.items() if value is not None}
        else:
            decision.undo()
        assert contents(outbox) == contents(Outbox(kept))
        for one in SINKS:
            mine = [entry for entry in outbox.of_others(()) if entry.sink == one]
            assert outbox.first(one) == min(mine, key=lambda entry: (entry.due, entry.number), default=None)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_delays_follow_the_schedule_with_up_to_a_tenth_more(chance):
    state, outbox = State(limits()), Outbox({})
    decision = Decision(state, START)
    outbox.add(decision, "a", "job.failed", "{}")
    entry, waits = outbox.first("a"), []
    while (later := outbox.postpone(decision, entry, chance)) is not None:
        waits.append(later.due - START)
        entry = later
    assert waits == [int(delay * (1 + JITTER * chance)) for delay in DELAYS]
    assert waits[:2] == [int(5 * SECOND * (1 + JITTER * chance)), int(5 * MINUTE * (1 + JITTER * chance))]
    assert len(outbox) == 0


def test_the_oldest_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    outbox = Outbox({})
    for number in range(4):
        outbox.add(Decision(State(limits()), START), "a", "job.failed", "{}", number)
    assert [entry.job for entry in outbox.overflow()] == [0, 1]
