from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusctl.text import ago, cut, epoch, escaped, escaped_json, pad, size, span, width

NOW = epoch("2025-11-24T09:00:00Z")


@given(st.text())
def test_no_control_character_survives(text):
    shown = escaped(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u2028\ufeff\u200b" for c in shown)
    assert not any(0xD800 <= ord(c) < 0xE000 for c in shown)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_json_for_a_terminal_is_the_same_json(value):
    text = escaped_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in text)


def test_controls_are_shown_and_ordinary_text_is_left_alone():
    assert escaped("\x1b[31mred\x07\n\u202ex") == "\\x1b[31mred\\x07\\n\\u202ex"
    assert escaped("日本語 é \u00a0 👩\u200d🚀") == "日本語 é \u00a0 👩\u200d🚀"
    assert escaped("a\tb\x1b\n", keep="\n\t") == "a\tb\\x1b\n"


def test_wide_and_combining_characters_are_counted_as_a_terminal_does():
    assert width("日本") == 4
    assert width("e\u0301") == 1
    assert width("abc") == 3


@given(st.text(), st.integers(1, 20))
def test_a_cut_text_fits(text, columns):
    assert width(cut(text, columns)) <= columns


def test_a_cut_never_splits_a_wide_character():
    assert cut("日本語です", 6) == "日本…"
    assert cut("日本語", 6) == "日本語"
    assert pad("日", 4) + "|" == "日  |"
    assert pad("7", 3, right=True) == "  7"


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("2025-11-24T08:57:00.000000Z", "3m ago"),
        ("2025-11-24T11:00:00Z", "in 2h"),
        ("2025-11-24T08:59:59.700Z", "now"),
        ("2025-11-21T08:00:00Z", "3d ago"),
        ("2024-02-29T08:00:00Z", "2024-02-29"),
        (None, "-"),
    ],
)
def test_times_are_relative(time, words):
    assert ago(time, NOW) == words


@pytest.mark.parametrize(
    "time", ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59.5Z", "2025-12-31T12:00:00Z", "2100-03-01T00:00:00Z"]
)
def test_the_own_reading_of_times_agrees_with_the_library(time):
    from datetime import datetime

    assert epoch(time) == datetime.fromisoformat(time).timestamp()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (2.34, "2.3s"),
        (0.025, "25ms"),
        (41, "41s"),
        (185, "3m 5s"),
        (7800, "2h 10m"),
        (345600, "4d"),
        (86460, "1d"),
        (-30, "-30s"),
    ],
)
def test_durations_have_two_units(seconds, words):
    assert span(seconds) == words


def test_sizes_have_binary_units():
    assert [size(512), size(4 * 1024 * 1024 + 200_000), size(3 << 40)] == ["512 B", "4.2 MiB", "3.0 TiB"]
