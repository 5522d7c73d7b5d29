"""Every row of the contract's table of corners, over a real Unix socket."""

import asyncio
import json

import pytest

from opusd.rpc.calls import Bounds
from tests.rpc.fake import BOUND, Daemon

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

PING = {"jsonrpc": "2.0", "id": "ping", "method": "system.ping"}


def code(reply):
    return reply["error"]["code"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"",
        b'{"jsonrpc":"2.0","id":1,"method":"system.ping"',
        b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
        b'{"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":1e999}}',
        b'{"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":"\\ud800"}}',
        b"[" * 200_000,
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"{} {}",
    ],
)
async def test_what_is_no_json_is_answered_with_id_null_and_the_connection_goes_on(peer, line):
    reply = await peer.ask(line + b"\n")
    assert code(reply) == -32700
    assert reply["id"] is None
    assert reply["error"]["data"] == {"code": "parse_error", "retryable": False}
    assert (await peer.ask(PING))["id"] == "ping"


async def test_a_line_over_4_mib_is_refused_and_the_connection_closed(peer):
    peer.send(b"x" * (4 * 1024 * 1024 + 1), b"\n", PING)
    reply = await peer.line()
    assert (code(reply), reply["id"]) == (-32600, None)
    assert await peer.line() is None


async def test_a_line_that_never_ends_is_refused_as_soon_as_it_is_over_4_mib(peer):
    peer.send(b"x" * (4 * 1024 * 1024 + 1))
    assert code(await peer.line()) == -32600
    assert await peer.line() is None


async def test_a_line_of_4_mib_is_taken(peer):
    start, end = b'{"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":"', b'"}}'
    line = start + b"x" * (4 * 1024 * 1024 - 200 - len(start) - len(end)) + end
    peer.send(line + b" " * (4 * 1024 * 1024 - len(line)) + b"\n")
    assert (await peer.line())["id"] == 1


@pytest.mark.parametrize(
    ("what", "answered"),
    [
        ({}, None),
        (1, None),
        ("system.ping", None),
        (None, None),
        ({"jsonrpc": "1.0", "id": 1, "method": "system.ping"}, 1),
        ({"jsonrpc": 2.0, "id": 1, "method": "system.ping"}, 1),
        ({"id": 1, "method": "system.ping"}, 1),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, 1),
        ({"jsonrpc": "2.0", "id": 1}, 1),
        ({"jsonrpc": "2.0", "method": 7}, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": [1]}, 1),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": 1}, 1),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": None}, 1),
        ({"jsonrpc": "2.0", "id": {}, "method": "system.ping"}, None),
        ({"jsonrpc": "2.0", "id": [1], "method": "system.ping"}, None),
        ({"jsonrpc": "2.0", "id": True, "method": "system.ping"}, None),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "system.ping"}, None),
        ({"jsonrpc": "2.0", "id": 2**63, "method": "system.ping"}, None),
        ({"jsonrpc": "2.0", "id": "x" * 1001, "method": "system.ping"}, None),
        ([], None),
        ([PING] * 101, None),
    ],
)
async def test_what_is_no_request_is_refused_as_such(peer, what, answered):
    reply = await peer.ask(what)
    assert code(reply) == -32600
    assert reply["id"] == answered
    assert (await peer.ask(PING))["id"] == "ping"


async def test_a_notification_is_never_answered_not_even_with_an_error(peer, daemon):
    for method, params in [
        ("job.get", {"id": 7}),
        ("job.get", {}),
        ("no.such", {}),
        ("job.why", {"id": 1}),
        ("job.get", []),
    ]:
        peer.send({"jsonrpc": "2.0", "method": method, "params": params})
    assert (await peer.ask(PING))["id"] == "ping"
    assert daemon.commands.started == [7]


@pytest.mark.parametrize("call", [None, 0, -1, 2**63 - 1, "", "a", "1"])
async def test_every_kind_of_id_comes_back_as_it_was(peer, call):
    reply = await peer.ask({"jsonrpc": "2.0", "id": call, "method": "job.get", "params": {"id": 1}})
    assert reply == {"jsonrpc": "2.0", "id": call, "result": {"id": 1}}


