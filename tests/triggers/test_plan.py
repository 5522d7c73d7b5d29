"""Which firings are owed a job: of a schedule, what was looked at, and now."""

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from opusd.core.times import HOUR, MINUTE, SECOND, from_rfc3339
from opusd.triggers.calendar import Calendar
from opusd.triggers.plan import BACK, LATE, MOST, Schedule, look, next_at

T0 = from_rfc3339("2026-01-01T00:00:00Z")
HOURLY = Calendar("0 * * * *", UTC, T0)


def schedule(misfire="once", **fields):
    return Schedule(**{
        "name": "n", "cron": "0 * * * *", "timezone": None, "misfire": misfire, "overlap": "queue", "job": {},
        "through": T0, **fields,
    })  # fmt: skip


def test_before_the_first_firing_nothing_is_owed():
    assert look(schedule(), HOURLY, T0 + HOUR - 1).schedule == schedule()
    assert next_at(schedule(), HOURLY) == T0 + HOUR


def test_a_firing_that_has_come_is_owed():
    for misfire in ("skip", "once", "all"):
        looked = look(schedule(misfire), HOURLY, T0 + HOUR)
        assert looked.schedule == schedule(misfire, through=T0 + HOUR, owed=(T0 + HOUR,))
        assert not looked.lost


def test_of_missed_firings_skip_makes_none_once_the_last_and_all_each():
    now = T0 + 3 * HOUR + LATE + 1
    for misfire, owed in {"skip": (), "once": (T0 + 3 * HOUR,), "all": tuple(T0 + n * HOUR for n in (1, 2, 3))}.items():
        looked = look(schedule(misfire), HOURLY, now)
        assert looked.schedule == schedule(misfire, through=T0 + 3 * HOUR, owed=owed)
        assert looked.lost is (misfire != "all")


def test_a_firing_that_is_seen_a_little_late_was_not_missed():
    assert look(schedule("skip"), HOURLY, T0 + HOUR + LATE).schedule.owed == (T0 + HOUR,)


def test_of_too_many_missed_firings_the_newest_are_made_up_for():
    looked = look(schedule("all"), HOURLY, T0 + (MOST + 5) * HOUR)
    assert looked.schedule.owed == tuple(T0 + n * HOUR for n in range(6, MOST + 6))
    assert looked.lost


def test_what_is_owed_already_is_kept_by_all_and_gives_way_to_the_next_firing_otherwise():
    owed = (T0 - HOUR,)
    assert look(schedule("all", owed=owed), HOURLY, T0 + HOUR).schedule.owed == (*owed, T0 + HOUR)
    looked = look(schedule("once", owed=owed), HOURLY, T0 + HOUR)
    assert (looked.schedule.owed, looked.lost) == ((T0 + HOUR,), True)
    assert look(schedule("once", owed=owed), HOURLY, T0 + 1).schedule.owed == owed
    assert next_at(schedule(owed=owed), HOURLY) == owed[0]


def test_what_is_owed_and_can_not_enter_grows_no_further():
    owed = tuple(T0 - n * HOUR for n in range(MOST, 0, -1))
    looked = look(schedule("all", owed=owed), HOURLY, T0 + HOUR)
    assert (looked.schedule.owed, looked.lost) == ((*owed[1:], T0 + HOUR), True)


def test_a_paused_schedule_owes_nothing():
    paused = schedule(paused=True)
    assert look(paused, HOURLY, T0 + 9 * HOUR).schedule == paused
    assert next_at(paused, HOURLY) is None


def test_a_clock_set_back_a_little_waits_and_one_set_back_far_begins_anew():
    assert look(schedule(), HOURLY, T0 - BACK).schedule == schedule()
    assert look(schedule(), HOURLY, T0 - BACK - 1).schedule == schedule(through=T0 - BACK - 1)


def test_the_key_names_the_firing():
    assert schedule().key(T0) == "schedule:n:2026-01-01T00:00:00Z"


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */5 * * *"]),
    st.lists(st.integers(1, 7200), min_size=1, max_size=25),
)
def test_however_often_it_looks_all_makes_each_firing_once_in_order(cron, steps):
    calendar = Calendar(cron, UTC, T0)
    one, now, made = schedule("all"), T0, []
    for seconds in steps:
        now += seconds * SECOND
        one = look(one, calendar, now).schedule
        if len(one.owed) > 1:  # a job for some of them, as one decision after the other would
            made += one.owed[:-1]
            one = replace(one, owed=one.owed[-1:])
    made += one.owed
    expected, firing = [], calendar.after(T0)
    while firing <= now:
        expected.append(firing)
        firing = calendar.after(firing)
    if max(steps) < (MOST - 1) * 60:  # else the oldest go
        assert made == expected
    assert made == sorted(set(made))


@given(st.lists(st.integers(-7200, 7200), max_size=30), st.sampled_from(["skip", "once", "all"]))
def test_whatever_the_clock_does_within_its_patience_no_firing_is_owed_twice(steps, misfire):
    one, now, made = schedule(misfire), T0, []
    for seconds in steps:
        now = max(now + seconds * SECOND, one.through - BACK)
        one = look(one, HOURLY, now).schedule
        made += one.owed
        one = replace(one, owed=())
    assert made == sorted(set(made))
    assert all(firing <= T0 + len(steps) * 2 * HOUR + MINUTE for firing in made)
