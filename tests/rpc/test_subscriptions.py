import asyncio
import json

import pytest

from tests.rpc.fake import BOUND

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


async def subscribed(peer, daemon):
    peer.call("s", "events.subscribe", since=0)
    reply = await peer.line()
    return reply["result"]["subscription"], daemon.commands.sinks[-1]


async def test_the_reply_leaves_before_the_first_event(peer, daemon):
    daemon.commands.first = b'{"cursor":1}'
    peer.call("s", "events.subscribe")
    first, second = await peer.line(), await peer.line()
    number = first["result"]["subscription"]
    assert second == {
        "jsonrpc": "2.0",
        "method": "event",
        "params": {"subscription": number, "event": {"cursor": 1}},
    }


async def test_one_encoded_event_reaches_every_subscriber_in_order(daemon):
    peers = [await daemon.peer() for _ in range(3)]
    numbers = [(await subscribed(peer, daemon))[0] for peer in peers]
    for cursor in range(1, 51):
        event = json.dumps({"cursor": cursor}).encode()
        for sink in daemon.commands.sinks:
            sink(cursor, event)
    for peer, number in zip(peers, numbers, strict=True):
        got = [(await peer.line())["params"] for _ in range(50)]
        assert [each["event"]["cursor"] for each in got] == list(range(1, 51))
        assert {each["subscription"] for each in got} == {number}
    assert len(set(numbers)) == 3


async def test_a_subscriber_that_does_not_read_gets_one_event_lagged_with_the_last_cursor_sent(peer, daemon):
    number, sink = await subscribed(peer, daemon)
    ended = []
    sink.on_close = lambda: ended.append(True)
    peer.reader._transport.pause_reading()
    event = b'{"pad":"%s"}' % (b"x" * 1000)
    cursor = 0
    while not sink.closed:
        assert cursor < 5000
        cursor += 1
        sink(cursor, event)
        if cursor % 20 == 0:
            async with daemon.server_is_idle():
                pass
    sink(cursor + 1, event)
    peer.reader._transport.resume_reading()
    got = []
    while (line := await peer.line())["method"] == "event":
        got.append(line)
    assert line == {
        "jsonrpc": "2.0",
        "method": "event.lagged",
        "params": {"subscription": number, "cursor": len(got)},
    }
    assert len(got) * 1000 > 256 * 1024
    assert ended == [True]
    assert (await peer.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"}))["id"] == 1


async def test_a_replay_that_waits_for_room_never_lags(peer, daemon):
    _, sink = await subscribed(peer, daemon)

    async def replay():
        for cursor in range(1, 3001):
            await sink.room()
            sink(cursor, b'{"cursor":%d,"pad":"%s"}' % (cursor, b"x" * 1000))

    replaying = asyncio.get_running_loop().create_task(replay())
    cursors = [(await peer.line())["params"]["event"]["cursor"] for _ in range(3000)]
    await asyncio.wait_for(replaying, BOUND)
    assert cursors == list(range(1, 3001))


async def test_unsubscribing_ends_the_events_and_only_of_this_connection(daemon):
    one, two = await daemon.peer(), await daemon.peer()
    number, sink = await subscribed(one, daemon)
    two.call(1, "events.unsubscribe", subscription=number)
    assert (await two.line())["error"]["code"] == -32001
    one.call(1, "events.unsubscribe", subscription=number)
    assert (await one.line())["result"] == {}
    assert sink.closed
    sink(1, b"{}")
    one.call(2, "system.ping")
    assert (await one.line())["id"] == 2


async def test_the_connections_end_closes_its_subscriptions_and_wakes_a_replay(daemon):
    peer = await daemon.peer()
    _, sink = await subscribed(peer, daemon)
    closed = asyncio.Event()
    sink.on_close = closed.set
    await peer.close()
    async with asyncio.timeout(BOUND):
        await closed.wait()
        await sink.room()
    sink(1, b"{}")
    assert daemon.errors == []


async def test_a_subscription_by_notification_gets_nothing(peer, daemon):
    peer.send({"jsonrpc": "2.0", "method": "events.subscribe", "params": {}})
    await daemon.commands.until(lambda: daemon.commands.sinks)
    assert (await peer.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"}))["id"] == 1
    assert daemon.commands.sinks[0].closed
