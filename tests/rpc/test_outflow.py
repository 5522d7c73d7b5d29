import asyncio
import random

import pytest

from opusd.rpc.outflow import PORTION, Outflow


async def turn():
    """The loop does what it was asked to do soon."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


class Slow:
    """A transport whose client takes bytes when `take` is called; like asyncio's, it says when it is over its bound."""

    def __init__(self):
        self.buffer = b""
        self.taken = b""
        self.paused = False
        self.aborted = False

    def set_write_buffer_limits(self, high):
        self.high, self.low = high, high // 4

    def get_write_buffer_size(self):
        return len(self.buffer)

    def write(self, data):
        assert isinstance(data, bytes)
        self.buffer += data
        self.paused = self.paused or len(self.buffer) > self.high

    def abort(self):
        self.aborted = True

    def take(self, count):
        """True when the protocol is told that it may write on."""
        self.taken += self.buffer[:count]
        self.buffer = self.buffer[count:]
        told = self.paused and len(self.buffer) <= self.low
        self.paused = self.paused and not told
        return told


@pytest.fixture
async def flow():
    transport, full = Slow(), []
    outflow = Outflow(
        transport, asyncio.get_running_loop(), most=1 << 20, stall=30.0, full=lambda: full.append(outflow.unsent())
    )
    yield outflow, transport, full
    outflow.close()


async def test_the_transport_gets_no_more_than_it_will_soon_send_however_much_is_written(flow):
    outflow, transport, _ = flow
    event = b"x" * 200
    for _ in range(100):
        outflow.write([event] * 50, 50 * len(event), alone=True)
    assert outflow.unsent() == 100 * 50 * 200
    assert len(transport.buffer) <= 2 * PORTION
    assert outflow.waits


@pytest.mark.parametrize("seed", range(20))
async def test_all_that_is_written_arrives_in_order_whatever_the_sizes_and_however_slowly_it_is_taken(flow, seed):
    outflow, transport, _ = flow
    chance = random.Random(seed)
    said = b""
    for number in range(chance.randrange(1, 60)):
        pieces = [b"%d," % number, bytes([number]) * chance.choice((0, 1, 50, 5_000, 70_000)), b"\n"]
        said += b"".join(pieces)
        outflow.write(pieces, sum(map(len, pieces)), alone=chance.random() < 0.5)
        if chance.random() < 0.3:
            await turn()
        if transport.take(chance.choice((0, 1_000, 40_000))):
            outflow.flush()
    await turn()
    while outflow.unsent():
        assert transport.buffer, "bytes wait, and nobody will ask for them"
        if transport.take(chance.randrange(1, 50_000)):
            outflow.flush()
    assert transport.taken == said
    assert not outflow.waits


async def test_before_it_is_closed_the_transport_gets_all_of_it(flow):
    outflow, transport, _ = flow
    for _ in range(50):
        outflow.write([b"x" * 1000] * 10, 10_000, alone=False)
    outflow.flush(all_of_it=True)
    assert len(transport.buffer) == 500_000
    assert not outflow.waits


async def test_what_waits_here_counts_as_unsent(flow):
    outflow, transport, full = flow
    for _ in range(100):
        outflow.write([b"x" * 1000] * 10, 10_000, alone=True)
    assert full == []
    outflow.write([b"x" * 100_000], 100_000, alone=True)
    assert full == [1_100_000]
    assert len(transport.buffer) < 200_000


async def test_what_one_turn_brings_leaves_together(flow):
    outflow, transport, _ = flow
    outflow.write([b"a"], 1, alone=False)
    outflow.write([b"b"], 1, alone=False)
    assert transport.buffer == b""
    await turn()
    assert transport.buffer == b"ab"
