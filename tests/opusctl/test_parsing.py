from __future__ import annotations

import argparse
from datetime import datetime

import pytest

from opusctl.parsing import duration, edge, edges, moment, need, past_moment, priority, ref


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("24h", 86400), ("7d", 604800), ("0.5", 0.5)],
)
def test_durations_become_seconds(word, seconds):
    assert duration(word) == seconds


@pytest.mark.parametrize("word", ["", "x", "10 m", "-5", "5y", "1e3"])
def test_what_is_no_duration_is_refused(word):
    with pytest.raises(argparse.ArgumentTypeError, match="not a duration"):
        duration(word)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("12", 12),
        ("lint", "lint"),
        ("12:any", {"job": 12, "on": "any"}),
        ("12:failure:run", {"job": 12, "on": "failure", "if_unmet": "run"}),
        ("12:cancel", {"job": 12, "if_unmet": "cancel"}),
        ("repo:build", "repo:build"),
        ("repo:build:success", {"job": "repo:build", "on": "success"}),
    ],
)
def test_an_edge_names_a_job_and_what_must_come_of_it(word, meant):
    assert edge(word) == meant


def test_several_edges_may_stand_in_one_word():
    assert edges("3, 4:any") == [3, {"job": 4, "on": "any"}]


def test_digits_are_an_id_and_all_else_a_key():
    assert [ref("41"), ref("nightly"), ref("4a")] == [41, "nightly", "4a"]


def test_a_need_without_a_number_is_a_mutex():
    assert need("repo:/srv/app") == ("repo:/srv/app", 1)
    assert need("gpu=2") == ("gpu", 2)


def test_priorities_are_tiers_or_one_to_ten():
    assert [priority("high"), priority("10")] == ["high", 10]
    for wrong in ("11", "0", "asap"):
        with pytest.raises(argparse.ArgumentTypeError):
            priority(wrong)


def test_moments_are_utc_on_the_wire():
    assert moment("2025-11-24T10:00:00+01:00") == "2025-11-24T09:00:00.000000Z"
    now = datetime.fromisoformat(moment("now"))
    assert datetime.fromisoformat(moment("10m")) > now > datetime.fromisoformat(past_moment("10m"))
    clock = "23:59" if now.hour < 12 else "00:01"
    assert datetime.fromisoformat(moment(clock)) >= now >= datetime.fromisoformat(past_moment(clock))
    with pytest.raises(argparse.ArgumentTypeError, match="not a time"):
        moment("soon")
