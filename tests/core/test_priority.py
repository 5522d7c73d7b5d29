import pytest

from opusd.core.job import Tier
from opusd.core.priority import parse_priority


def test_one_to_ten_are_tiers_with_a_boost_as_the_contract_lists_them() -> None:
    low, normal, urgent = Tier.LOW, Tier.NORMAL, Tier.URGENT
    assert [parse_priority(level) for level in range(1, 11)] == [
        *((low, boost) for boost in (-16, 0, 16)),
        *((normal, boost) for boost in (-16, 0, 16)),
        *((urgent, boost) for boost in (-16, 0, 16, 32)),
    ]


def test_a_tier_goes_by_its_name_and_high_is_urgent() -> None:
    assert [parse_priority(tier.word) for tier in Tier] == [(tier, 0) for tier in Tier]
    assert parse_priority("high") == (Tier.URGENT, 0)


@pytest.mark.parametrize("value", [0, 11, -1, True, "", "High", "5", "x" * 500, None, 2.0])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="one of low, normal, urgent, high, critical, or 1 to 10") as refused:
        parse_priority(value)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 120
