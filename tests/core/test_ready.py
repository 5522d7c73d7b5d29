"""The lane: rank in a blocked sorted list, the best placeable job by classes that wait together."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from opusd.core.ready import PLAIN, Lane, RankList, Signature

GPU = Signature(needs=(("gpu", 1),))
HUMAN = Signature(interactive=True)
SMALL = Signature(group="small")
SIGNATURES = (PLAIN, GPU, HUMAN, SMALL)

keys = st.integers(0, 400)


def nothing(signature: Signature, key: int) -> str | None:
    return None


class Ranks(RuleBasedStateMachine):
    """A RankList beside a plain sorted list."""

    def __init__(self) -> None:
        super().__init__()
        self.list = RankList()
        self.model: list[int] = []

    @rule(key=keys)
    def add(self, key: int) -> None:
        if key not in self.model:
            self.list.add(key)
            self.model = sorted([*self.model, key])

    @rule(start=st.integers(0, 10**6), count=st.integers(1, 3000), step=st.sampled_from([1, 3, -1]))
    def add_many(self, start: int, count: int, step: int) -> None:
        known = set(self.model)
        for key in range(start, start + step * count, step):
            if key not in known:
                self.list.add(key)
                known.add(key)
        self.model = sorted(known)

    @rule(key=keys)
    def remove(self, key: int) -> None:
        if key in self.model:
            self.list.remove(key)
            self.model.remove(key)
        else:
            with pytest.raises(KeyError):
                self.list.remove(key)

    @rule(share=st.sampled_from([0.0, 0.5, 0.99]), data=st.data())
    def remove_many(self, share: float, data: st.DataObject) -> None:
        chance = data.draw(st.randoms(use_true_random=False))
        gone = [key for key in self.model if chance.random() < share]
        for key in gone:
            self.list.remove(key)
        self.model = sorted(set(self.model) - set(gone))

    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        self.model = data.draw(st.lists(keys, unique=True, max_size=20))
        self.list.load(self.model.copy())
        self.model.sort()

    @rule(key=st.one_of(keys, st.integers(-5, 10**6)))
    def look(self, key: int) -> None:
        assert self.list.rank(key) == sum(1 for entry in self.model if entry < key)
        assert (key in self.list) is (key in self.model)
        assert list(self.list.after(key)) == [entry for entry in self.model if entry > key]

    @invariant()
    def same(self) -> None:
        assert list(self.list) == self.model
        assert len(self.list) == len(self.model)
        assert self.list.first() == (self.model[0] if self.model else None)


Ranks.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRanks = Ranks.TestCase


def test_the_rank_of_each_of_ten_thousand_is_its_place_in_the_sorted_list() -> None:
    ranks = RankList()
    for key in range(20_000, 0, -2):
        ranks.add(key)
    assert [ranks.rank(key) for key in range(2, 20_002, 2)] == list(range(10_000))
    assert ranks.rank(10**9) == 10_000


@given(
    st.lists(st.tuples(keys, st.sampled_from(SIGNATURES)), unique_by=lambda entry: entry[0]),
    st.sets(st.sampled_from(SIGNATURES)),
    st.data(),
)
def test_best_is_the_first_in_order_whose_class_lacks_nothing(
    entries: list[tuple[int, Signature]], lacking: set[Signature], data: st.DataObject
) -> None:
    lane = Lane()
    for key, signature in entries:
        lane.push(key, signature)
    gone = data.draw(st.sets(st.sampled_from(entries), max_size=5)) if entries else set()
    for key, _ in gone:
        lane.remove(key)
    left = [entry for entry in entries if entry not in gone]

    def lacks(signature: Signature, key: int) -> str | None:
        return f"lack{SIGNATURES.index(signature)}" if signature in lacking else None

    for interactive_only in (True, False):
        wanted = [key for key, s in left if s not in lacking and (s.interactive or not interactive_only)]
        assert lane.best(lacks, interactive_only=interactive_only) == min(wanted, default=None)
    for signature in SIGNATURES:
        lane.wake(f"lack{SIGNATURES.index(signature)}")
    assert lane.best(nothing) == min((key for key, _ in left), default=None)


@pytest.mark.parametrize("classes", [1, 2, 3, 20])
def test_when_most_of_a_lane_has_left_the_rest_is_taken_in_order(classes: int) -> None:
    lane = Lane()
    signatures = [PLAIN, *(Signature(group=f"g{number}") for number in range(1, classes))]
    for key in range(2_000):
        lane.push(key, signatures[key % classes])
    kept = [key for key in range(2_000) if key // classes % 10 == 0]
    for key in sorted(set(range(2_000)) - set(kept), reverse=True):  # from behind: no head gives way by surfacing
        lane.remove(key)
    taken = []
    while (key := lane.best(nothing)) is not None:
        lane.remove(key)
        taken.append(key)
    assert taken == kept


def test_a_class_that_lacks_something_is_not_asked_again_before_it_is_woken() -> None:
    lane = Lane()
    asked: list[int] = []
    free = False

    def lacks(signature: Signature, key: int) -> str | None:
        asked.append(key)
        return None if free else "need:gpu"

    for key in range(1000):
        lane.push(key, GPU)
    assert lane.best(lacks) is None
    assert lane.best(lacks) is None
    assert asked == [0]
    free = True
    assert lane.best(lacks) is None
    lane.wake("need:disk")
    assert lane.best(lacks) is None
    lane.wake("need:gpu")
    assert lane.best(lacks) == 0


def test_a_new_first_of_a_class_that_lacks_something_is_looked_at() -> None:
    # A job before the one that reserves may be placed where its class could not.
    lane = Lane()
    for key in (10, 20, 30):
        lane.push(key, GPU)

    def reserved_for_25(signature: Signature, key: int) -> str | None:
        return "need:gpu" if key > 5 else None

    assert lane.best(reserved_for_25) is None
    lane.push(3, GPU)
    assert lane.best(reserved_for_25) == 3


def test_a_first_whose_predecessor_was_removed_is_looked_at_too() -> None:
    lane = Lane()
    lane.push(1, GPU)
    lane.push(30, GPU)
    assert lane.best(lambda _signature, _key: "need:gpu") is None
    lane.remove(1)
    lane.push(3, GPU)
    assert lane.best(lambda _, key: None if key < 25 else "need:gpu") == 3


def test_interactive_only_passes_over_everybody_else() -> None:
    lane = Lane()
    lane.push(1, PLAIN)
    lane.push(2, HUMAN)
    assert lane.best(nothing, interactive_only=True) == 2
    assert lane.best(nothing) == 1


def paused(signature: Signature, key: int) -> str | None:
    return f"group:{signature.group}" if signature.group == "small" else None


def test_first_passes_over_paused_groups_but_not_over_those_that_lack() -> None:
    lane = Lane()
    assert lane.first(nothing) is None
    lane.push(1, SMALL)
    lane.push(2, GPU)
    lane.push(3, PLAIN)
    assert lane.best(lambda signature, _: "need:gpu" if signature == GPU else None) == 1
    assert lane.first(nothing) == 1
    assert lane.first(paused) == 2
    assert lane.first(paused, interactive_only=True) is None
    lane.remove(2)
    lane.remove(3)
    assert lane.first(paused) is None
    lane.wake("group:small")
    assert lane.first(nothing) == lane.best(nothing) == 1


def test_who_is_first_is_not_asked_of_every_class_that_is_shut_each_time() -> None:
    # A paused group of 100,000 jobs that each need something else once cost half a second at every tick.
    lane = Lane()
    asked: list[int] = []

    def shut(signature: Signature, key: int) -> str | None:
        asked.append(key)
        return paused(signature, key)

    for key in range(1000):
        lane.push(key, Signature(group="small", needs=((f"repo:{key}", 1),)))
    lane.push(1000, PLAIN)
    for _ in range(3):
        assert lane.first(shut) == 1000
    assert len(asked) == 1000 + 3
    lane.wake("group:small")
    assert lane.first(nothing) == 0


def test_who_asks_again_for_the_same_is_not_shown_every_class_again() -> None:
    # A worker that waited for a label held up every decision by the look at 100,000 classes without it.
    lane = Lane()
    looked: list[Signature] = []

    def takes(signature: Signature) -> bool:
        looked.append(signature)
        return signature.group == "small"

    for key in range(1000):
        lane.push(key, Signature(needs=((f"repo:{key}", 1),)))
    for _ in range(3):
        assert lane.best_of("small", takes, nothing) is None
    assert len(looked) == 1000
    lane.push(1000, SMALL)
    assert lane.best_of("small", takes, lambda _signature, _key: "need:gpu") is None
    assert lane.best_of("small", takes, nothing) is None, "nobody has said that there is more of it"
    lane.wake("need:gpu")
    assert lane.best_of("small", takes, nothing) == 1000
    assert len(looked) == 1001
    assert lane.best_of("all", lambda _: True, nothing) == 0
    lane.remove(1000)
    assert lane.best_of("small", takes, nothing) is None


def test_more_wishes_than_are_remembered_are_met_all_the_same() -> None:
    lane = Lane()
    for key in range(200):
        lane.push(key, Signature(group=f"g{key}"))
    for _ in range(2):
        for key in range(200):
            assert lane.best_of(key, lambda signature, key=key: signature.group == f"g{key}", nothing) == key  # type: ignore[misc]
    lane.remove(150)
    assert lane.best_of(150, lambda signature: signature.group == "g150", nothing) is None


def test_a_key_that_comes_back_with_another_signature_belongs_to_that_one_alone() -> None:
    lane = Lane()
    lane.push(1, GPU)
    lane.push(9, GPU)
    lane.remove(1)
    lane.push(1, PLAIN)
    assert lane.best(lambda signature, _: "need:gpu" if signature == GPU else None) == 1
    lane.remove(1)
    assert lane.best(nothing) == 9


def test_one_key_under_two_signatures_after_an_id_was_given_back_is_no_matter() -> None:
    lane = Lane()
    for signature in (PLAIN, SMALL, GPU, PLAIN, SMALL):
        lane.push(1, signature)
        lane.push(2, SMALL)
        assert lane.best(nothing) == 1
        lane.remove(1)
        lane.remove(2)
    assert lane.best(nothing) is None


def test_a_loaded_lane_is_a_pushed_one() -> None:
    entries = {PLAIN: [5, 1, 9], GPU: [4, 2], HUMAN: [7]}
    loaded, pushed = Lane(), Lane()
    loaded.load({signature: list(keys) for signature, keys in entries.items()})
    for signature, found in entries.items():
        for key in found:
            pushed.push(key, signature)
    assert list(loaded.order) == list(pushed.order) == [1, 2, 4, 5, 7, 9]
    for lane in (loaded, pushed):
        taken = []
        while (key := lane.best(nothing)) is not None:
            taken.append(key)
            lane.remove(key)
        assert taken == [1, 2, 4, 5, 7, 9]


def test_a_job_that_comes_and_goes_a_million_times_leaves_nothing_behind() -> None:
    lane = Lane()
    for key in range(100, 200):
        lane.push(key, PLAIN)
    for _ in range(2000):
        lane.push(50, PLAIN)
        lane.remove(50)
        lane.push(7, GPU)
        lane.remove(7)
    assert _weight(lane) < 2000


def _weight(thing: object) -> int:
    """How many entries the containers under this object hold."""
    if isinstance(thing, int | str | count):
        return 0
    if isinstance(thing, dict):
        return len(thing) + sum(map(_weight, thing.values()))
    if isinstance(thing, list | set | tuple):
        return len(thing) + sum(map(_weight, thing))
    names = getattr(thing, "__slots__", None) or getattr(thing, "__dict__", {})
    return sum(_weight(getattr(thing, name)) for name in names)
