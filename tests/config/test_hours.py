"""Windows of the day: what is read, when they open and close, and what they do when clocks change."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.config.hours import Window, local_zone, named_zone, parse_window

BERLIN = ZoneInfo("Europe/Berlin")


def window(text: str, zone: str = "Europe/Berlin") -> Window:
    return parse_window(text, ZoneInfo(zone), zone)


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(moment.timestamp() * 1_000_000)


def opening(found: Window, now: int) -> tuple[bool, str]:
    """Open or not, and until when in UTC."""
    is_open, until = found.at(now)
    return is_open, datetime.fromtimestamp(until / 1e6, UTC).strftime("%a %d %b %H:%M")


def test_a_window_over_midnight_is_open_on_both_sides_of_it() -> None:
    night = window("22:00-06:00")
    assert opening(night, at("2026-01-14 12:00")) == (False, "Wed 14 Jan 21:00")
    assert opening(night, at("2026-01-14 22:00")) == (True, "Thu 15 Jan 05:00")
    assert opening(night, at("2026-01-15 05:59")) == (True, "Thu 15 Jan 05:00")
    assert opening(night, at("2026-01-15 06:00")) == (False, "Thu 15 Jan 21:00")
    assert str(night) == "22:00-06:00 Europe/Berlin"


def test_a_window_within_a_day_opens_and_closes_on_the_minute() -> None:
    noon = window("9:30-17:05", "UTC")
    assert noon.at(at("2026-01-14 09:30", "UTC") - 1) == (False, at("2026-01-14 09:30", "UTC"))
    assert noon.at(at("2026-01-14 09:30", "UTC")) == (True, at("2026-01-14 17:05", "UTC"))
    assert noon.at(at("2026-01-14 17:05", "UTC")) == (False, at("2026-01-15 09:30", "UTC"))


def test_days_are_those_on_which_a_window_begins() -> None:
    week = window("mon-fri 22:00-06:00, sat,sun 00:00-24:00", "UTC")
    friday_night = at("2026-01-16 22:00", "UTC")
    assert opening(week, friday_night - 1) == (False, "Fri 16 Jan 22:00")
    assert opening(week, friday_night) == (True, "Mon 19 Jan 00:00")
    assert opening(week, at("2026-01-19 00:00", "UTC")) == (False, "Mon 19 Jan 22:00")
    weekend = window("fri-mon 10:00-11:00", "UTC")
    assert opening(weekend, at("2026-01-13 00:00", "UTC")) == (False, "Fri 16 Jan 10:00")
    assert opening(weekend, at("2026-01-19 12:00", "UTC")) == (False, "Fri 23 Jan 10:00")


def test_stretches_that_touch_are_one_and_the_whole_day_never_closes() -> None:
    assert opening(window("8:00-12:00, 12:00-14:00", "UTC"), at("2026-01-14 09:00", "UTC")) == (
        True, "Wed 14 Jan 14:00",
    )  # fmt: skip
    always = window("00:00-24:00", "UTC")
    for hour in range(0, 24 * 40, 5):
        now = at("2026-01-14 00:00", "UTC") + hour * 3_600_000_000
        is_open, until = always.at(now)
        assert is_open
        assert until > now + 24 * 3_600_000_000


def test_where_the_clock_leaps_forward_a_window_begins_or_ends_with_the_leap() -> None:
    """2026-03-29 at 02:00 the clocks of Berlin show 03:00: 01:00 UTC."""
    before = at("2026-03-29 00:30")
    assert opening(window("02:30-04:00"), before) == (False, "Sun 29 Mar 01:00")
    assert opening(window("00:00-02:30"), before) == (True, "Sun 29 Mar 01:00")
    assert opening(window("02:10-02:50"), before) == (False, "Mon 30 Mar 00:10")
    assert opening(window("22:00-06:00"), before) == (True, "Sun 29 Mar 04:00")
    assert opening(window("sun 02:10-02:50"), before) == (False, "Sun 05 Apr 00:10")


def test_where_the_clock_shows_an_hour_twice_a_window_opens_once() -> None:
    """2026-10-25 at 03:00 the clocks of Berlin show 02:00 again: 01:00 UTC."""
    before = at("2026-10-25 01:00")
    assert opening(window("02:30-04:00"), before) == (False, "Sun 25 Oct 00:30")
    assert opening(window("02:30-04:00"), at("2026-10-25 02:15", fold=1)) == (True, "Sun 25 Oct 03:00")
    assert opening(window("01:00-02:30"), at("2026-10-25 02:15", fold=1)) == (True, "Sun 25 Oct 01:30")
    assert opening(window("22:00-06:00"), before) == (True, "Sun 25 Oct 05:00")


def test_a_day_that_the_calendar_leaves_out_is_left_out() -> None:
    """Samoa went from 29 to 31 December 2011."""
    samoa = window("12:00-13:00", "Pacific/Apia")
    assert opening(samoa, at("2011-12-29 13:30", "Pacific/Apia")) == (False, "Fri 30 Dec 22:00")


@given(
    st.integers(946_684_800, 2_051_222_400),
    st.sampled_from(("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")),
    st.sampled_from(("22:00-06:00", "02:30-02:45", "mon 00:00-24:00", "00:00-01:30, 02:00-03:00", "sat,sun 1:00-1:01")),
)
def test_until_it_is_asked_again_a_window_says_the_same(moment: int, zone: str, text: str) -> None:
    found, now = window(text, zone), moment * 1_000_000
    is_open, until = found.at(now)
    assert until > now
    assert found.at(until - 1)[0] is is_open
    assert found.at((now + until) // 2)[0] is is_open
    assert is_open or found.at(until)[0], "what is shut opens when it says"
    wall = datetime.fromtimestamp(now / 1e6, ZoneInfo(zone))
    near = {(wall + timedelta(hours=hours)).utcoffset() for hours in (-26, 26)}
    if len(near) == 1:  # far from a change of the clock, the clock on the wall is all
        assert is_open is any(_shows(span, wall) for span in found.spans)


def _shows(span: object, wall: datetime) -> bool:
    minutes = wall.hour * 60 + wall.minute
    days, begin, end = span.days, span.begin, span.end  # type: ignore[attr-defined]
    today, yesterday = wall.weekday() in days, (wall.weekday() - 1) % 7 in days
    return (today and begin <= minutes < end) or (yesterday and minutes < end - 24 * 60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no window"),
        ("22:00", "'22:00' is no window"),
        ("22:00-06:00,", "'' is no window"),
        ("10:00-10:00", "00:00-24:00 is the whole day"),
        ("24:00-06:00", "is no stretch of time"),
        ("22:00-25:00", "25:00 is no time of the day"),
        ("22:00-24:01", "24:01 is no time of the day"),
        ("22:60-23:00", "22:60 is no time of the day"),
        ("mon-fry 22:00-06:00", "'fry' is not one of mon, tue"),
        ("mon 22:00-06:00, sat", "ends with days that have no times"),
        ("noon", "'noon' is no window"),
    ],
)
def test_what_is_no_window_is_refused_and_says_why(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        window(text)


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "Europe", ""])
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        named_zone(name)


def test_the_machines_zone_is_that_of_tz_else_of_etc_localtime_else_utc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone(tmp_path) == (ZoneInfo("America/New_York"), "America/New_York")
    monkeypatch.setenv("TZ", "CET-1CEST")
    assert local_zone(tmp_path) == (UTC, "UTC")
    monkeypatch.delenv("TZ")
    assert local_zone(tmp_path) == (UTC, "UTC")
    source = next(path for folder in _folders() if (path := Path(folder, "Europe/Berlin")).exists())
    place = tmp_path / "usr/share/zoneinfo/Europe/Berlin"
    place.parent.mkdir(parents=True)
    place.write_bytes(source.read_bytes())
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").symlink_to(place)
    zone, name = local_zone(tmp_path)
    assert name == "Europe/Berlin"
    summer = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert summer.astimezone(zone).utcoffset() == summer.astimezone(BERLIN).utcoffset()


def _folders() -> list[str]:
    import tzdata

    return [str(Path(tzdata.__file__).parent / "zoneinfo")]
