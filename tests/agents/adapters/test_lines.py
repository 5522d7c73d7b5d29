"""Lines and events out of pieces: the same in any pieces, in bounded memory, whatever bytes come."""

import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from opusd.agents.adapters.events import Events, cut_string, decode, embedded, string
from opusd.agents.adapters.lines import Line, Lines


def fed(lines, pieces):
    found = [line for piece in pieces for line in lines.feed(piece)]
    rest = lines.rest()
    return found if rest is None else [*found, rest]


def split(text, cuts):
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in pairwise(bounds)]


@given(st.text(alphabet="ab\n\r€", max_size=80), st.lists(st.integers(0, 80), max_size=8))
def test_lines_are_the_same_in_any_pieces(text, cuts):
    limits = {"longest": 10, "kept": 3}
    whole = fed(Lines(**limits), [text])
    assert fed(Lines(**limits), split(text, cuts)) == whole
    wanted = text.split("\n")
    for line, told in zip(wanted, whole, strict=False):
        if len(line) <= 10:
            assert told == Line(line.removesuffix("\r"))
        else:
            assert told == Line(line[:3].removesuffix("\r"), line[-3:])


def test_after_a_gap_the_next_line_is_broken_and_the_one_after_is_not():
    lines = Lines()
    assert list(lines.feed("one\nhalf of tw")) == [Line("one")]
    lines.gap()
    assert list(lines.feed("e\nfour\n")) == [Line("e", None, broken=True), Line("four")]


def test_a_line_of_100_mib_takes_the_memory_of_one():
    lines, piece = Lines(), "x" * (1 << 20)
    list(lines.feed('{"type":"result",'))
    tracemalloc.start()
    try:
        for _ in range(100):
            assert list(lines.feed(piece)) == []
        (line,) = lines.feed('"end"}\n')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert line.text.startswith('{"type":"result",xxx')
    assert line.tail is not None
    assert line.tail.endswith('xxx"end"}')
    assert len(line.text) <= 16 * 1024
    assert len(line.tail) <= 16 * 1024


def test_a_line_that_comes_character_by_character_takes_little_memory():
    lines = Lines(longest=50_000)
    tracemalloc.start()
    try:
        for number in range(100_000):
            list(lines.feed(chr(0x400 + number % 200)))  # a string of its own each time
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def types(events, text):
    return [event.type for event in events.feed(text)]


def test_warnings_between_events_are_kept_as_noise_and_nothing_else_is():
    events = Events()
    assert types(events, 'Reading stdin...\n{"type":"a"}\n\x1b[91mError:\x1b[0m no\n{"type":\n{"x":1}\n[1]\n') == ["a"]
    assert events.noise == "Reading stdin...\nError: no\n[1]\n"


def test_the_noise_is_bounded():
    events = Events()
    for _ in range(1000):
        assert types(events, "warning " * 20 + "\n") == []
    assert len(events.noise) <= 2048


def test_an_event_behind_a_warning_without_a_newline_is_read():
    assert types(Events(), 'warning: slow{"type":"result","part":{"type":"x"}}\n') == ["result"]


def test_an_event_printed_into_the_middle_of_another_is_read():
    inside = '{"type":"rate_limit_event","rate_limit_info":{"status":"allowed"}}'
    outer = '{"type":"assistant","message":{"content":[{"type":"text","text":"partial ' + inside
    events = Events()
    assert types(events, outer + '\n rest"}]}}\n{"type":"result"}\n') == ["rate_limit_event", "result"]


def test_an_object_inside_an_event_is_not_taken_for_one():
    whole = '{"type":"assistant","input":{"type":"result","is_error":false}}'
    assert types(Events(), whole + "\n") == ["assistant"]
    cut = Events()
    assert types(cut, whole[:-1]) == []  # killed in the middle of the line
    assert list(cut.close()) == []
    torn = Events()
    assert types(torn, whole[:5]) == []
    torn.gap()
    assert types(torn, whole[8:] + "\n") == []
    assert torn.noise == ""


def test_a_last_line_without_a_newline_is_read_if_it_is_whole():
    events = Events()
    assert types(events, '{"type":"a"}\n{"type":"b"}') == ["a"]
    assert [event.type for event in events.close()] == ["b"]


def test_half_a_pair_of_surrogates_does_not_lose_the_event():
    assert decode(r'{"type":"a","text":"\ud83d"}') == {"type": "a", "text": "\ufffd"}
    assert decode(r'{"type":"a","text":"\udc00 \ud83d\ude00"}') == {"type": "a", "text": "\ufffd 😀"}


def test_a_nul_which_the_registry_refuses_is_replaced():
    (event,) = Events().feed('{"type":"a","text":"one\\u0000two"}\n')
    assert string(event.table, "text") == "one\ufffdtwo"


def test_what_is_no_json_object_is_none():
    for text in ("", "{", "[]", "{}x", '{"a":' * 100_000, '{"a":1e999}', "{'a':1}", "\ud800"):
        assert decode(text) is None
        assert embedded(text) is None


@given(st.text(max_size=60), st.integers(0, 80))
def test_of_a_cut_string_its_beginning_is_read(text, cut):
    import json

    head = '{"type":"x","text":' + json.dumps(text)
    told = cut_string(head[: 20 + cut], "text")
    clean = text.replace("\0", "\ufffd")
    assert clean.startswith(told) or "\ufffd" in told
    assert cut_string(head, "text") == clean


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b'{"type":"a"}', b"\n", b'{"type":"', b'"}', b"\x00", b"\xff"]))
)
def test_no_bytes_break_the_reading(chunks):
    events = Events()
    for chunk in chunks:
        for event in events.feed(chunk.decode("utf-8", "replace")):
            assert event.type
    list(events.close())
