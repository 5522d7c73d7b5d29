from __future__ import annotations

import socket
import threading

import pytest

from opusctl.failure import NoDaemon, NotUnderstood, TimedOut, UsageError
from opusctl.wire import Connection


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        yield listening, str(tmp_path / "s")


@pytest.fixture
def connect():
    opened = []

    def to(path):
        opened.append(Connection(path))
        return opened[-1]

    yield to
    for connection in opened:
        connection.close()


def answer(listener, text: bytes):
    """Answer the first line that comes with this text."""

    def serve():
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as lines:
            lines.readline()
            peer.sendall(text)
            lines.readline()  # until the client is gone

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_daemon_that_does_not_answer_is_given_up_in_time(listener, connect):
    connection = connect(listener[1])
    with pytest.raises(TimedOut, match=r"within 0\.05 s"):
        connection.call("system.ping", {}, patience=0.05)


def test_replies_are_paired_with_calls_in_any_order_and_notifications_are_kept(listener, connect):
    text = (
        b'{"jsonrpc":"2.0","id":2,"result":"two"}\n{"jsonrpc":"2.0","method":"event","params":{}}\n'
        b'{"jsonrpc":"2.0","id":1,"result":"one"}\n'
    )
    thread = answer(listener[0], text)
    connection = connect(listener[1])
    first, second = connection.send("a", {}), connection.send("b", {})
    assert [connection.reply(first), connection.reply(second)] == ["one", "two"]
    assert next(connection.notifications())["method"] == "event"
    connection.close()
    thread.join(10)


def test_what_speaks_no_json_is_no_daemon(listener, connect):
    thread = answer(listener[0], b"SSH-2.0-OpenSSH_9.2\n")
    connection = connect(listener[1])
    with pytest.raises(NoDaemon, match="does not speak JSON-RPC"):
        connection.call("system.ping", {})
    connection.close()
    thread.join(10)


@pytest.mark.parametrize("error", [b"null", b'"no"', b"[]", b"7"])
def test_an_error_that_is_none_is_not_understood(error, listener, connect):
    thread = answer(listener[0], b'{"jsonrpc":"2.0","id":1,"error":' + error + b"}\n")
    connection = connect(listener[1])
    with pytest.raises(NotUnderstood, match=r"reply to system\.ping is not understood"):
        connection.call("system.ping", {})
    connection.close()
    thread.join(10)


def test_a_line_over_4_mib_and_nan_are_not_sent(listener, connect):
    connection = connect(listener[1])
    with pytest.raises(UsageError, match="4,194,304 at once"):
        connection.call("job.submit", {"prompt": "x" * (4 << 20)})
    with pytest.raises(UsageError, match="NaN"):
        connection.call("job.submit", {"payload": {"n": float("nan")}})
