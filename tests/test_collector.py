"""The cyclic collector looks at what is new, never again at what is there to stay."""

import gc

import pytest

from opusd import collector
from opusd.collector import Collector, resting


@pytest.fixture(autouse=True)
def _as_it_was():
    thresholds = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()


def test_what_a_registry_left_in_memory_is_looked_at_no_more_and_what_comes_later_is():
    with resting():
        assert not gc.isenabled()
        kept = [[] for _ in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(kept)
    new = []
    assert any(one is new for one in gc.get_objects())
    assert not any(one is kept for one in gc.get_objects())


def test_a_registry_that_can_not_be_read_leaves_the_collector_at_work():
    with pytest.raises(ValueError, match="damaged"), resting():
        raise ValueError("damaged")
    assert gc.isenabled()


def test_a_long_queue_is_frozen_once_so_much_has_changed(monkeypatch):
    monkeypatch.setattr(collector, "_CHANGES", 10)
    many, some = collector._MANY, Collector()
    kept = []
    for changes in (4, 5):
        some.changed(changes, many)
    assert not gc.get_freeze_count()
    some.changed(1, many)
    assert not any(one is kept for one in gc.get_objects())
    gc.unfreeze()
    some.changed(9, many)  # counted anew
    assert not gc.get_freeze_count()


def test_a_short_queue_is_never_frozen():
    some = Collector()
    some.changed(10 * collector._CHANGES, collector._MANY - 1)
    some.settle(collector._MANY - 1)
    assert not gc.get_freeze_count()


def test_a_cycle_that_has_no_owner_is_not_frozen():
    class Knot:
        alive = 0

        def __init__(self):
            Knot.alive += 1
            self.self = self

        def __del__(self):
            Knot.alive -= 1

    Knot()
    Collector().settle(collector._MANY)
    assert not Knot.alive