async def test_an_id_in_flight_is_refused_with_id_null_and_may_be_used_again_afterwards(peer, daemon):
    peer.call(1, "job.wait", group="g")
    peer.call(1, "system.ping")
    reply = await peer.line()
    assert (code(reply), reply["id"]) == (-32600, None)
    daemon.commands.gate.set()
    assert (await peer.line())["result"]["done"] is True
    assert (await peer.ask({**PING, "id": 1}))["result"] == {}


async def test_a_batch_of_scalars_gives_a_list_of_refusals(peer):
    replies = await peer.ask([1, 2])
    assert [(code(each), each["id"]) for each in replies] == [(-32600, None)] * 2


async def test_a_batch_of_notifications_gives_nothing(peer, daemon):
    peer.send([{"jsonrpc": "2.0", "method": "job.get", "params": {"id": each}} for each in (1, 2)])
    assert (await peer.ask(PING))["id"] == "ping"
    assert daemon.commands.started == [1, 2]


async def test_a_batch_of_100_is_answered_by_one_list_with_each_of_its_requests(peer):
    batch = [{"jsonrpc": "2.0", "id": each, "method": "job.get", "params": {"id": each}} for each in range(97)]
    batch += [
        7,
        {"jsonrpc": "2.0", "method": "job.get", "params": {"id": 1}},
        {"jsonrpc": "2.0", "id": "n", "method": "no"},
    ]
    replies = await peer.ask(batch)
    assert sorted(each["id"] for each in replies if isinstance(each["id"], int)) == list(range(97))
    assert [code(each) for each in replies if each["id"] in (None, "n")] == [-32600, -32601]
    assert len(replies) == 99


async def test_the_same_id_twice_in_one_batch_is_answered_and_refused(peer):
    replies = await peer.ask([PING, PING])
    assert sorted(each["id"] or "" for each in replies) == ["", "ping"]


async def test_a_reply_object_from_a_client_is_ignored(peer):
    peer.send(
        {"jsonrpc": "2.0", "id": 1, "result": 1}, {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": ""}}
    )
    peer.send([{"jsonrpc": "2.0", "id": 1, "result": 1}])
    assert (await peer.ask(PING))["id"] == "ping"


async def test_cancel_request_ends_a_waiting_call(peer, daemon):
    peer.call("w", "job.wait", group="g")
    await daemon.commands.until(lambda: daemon.commands.started)
    reply = await peer.ask({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "w"}})
    assert (code(reply), reply["id"]) == (-32800, "w")
    assert daemon.commands.cancelled == ["g"]


async def test_cancel_request_in_the_same_packet_answers_the_call_that_had_not_begun(peer):
    peer.send(
        b'{"jsonrpc":"2.0","id":1,"method":"job.wait","params":{"group":"g"}}\n'
        b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}\n'
    )
    reply = await peer.line()
    assert (code(reply), reply["id"]) == (-32800, 1)


async def test_cancel_request_leaves_a_writing_call_alone(peer, daemon):
    peer.call(1, "job.update", id=5)
    for nonsense in ({"id": 1}, {"id": 99}, {"id": [1]}, {}):
        peer.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": nonsense})
    assert (await peer.ask(PING))["id"] == "ping"
    daemon.commands.gate.set()
    assert (await peer.line())["result"] == {"id": 5}


async def test_the_connections_end_cancels_its_waiting_calls_and_lets_its_writes_run_on(daemon):
    peer = await daemon.peer()
    peer.call(1, "job.wait", group="g")
    peer.call(2, "job.update", id=5)
    await daemon.commands.until(lambda: len(daemon.commands.started) == 2)
    peer.writer.transport.abort()
    await daemon.commands.until(lambda: daemon.commands.cancelled)
    daemon.commands.gate.set()
    await daemon.commands.until(lambda: daemon.commands.written == [5])
    assert daemon.errors == []


async def test_a_client_that_shut_down_its_writing_side_still_gets_its_replies(peer, daemon):
    peer.call(1, "job.wait", group="g")
    peer.call(2, "system.ping")
    peer.send(b'{"jsonrpc":"2.0","id":3,"method":"system.ping"}')  # and the end is the end of a line, too
    peer.writer.write_eof()
    assert {(await peer.line())["id"], (await peer.line())["id"]} == {2, 3}
    daemon.commands.gate.set()
    assert (await peer.line())["id"] == 1
    assert await peer.line() is None


