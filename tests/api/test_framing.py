import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.api.framing import DEPTH_LIMIT, Batch, Framing, Notification, Refused, Request, encode_call, parse
from opusd.core.errors import InvalidRequest, ParseError

LINE = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}'


def all_of(framing):
    return list(iter(framing.next_message, None))


def test_a_line_gives_a_request_and_without_an_id_a_notification():
    assert parse(LINE) == Request(1, "m", {"a": 1})
    assert parse(b'{"jsonrpc":"2.0","method":"m"}') == Notification("m", {})
    assert parse(b"[" + LINE + b"]") == Batch([Request(1, "m", {"a": 1})])


@given(st.lists(st.integers(1, 60)))
def test_lines_in_any_pieces_give_the_same_messages(sizes):
    framing, data, got = Framing(), (LINE + b"\n") * 5, []
    for size in [*sizes, len(data)]:
        framing.receive_data(data[:size])
        data = data[size:]
        got += all_of(framing)
    assert got == [Request(1, "m", {"a": 1})] * 5


@pytest.mark.parametrize(("depth", "kind"), [(DEPTH_LIMIT, InvalidRequest), (DEPTH_LIMIT + 1, ParseError)])
def test_nesting_is_taken_up_to_the_limit_and_not_beyond(depth, kind):
    message = parse(b"[" * depth + b"1" + b"]" * depth)
    refused = message.entries[0] if isinstance(message, Batch) else message
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, kind)


def test_a_line_over_the_limit_is_dropped_at_once_and_so_is_all_that_follows():
    framing = Framing(limit=100)
    framing.receive_data(b"x" * 101)
    assert isinstance(framing.next_message(), Refused)
    assert framing.closed
    framing.receive_data(b"\n" + LINE + b"\n" * 1000)
    assert framing.next_message() is None
    assert len(framing._buffer) == 0


def test_a_line_of_exactly_the_limit_is_taken():
    framing = Framing(limit=len(LINE))
    framing.receive_data(LINE + b"\n")
    assert framing.next_message() == Request(1, "m", {"a": 1})
    framing.receive_data(LINE + b" \n")
    assert isinstance(framing.next_message(), Refused)


def test_a_line_in_many_pieces_is_searched_once():
    framing = Framing()
    for _ in range(100):
        framing.receive_data(b"x" * 16)
        assert framing.next_message() is None
        assert framing._scanned == len(framing._buffer)  # where the next search starts
    framing.receive_data(b"\n" + LINE + b"\n")
    assert [type(message) for message in all_of(framing)] == [Refused, Request]


def test_the_end_of_input_ends_a_line_and_an_empty_one_is_none():
    framing = Framing()
    framing.receive_data(LINE)
    assert framing.next_message() is None
    framing.receive_eof()
    assert framing.next_message() == Request(1, "m", {"a": 1})
    assert framing.next_message() is None


def test_escaped_backslashes_before_u0000_are_no_nul():
    assert isinstance(parse(rb'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\\u0000"}}'), Request)
    assert isinstance(parse(rb'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\u0000"}}'), Refused)
    assert isinstance(parse(rb'{"jsonrpc":"2.0","id":1,"method":"m","params":{"\u0000":1}}'), Refused)


def test_what_is_encoded_is_parsed_as_it_was():
    assert parse(encode_call("m", {"a": "ü"}, "x")) == Request("x", "m", {"a": "ü"})
    assert parse(encode_call("m", {"a": 1})) == Notification("m", {"a": 1})
