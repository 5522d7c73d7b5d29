"""A crowd that changes things goes through in turns; whoever looks does not stand behind it."""

import asyncio
from collections import Counter

import pytest

from opusd.rpc.calls import Bounds
from opusd.rpc.outflow import Outflow
from opusd.rpc.turnstile import Turnstile
from tests.rpc.fake import BOUND, Daemon

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


async def turns_until(begun, count):
    """How many had begun after each turn of the loop."""
    loop, seen = asyncio.get_running_loop(), [len(begun)]
    done = loop.create_future()

    def look():
        seen.append(len(begun))
        done.set_result(seen) if seen[-1] == count else loop.call_soon(look)

    loop.call_soon(look)
    return await asyncio.wait_for(done, BOUND)


async def test_so_many_begin_in_one_turn_and_the_others_follow_in_order():
    begun = []
    turnstile = Turnstile(3)
    for number in range(8):
        turnstile.enter(lambda number=number: begun.append(number), 1)
    assert await turns_until(begun, 8) == [3, 6, 8]
    assert begun == list(range(8))
    turnstile.enter(lambda: begun.append("alone"), 1)
    assert begun[-1] == "alone"


async def test_a_heavy_one_ends_its_turn():
    begun = []
    turnstile = Turnstile(3)
    for weight in (1, 100, 1, 1):
        turnstile.enter(lambda weight=weight: begun.append(weight), weight)
    assert begun == [1, 100]
    assert await turns_until(begun, 4) == [2, 4]


def submits(count):
    return [
        {"jsonrpc": "2.0", "id": number, "method": "job.submit", "params": {"prompt": f"{number}"}}
        for number in range(count)
    ]


async def test_who_looks_is_answered_before_a_crowd_has_gone_through(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(turn=1)) as daemon:
        crowd = [await daemon.peer() for _ in range(50)]
        looker = await daemon.peer()
        for peer in crowd:
            peer.send(*submits(2))
        await daemon.commands.until(lambda: daemon.commands.written)
        await looker.ask({"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": {"id": 7}})
        assert len(daemon.commands.written) < 100
        await daemon.commands.until(lambda: len(daemon.commands.written) == 100)


async def test_calls_of_one_connection_keep_their_order_through_the_turnstile(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(turn=1)) as daemon:
        peer = await daemon.peer()
        look = {"jsonrpc": "2.0", "id": "look", "method": "job.get", "params": {"id": 7}}
        peer.send(*submits(5), look)
        assert [(await peer.line())["id"] for _ in range(6)] == [0, 1, 2, 3, 4, "look"]
        assert daemon.commands.written == list("01234")


async def test_a_call_that_waits_can_be_cancelled_while_it_stands_in_line(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(turn=1)) as daemon:
        peer = await daemon.peer()
        wait = {"jsonrpc": "2.0", "id": "wait", "method": "job.wait", "params": {"group": "g"}}
        cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "wait"}}
        peer.send(*submits(5), wait, cancel)
        replies = {reply["id"]: reply for reply in [await peer.line() for _ in range(6)]}
        assert replies["wait"]["error"]["code"] == -32800
        assert daemon.commands.started == []


async def test_what_stands_in_line_when_its_connection_ends_is_done_if_it_changes_something(tmp_path):
    async with Daemon(tmp_path / "s", Bounds(turn=1)) as daemon:
        peer = await daemon.peer()
        wait = {"jsonrpc": "2.0", "id": "wait", "method": "job.wait", "params": {"group": "g"}}
        peer.send(*submits(20), wait)
        await daemon.commands.until(lambda: daemon.commands.written)
        await peer.close()
        await daemon.commands.until(lambda: len(daemon.commands.written) == 20)
        async with daemon.server_is_idle():
            assert daemon.server.connections == 1
            assert daemon.errors == []


async def deaf(daemon):
    """A subscriber that reads nothing until all that may be held for it is."""
    peer = await daemon.peer()
    peer.call("s", "events.subscribe", since=0)
    await peer.line()
    peer.reader._transport.pause_reading()
    sink, cursor = daemon.commands.sinks[-1], 0
    while not sink.closed:
        cursor += 1
        sink(cursor, b'{"pad":"%s"}' % (b"x" * 5000))
        if cursor % 10 == 0:
            async with daemon.server_is_idle():
                pass
    return peer


async def test_who_read_again_all_at_once_are_sent_more_in_turns(tmp_path, monkeypatch):
    loop, turn, ticking, served = asyncio.get_running_loop(), [0], [None], Counter()
    flush = Outflow.flush

    def tick():
        turn[0] += 1
        ticking[0] = loop.call_soon(tick)

    def counted(outflow, **options):
        served[turn[0]] += 1
        flush(outflow, **options)

    async with Daemon(tmp_path / "s", Bounds(takers=1)) as daemon:
        crowd = [await deaf(daemon) for _ in range(20)]
        monkeypatch.setattr(Outflow, "flush", counted)
        tick()
        for peer in crowd:
            peer.reader._transport.resume_reading()
        for peer in crowd:
            while (await peer.line())["method"] != "event.lagged":
                pass
        ticking[0].cancel()
        assert sum(served.values()) >= 20
        assert max(served.values()) <= 2
