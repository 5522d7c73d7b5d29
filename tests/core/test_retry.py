"""Delays in units of the base, with jitter before the cap; what is retried and what never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.core.retry import PRESETS, RETRIED, FailureClass, Policy, Strategy, delay, retries

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("strategy", "units"),
    [("none", [0] * 5), ("immediate", [0] * 5), ("linear", [1, 2, 3, 4, 5]), ("exponential", [1, 2, 4, 8, 16]),
     ("fibonacci", [1, 1, 2, 3, 5])],
)  # fmt: skip
def test_delays_grow_as_the_contract_says(strategy: str, units: list[int]) -> None:
    policy = Policy(Strategy(strategy), base=SECOND, cap=1000 * SECOND, jitter=0.0, max_retries=9)
    assert [delay(policy, number, 0.7) for number in range(1, 6)] == [unit * SECOND for unit in units]


def test_jitter_is_a_fraction_added_before_the_cap() -> None:
    policy = Policy(Strategy.LINEAR, base=100, cap=250, jitter=0.5)
    assert delay(policy, 1, 1.0) == 150
    assert delay(policy, 2, 0.1) == 210
    assert delay(policy, 2, 1.0) == 250


@given(st.sampled_from(Strategy), st.integers(1, 10**9), st.floats(0, 1))
def test_no_delay_passes_the_cap_however_many_retries(strategy: Strategy, number: int, chance: float) -> None:
    policy = Policy(strategy, base=SECOND, cap=300 * SECOND)
    assert 0 <= delay(policy, number, chance) <= 300 * SECOND


def test_the_presets_are_the_contracts() -> None:
    minute = 60 * SECOND
    assert {
        "default": Policy(Strategy.EXPONENTIAL, SECOND, 5 * minute, 0.1, 3),
        "fast": Policy(Strategy.IMMEDIATE, SECOND, SECOND, 0.1, 3),
        "slow": Policy(Strategy.FIBONACCI, minute, 60 * minute, 0.1, 5),
        "none": Policy(Strategy.NONE, max_retries=0),
    } == PRESETS


def test_all_is_retried_but_auth_config_cancelled_rate_limited_and_lost() -> None:
    never = {"auth", "config", "cancelled", "rate_limited", "lost"}
    assert {failure.value for failure in FailureClass} - {failure.value for failure in RETRIED} == never
    for failure in FailureClass:
        assert retries(PRESETS["default"], failure, 0) is (failure.value not in never)


def test_on_names_the_classes_instead() -> None:
    policy = Policy(Strategy.IMMEDIATE, max_retries=1, on=(FailureClass.AUTH,))
    assert retries(policy, FailureClass.AUTH, 0)
    assert not retries(policy, FailureClass.AGENT_ERROR, 0)


def test_retries_end_after_max_retries_and_none_has_none() -> None:
    assert retries(PRESETS["default"], FailureClass.TIMEOUT, 2)
    assert not retries(PRESETS["default"], FailureClass.TIMEOUT, 3)
    assert not retries(Policy(Strategy.NONE, max_retries=5), FailureClass.TIMEOUT, 0)
