"""When cron expressions come due, over the leaps of a clock too."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.core.times import DAY, HOUR, MINUTE, SECOND, from_rfc3339, to_rfc3339
from opusd.triggers.calendar import Calendar

BERLIN = ZoneInfo("Europe/Berlin")
NOW = from_rfc3339("2026-01-01T00:00:00Z")


def firings(cron, zone, since, count):
    """So many firings after a moment, in UTC, to the minute."""
    calendar = Calendar(cron, zone, NOW)
    moment, found = from_rfc3339(since), []
    for _ in range(count):
        moment = calendar.after(moment)
        found.append(to_rfc3339(moment)[:16])
    return found


def test_five_fields_name_the_minute_the_hour_and_the_days():
    assert firings("30 3 * * mon-fri", UTC, "2026-01-01T03:30:00Z", 3) == [
        "2026-01-02T03:30", "2026-01-05T03:30", "2026-01-06T03:30",
    ]  # fmt: skip


def test_words_are_accepted_for_the_usual_ones():
    assert firings("@daily", UTC, "2026-01-01T00:00:00Z", 1) == ["2026-01-02T00:00"]
    assert firings(" @HOURLY ", UTC, "2026-01-01T00:00:00Z", 1) == ["2026-01-01T01:00"]


def test_the_last_day_of_a_month_is_l():
    assert firings("0 0 L * *", UTC, "2028-02-01T00:00:00Z", 2) == ["2028-02-29T00:00", "2028-03-31T00:00"]


def test_weekdays_may_be_the_first_or_the_last_of_a_month():
    assert firings("0 0 * * fri#1", UTC, "2026-01-01T00:00:00Z", 2) == ["2026-01-02T00:00", "2026-02-06T00:00"]
    assert firings("0 0 * * 5L", UTC, "2026-01-01T00:00:00Z", 2) == ["2026-01-30T00:00", "2026-02-27T00:00"]


def test_of_a_day_and_a_weekday_either_will_do():
    assert firings("0 0 13 * fri", UTC, "2026-01-03T00:00:00Z", 3) == [
        "2026-01-09T00:00", "2026-01-13T00:00", "2026-01-16T00:00",
    ]  # fmt: skip


def test_hours_are_those_of_the_zone_in_summer_and_in_winter():
    assert firings("0 9 1 1,7 *", BERLIN, "2026-01-02T00:00:00Z", 2) == ["2026-07-01T07:00", "2027-01-01T08:00"]


def test_an_hour_that_the_clock_skips_comes_once_at_the_leap():
    # 29 March 2026: 02:00 becomes 03:00, which is 01:00 in UTC.
    assert firings("30 2 * * *", BERLIN, "2026-03-28T02:00:00Z", 2) == ["2026-03-29T01:00", "2026-03-30T00:30"]
    assert firings("0,30 2 * * *", BERLIN, "2026-03-28T02:00:00Z", 2) == ["2026-03-29T01:00", "2026-03-30T00:00"]


def test_an_hour_that_the_clock_shows_twice_comes_the_first_time_alone():
    # 25 October 2026: 03:00 becomes 02:00, which is 01:00 in UTC.
    assert firings("30 2 * * *", BERLIN, "2026-10-24T12:00:00Z", 2) == ["2026-10-25T00:30", "2026-10-26T01:30"]


def test_what_was_added_while_the_hour_is_shown_again_waits_for_the_next_day():
    assert firings("30 2 * * *", BERLIN, "2026-10-25T01:15:00Z", 1) == ["2026-10-26T01:30"]


def test_what_comes_each_quarter_goes_on_through_both_leaps():
    quarters = firings("*/15 * * * *", BERLIN, "2026-10-25T00:00:00Z", 12)
    assert quarters[-1] == "2026-10-25T03:00"
    assert firings("*/15 * * * *", BERLIN, "2026-03-29T00:30:00Z", 4)[-1] == "2026-03-29T01:30"


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("61 * * * *", "wrong minute"),
        ("* 25 * * *", "wrong hour"),
        ("* * 0 * *", "wrong day-of-month"),
        ("* * * 13 *", "wrong month"),
        ("* * * * funday", "wrong day-of-week"),
        ("0 3 * *", "has 4 fields"),
        ("*/5 0 3 * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("@reboot", "not one of @hourly"),
        ("0 0 30 2 *", "wrong day-of-month"),
        ("*/0 * * * *", "wrong minute"),
        ("0," * 150 + "0 * * * *", "more than 200 characters"),
    ],
)
def test_what_is_no_expression_is_refused_with_what_is_wrong(cron, words):
    with pytest.raises(ValueError, match=words):
        Calendar(cron, UTC, NOW)


MOMENTS = st.integers(from_rfc3339("2026-03-20T00:00:00Z"), from_rfc3339("2026-11-05T00:00:00Z"))
CRONS = st.sampled_from([
    "* * * * *", "*/7 * * * *", "30 2 * * *", "0,30 2,3 * * *", "0 */2 * * *", "15 2 * * sun", "0 0 1 * *",
    "*/20 2 * * *",
])  # fmt: skip


@given(CRONS, MOMENTS)
def test_a_firing_is_later_than_what_it_is_asked_for_and_on_a_full_minute(cron, moment):
    firing = Calendar(cron, BERLIN, NOW).after(moment)
    assert firing > moment
    assert firing % MINUTE == 0


@given(CRONS, MOMENTS, st.integers(0, 5 * DAY // SECOND), st.integers(1, 5))
def test_the_recent_firings_are_the_last_of_all_that_there_are(cron, begin, seconds, most):
    calendar = Calendar(cron, BERLIN, NOW)
    end = begin + seconds * SECOND
    every, firing = [], calendar.after(max(begin, end - 12 * HOUR))
    while firing <= end:
        every.append(firing)
        firing = calendar.after(firing)
    found, more = calendar.recent(begin, end, most)
    if len(every) > most or begin >= end - 12 * HOUR:
        assert found == every[-most:]
        assert more is (len(every) > most)
    assert found == sorted(found)
    assert all(begin < one <= end for one in found)


def test_a_decade_of_minutes_is_looked_through_at_once():
    calendar = Calendar("* * * * *", UTC, NOW)
    end = from_rfc3339("2036-01-01T00:00:00Z")
    found, more = calendar.recent(NOW, end, 100)
    assert (len(found), found[-1], more) == (100, end, True)


def test_a_zone_of_utc_by_name_and_utc_itself_agree():
    moment = datetime(2026, 5, 1, tzinfo=UTC)
    assert moment == moment.astimezone(ZoneInfo("UTC"))
    assert firings("0 3 * * *", ZoneInfo("UTC"), "2026-05-01T00:00:00Z", 2) == firings(
        "0 3 * * *", UTC, "2026-05-01T00:00:00Z", 2
    )
