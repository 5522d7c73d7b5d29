"""When a limit ends: every form that the programs and their providers write, and what is not believed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.agents.adapters.resets import BELIEVED, find_reset, from_delay, from_epoch, from_headers
from opusd.core.times import DAY, HOUR, MINUTE, SECOND, from_rfc3339

NOW = from_rfc3339("2026-11-23T18:00:00Z")  # a Monday; 13:00 in New York, 19:00 in Berlin
NEW_YORK, BERLIN, KOLKATA = ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")


def at(text):
    return from_rfc3339(text)


@pytest.mark.parametrize(
    ("text", "reset"),
    [
        # Claude Code
        ("You've hit your limit, resets 3:45pm (America/New_York)", "2026-11-23T20:45:00Z"),
        ("You've hit your limit · resets 2pm (Asia/Shanghai)", "2026-11-24T06:00:00Z"),
        ("You've hit your session limit · resets 8:30pm (Asia/Tokyo)", "2026-11-24T11:30:00Z"),
        ("You've hit your session limit · resets 12:50am (America/Los_Angeles)", "2026-11-24T08:50:00Z"),
        ("Weekly limit reached · resets 10am (Asia/Seoul) · /upgrade to Max", "2026-11-24T01:00:00Z"),
        ("You've hit your weekly limit · resets Nov 27 at 4:30am (Asia/Calcutta)", "2026-11-26T23:00:00Z"),
        ("You've hit your weekly limit · resets Nov 25 at 7pm", "2026-11-25T19:00:00Z"),
        ("limit reached · resets Nov 30, 10:59am (America/New_York)", "2026-11-30T15:59:00Z"),
        ("Claude AI usage limit reached|1795500000", "2026-11-24T06:00:00Z"),
        # Codex
        ("You've hit your usage limit. Visit https://chatgpt.com/x to purchase more credits or try again at 11:28 PM.",
         "2026-11-23T23:28:00Z"),
        ("You've hit your usage limit. Try again at Nov 28th, 2026 12:30 PM.", "2026-11-28T12:30:00Z"),
        ("or try again in 3 days 6 hours 57 minutes.", "2026-11-27T00:57:00Z"),
        # OpenAI and others
        ("Please try again in 2.5s.", "2026-11-23T18:00:02.5Z"),
        ("Please try again in 1m30s. Visit https://platform.openai.com", "2026-11-23T18:01:30Z"),
        ("Please try again in 6m0s.", "2026-11-23T18:06:00Z"),
        ("Please try again in 20ms.", "2026-11-23T18:00:00.02Z"),
        ("Please retry in 32.5s.", "2026-11-23T18:00:32.5Z"),
        ('"retryDelay": "58s"', "2026-11-23T18:00:58Z"),
        ('{"retry_after": 12.5}', "2026-11-23T18:00:12.5Z"),
        ("retry-after: 3600", "2026-11-23T19:00:00Z"),
        ("Retry after 30 seconds", "2026-11-23T18:00:30Z"),
        ("wait 5 minutes and 3 seconds", "2026-11-23T18:05:03Z"),
        ("limit resets at 2026-11-23T20:00:00+01:00", "2026-11-23T19:00:00Z"),
        ("reset: 1795500000", "2026-11-24T06:00:00Z"),
        ("resets at 1795500000000", "2026-11-24T06:00:00Z"),
        ('"resetsAt":1795500000', "2026-11-24T06:00:00Z"),
        ("available again at 2026-11-25 08:00 UTC", "2026-11-25T08:00:00Z"),
        # clock times of any kind
        ("resets 23:15", "2026-11-23T23:15:00Z"),
        ("resets at 17:54 GMT", "2026-11-24T17:54:00Z"),
        ("resets at 3:45 p.m. EST", "2026-11-23T20:45:00Z"),
        ("resets 12am", "2026-11-24T00:00:00Z"),
        ("resets 12pm", "2026-11-24T12:00:00Z"),
        ("try again on Nov 25", "2026-11-25T00:00:00Z"),
        ("resets 9pm +0200", "2026-11-23T19:00:00Z"),
        ("resets 9pm (in 3 hours)", "2026-11-23T21:00:00Z"),
    ],
)  # fmt: skip
def test_a_reset_is_read_in_every_known_form(text, reset):
    assert find_reset(text, NOW) == at(reset)


@pytest.mark.parametrize(
    "text",
    [
        "", "Please try again later.", "API Error: 529 Overloaded. try again in a moment.", "retries left: 3",
        "limit is 30000, used 29000", "resets Jan 12 at 7pm", "try again in 9 days", "resets 13pm", "resets 25:00",
        "resets at 2026-11-23T17:00:00Z", "resets at 99999999999999999999", "resets Feb 30 at 1pm", "resets 3",
        "resets 3:45pm (Middle/Earth)", "resets 3:45pm XST", "resets 3:45pm (America)", "retry 3",
        "usage limit reached|17955", "resets 9:99pm", "you have 5 minutes of work left",
    ],
)  # fmt: skip
def test_what_names_no_believable_reset_gives_none(text):
    assert find_reset(text, NOW) is None


def test_a_time_without_a_zone_is_in_the_zone_of_the_agent():
    assert find_reset("resets 3:45pm", NOW, NEW_YORK) == at("2026-11-23T20:45:00Z")
    assert find_reset("resets 3:45pm", NOW, KOLKATA) == at("2026-11-24T10:15:00Z")
    assert find_reset("try again at Nov 24th, 2026 1:00 AM.", NOW, BERLIN) == at("2026-11-24T00:00:00Z")


def test_a_clock_time_that_has_just_passed_is_not_a_day_away():
    """Programs cut the seconds off: `12:16 PM` of a limit that ends at 12:16:40 is in the past before it is over."""
    assert find_reset("try again at 6:16 PM.", at("2026-11-23T18:16:30Z")) is None
    assert find_reset("try again at 6:16 PM.", at("2026-11-23T18:20:59Z")) is None
    assert find_reset("try again at 11:59 PM.", at("2026-11-24T00:02:00Z")) is None
    assert find_reset("try again at 6:16 PM.", at("2026-11-23T18:22:00Z")) == at("2026-11-24T18:16:00Z")


@pytest.mark.parametrize(
    ("text", "zone", "now", "reset"),
    [
        # Clocks in New York go back on 2026-11-01 at 06:00Z: 1:30am comes twice.
        ("resets 1:30am", NEW_YORK, "2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z"),
        ("resets 1:30am", NEW_YORK, "2026-11-01T05:45:00Z", "2026-11-01T06:30:00Z"),
        ("resets 1:30am", NEW_YORK, "2026-11-01T06:45:00Z", "2026-11-02T06:30:00Z"),
        ("resets 3am", NEW_YORK, "2026-11-01T02:00:00Z", "2026-11-01T08:00:00Z"),  # six hours, not five
        # They go forward on 2026-03-08 at 07:00Z: 2:30am does not come, and is the moment half past the jump.
        ("resets 2:30am", NEW_YORK, "2026-03-08T06:00:00Z", "2026-03-08T07:30:00Z"),
        ("resets 3am", NEW_YORK, "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"),
        # A day and a year that have begun elsewhere.
        ("resets 1am (Pacific/Auckland)", UTC, "2026-12-31T10:59:00Z", "2026-12-31T12:00:00Z"),
        ("resets Jan 2 at 7pm", UTC, "2026-12-30T00:00:00Z", "2027-01-02T19:00:00Z"),
        ("resets 11pm", KOLKATA, "2026-06-01T18:00:00Z", "2026-06-02T17:30:00Z"),
    ],
)
def test_days_are_as_long_as_their_zone_makes_them(text, zone, now, reset):
    assert find_reset(text, at(now), zone) == at(reset)


def test_eight_days_are_believed_and_no_more():
    assert from_delay(8 * 86400, NOW) == NOW + BELIEVED == NOW + 8 * DAY
    assert from_delay(8 * 86400 + 1, NOW) is None
    assert from_epoch((NOW + 8 * DAY) // SECOND, NOW) == NOW + 8 * DAY
    assert from_epoch((NOW + 8 * DAY) // SECOND + 1, NOW) is None
    assert find_reset("try again in 8 days", NOW) == NOW + 8 * DAY
    assert find_reset("try again in 8 days 1 second", NOW) is None


@pytest.mark.parametrize("value", [True, None, "soon", "", float("nan"), float("inf"), -5, [], "1e9", 10**40, "9" * 19])
def test_what_is_no_epoch_gives_none(value):
    assert from_epoch(value, NOW) is None


def test_an_epoch_may_be_seconds_milliseconds_a_number_or_text():
    for value in (1795500000, 1795500000.0, 1795500000000, "1795500000", "1795500000.0", "1795500000000"):
        assert from_epoch(value, NOW) == at("2026-11-24T06:00:00Z")


def test_headers_name_the_window_of_the_account_before_the_next_try():
    assert from_headers({"Retry-After": "3", "anthropic-ratelimit-unified-reset": "1795500000"}, NOW) == at(
        "2026-11-24T06:00:00Z"
    )
    assert from_headers({"retry-after-ms": "1500", "retry-after": "2"}, NOW) == NOW + 1_500_000
    assert from_headers({"retry-after": "Mon, 23 Nov 2026 18:30:00 GMT"}, NOW) == NOW + 30 * MINUTE
    assert from_headers({"x-ratelimit-reset-tokens": "6m0s"}, NOW) == NOW + 6 * MINUTE
    assert from_headers({"retry-after": "soon", "x-ratelimit-reset-requests": "1s"}, NOW) == NOW + SECOND
    assert from_headers({"retry-after": ["3"], "date": "Mon, 23 Nov 2026 18:30:00 GMT"}, NOW) is None


@pytest.mark.slow
@given(st.text(max_size=300), st.integers(0, 2**53), st.sampled_from([UTC, NEW_YORK, KOLKATA]))
def test_any_text_gives_a_reset_ahead_within_eight_days_or_none(text, now, zone):
    for prose in (text, f"resets {text}", f"try again in {text}", f"retry-after: {text}"):
        found = find_reset(prose, now, zone)
        assert found is None or now < found <= now + BELIEVED


_PART = st.sampled_from(
    [*"0123456789:.,-+ ()apmAPMZTst", "resets ", "in ", "Nov ", "UTC", "days", "(Europe/Berlin)", "at "]
)


@given(st.lists(_PART, max_size=30).map("".join), st.integers(0, 2**53))
def test_nothing_that_looks_like_a_time_breaks_it(text, now):
    found = find_reset("resets " + text, now, BERLIN)
    assert found is None or now < found <= now + BELIEVED


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    st.integers(0, 23), st.integers(0, 59), st.sampled_from([NEW_YORK, BERLIN, KOLKATA, UTC]),
)  # fmt: skip
def test_a_clock_time_is_the_next_moment_at_which_the_zone_shows_it(moment, hour, minute, zone):
    now = round((moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * SECOND
    half, shown = ("pm" if hour >= 12 else "am"), hour % 12 or 12
    found = find_reset(f"resets {shown}:{minute:02}{half}", now, zone)
    # Told by walking: the first minute after now whose clock shows it (a clock that jumps over it shows it later).
    start = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now)).replace(second=0)
    shows = (start + timedelta(minutes=n) for n in range(1, 60 * 50))
    first = next(t for t in shows if (local := t.astimezone(zone)).hour == hour and local.minute == minute)
    walked = round((first - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * SECOND
    if found is None:
        passed = start - timedelta(minutes=5)
        recent = {(t.hour, t.minute) for n in range(6) if (t := (passed + timedelta(minutes=n)).astimezone(zone))}
        assert (hour, minute) in recent
    elif found != walked:  # in the hour that a spring day lacks
        assert zone is not UTC
        assert abs(found - walked) <= DAY
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=found)).astimezone(zone)
        assert (local.hour * 60 + local.minute) - (hour * 60 + minute) == 60


@given(st.integers(0, 6), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_delay_is_the_sum_of_its_terms(days, hours, minutes, seconds):
    total = days * DAY + hours * HOUR + minutes * MINUTE + seconds * SECOND
    wanted = NOW + total if total else None
    for text in (
        f"try again in {days}d{hours}h{minutes}m{seconds}s.",
        f"try again in {days} days {hours} hours, {minutes} minutes and {seconds} seconds",
    ):
        assert find_reset(text, NOW) == wanted