async def test_a_client_that_goes_away_after_it_shut_down_its_writing_side_is_noticed(daemon):
    peer = await daemon.peer()
    peer.call(1, "job.wait", group="g")
    peer.writer.write_eof()
    await daemon.commands.until(lambda: daemon.commands.started)
    await peer.close()
    await daemon.commands.until(lambda: daemon.commands.cancelled)


async def test_the_calls_of_a_client_that_does_not_read_are_not_read_on_past_1_mib_unsent(peer, daemon):
    peer.reader._transport.pause_reading()
    for number in range(60):
        peer.call(number, "job.list", limit=1000)  # a million bytes each
        peer.call(-number - 1, "job.get", id=number)
    await daemon.commands.until(lambda: daemon.commands.started)
    async with daemon.server_is_idle():
        assert len(daemon.commands.started) < 30
    peer.reader._transport.resume_reading()
    replies = [await peer.line() for _ in range(120)]
    assert {each["id"] for each in replies} == set(range(-60, 60))
    assert len(daemon.commands.started) == 60


async def test_a_client_that_takes_no_byte_for_the_whole_stall_is_closed(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(stall=0.2)) as daemon:
        peer = await daemon.peer()
        peer.reader._transport.pause_reading()
        peer.call(1, "job.list", limit=1000)
        peer.call(2, "job.wait", group="g")
        await daemon.commands.until(lambda: daemon.commands.cancelled)
        assert daemon.server.connections == 0


async def test_a_reply_over_4_mib_is_an_error_that_says_so(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(line=100_000)) as daemon:
        peer = await daemon.peer()
        peer.call(1, "job.list", limit=200)
        error = (await peer.line())["error"]
        assert error["code"] == -32603
        assert error["data"]["reason"] == "reply_too_long"
        peer.send([{"jsonrpc": "2.0", "id": n, "method": "job.list", "params": {"limit": 50}} for n in range(5)])
        async with asyncio.timeout(BOUND):
            line = await peer.reader.readline()
        assert len(line) <= 100_000
        assert sorted("error" in each for each in json.loads(line)) == [False, True, True, True, True]


async def test_a_command_learns_that_its_result_was_too_long_to_be_told(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(line=100_000)) as daemon:
        peer = await daemon.peer()
        calls = [("long", 200), ("short", 5)]
        for number, (text, limit) in enumerate(calls):
            peer.call(number, "job.list", limit=limit, text=text)
            await peer.line()
        assert daemon.commands.unanswered == ["long"]
        call = {"jsonrpc": "2.0", "method": "job.list"}
        replies = await peer.ask(
            [{**call, "id": number, "params": {"limit": 30, "text": str(number)}} for number in range(5)]
        )
        untold = [str(each["id"]) for each in replies if "error" in each]
        assert len(untold) == 3
        assert daemon.commands.unanswered == ["long", *untold]


async def test_a_reply_over_4_mib_is_made_shorter_where_the_command_can_tell_how(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(line=100_000)) as daemon:
        peer = await daemon.peer()
        for limit, length in ((60_000, 30_000), (200_000, 0)):
            peer.call(1, "job.logs", id=1, limit=limit)
            assert len((await peer.line())["result"]["data"]) == length
        logs = {"jsonrpc": "2.0", "method": "job.logs", "params": {"id": 1, "limit": 60_000}}
        replies = await peer.ask([{**logs, "id": n} for n in range(3)])
        assert sorted(len(each["result"]["data"]) for each in replies) == [0, 0, 30_000]


async def test_calls_of_one_connection_take_effect_in_the_order_sent(peer, daemon):
    prompts = [str(number) for number in range(300)]
    for number, prompt in enumerate(prompts):
        peer.call(number, "job.submit", prompt=prompt)
    replies = [await peer.line() for _ in prompts]
    assert sorted(each["id"] for each in replies) == list(range(300))
    assert daemon.commands.written == prompts


async def test_a_line_may_come_in_any_pieces(peer):
    for byte in b'{"jsonrpc":"2.0","id":1,"method":"system.ping"}\r\n':
        peer.send(bytes([byte]))
        await peer.writer.drain()
    assert (await peer.line())["result"] == {}
