from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.core.times import (
    DAY,
    HOUR,
    LONGEST,
    MINUTE,
    SECOND,
    format_duration,
    from_rfc3339,
    parse_duration,
    to_rfc3339,
)

FIRST, LAST = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1


@given(st.integers(FIRST, LAST))
def test_a_time_comes_back_from_its_text_and_the_text_has_six_digits_and_z(us: int) -> None:
    text = to_rfc3339(us)
    assert from_rfc3339(text) == us
    assert len(text) == len("2026-01-31T23:59:59.000000Z")
    assert text.endswith("Z")
    assert text[19] == "."


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-23 * 60 - 59, 23 * 60 + 59))  # noqa: DTZ001
def test_any_offset_names_the_same_moment(moment: datetime, minutes: int) -> None:
    local = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (local - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert from_rfc3339(local.isoformat()) == expected


def test_digits_past_microseconds_are_cut_off_and_a_leap_second_is_the_next_minute() -> None:
    assert from_rfc3339("1970-01-01T00:00:00.123456999Z") == 123_456
    assert from_rfc3339("1970-01-01t00:00:00.5z") == 500_000
    assert from_rfc3339("2016-12-31T23:59:60Z") == from_rfc3339("2017-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z",
     "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00Z ", "٢٠٢٦-01-01T00:00:00Z", "2026-01-01T00:00Z"],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        from_rfc3339(text)


@pytest.mark.parametrize(
    ("value", "us"),
    [
        (0, 0), (1, SECOND), (1.5, 1_500_000), ("90s", 90 * SECOND), ("10m", 10 * MINUTE), ("24h", DAY),
        ("7d", 7 * DAY), ("1h30m", 90 * MINUTE), ("1w", 7 * DAY), ("250ms", 250_000), ("7us", 7), ("1.5h", 90 * MINUTE),
        ("90", 90 * SECOND), ("0", 0), (" 1h 30m ", 90 * MINUTE), ("0.1s", 100_000), (0.1, 100_000),
        (36500 * 86400, LONGEST),
    ],
)  # fmt: skip
def test_a_duration_is_seconds_or_terms_with_units(value: float | str, us: int) -> None:
    assert parse_duration(value) == us


@pytest.mark.parametrize(
    "value",
    [
        -1, -0.5, "-1s", "- 5m", float("nan"), float("inf"), float("-inf"), "inf", "nan", "", " ", "s", "1x",
        "1s1s", "30m1h",
        "1h30", "30 1h", "1e3", "0x10", "1..5s", ".5s", "101y", "١s", 10**30, 36501 * 86400, 1e300, "36501d",
        "9" * 40 + "s",
        True, None, [], "1H",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_what_was_sent(value: object) -> None:
    with pytest.raises(ValueError, match="duration|100 years"):
        parse_duration(value)  # type: ignore[arg-type]


@given(st.integers(0, LONGEST))
def test_a_duration_comes_back_from_its_text(us: int) -> None:
    assert parse_duration(format_duration(us)) == us


@given(st.text(max_size=30) | st.floats() | st.integers())
def test_any_text_or_number_is_a_duration_within_bounds_or_a_value_error(value: float | str) -> None:
    try:
        us = parse_duration(value)
    except ValueError as refusal:
        assert len(str(refusal)) < 200
    else:
        assert 0 <= us <= LONGEST


def test_durations_are_written_as_people_write_them() -> None:
    assert [format_duration(us) for us in (0, 90 * MINUTE, 10 * SECOND, 30 * DAY, HOUR + 1)] == [
        "0s", "1h30m", "10s", "4w2d", "1h1us",
    ]  # fmt: skip
