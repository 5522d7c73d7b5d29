"""2,000 random frames: every request is answered once, and no error hook is ever told of anything."""

import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opusd.rpc.calls import Bounds
from tests.conftest import LOOPS
from tests.rpc.fake import BOUND, OFFERED, Daemon

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
ids = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=10)
methods = st.sampled_from(
    [name for name in OFFERED if name not in ("job.wait", "job.update", "job.why", "job.history")]
)
names = st.sampled_from(["id", "prompt", "boost", "limit", "ids", "since", "text", "agent", "depends_on", "payload"])
params = st.dictionaries(names | st.text(max_size=5), values, max_size=4)
calls = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0"),
        "id": ids,
        "method": methods | st.text(max_size=10).filter(lambda name: "why" not in name),
    },
    optional={"params": params | values},
)
notes = st.fixed_dictionaries({"jsonrpc": st.just("2.0"), "method": methods}, optional={"params": params})
broken = st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), values, max_size=5)
garbage = st.binary(max_size=200).map(lambda line: line.replace(b"\n", b" "))
frames = st.one_of(calls, notes, broken, st.lists(calls | notes | broken | scalars, max_size=5), values, garbage)


def encoded(frame):
    return frame if isinstance(frame, bytes) else json.dumps(frame).encode()


def requests(frame):
    """The ids that must be answered: those of what is certainly a request."""
    found = []
    for entry in frame if isinstance(frame, list) else [frame]:
        if (
            isinstance(entry, dict)
            and entry.get("jsonrpc") == "2.0"
            and isinstance(entry.get("method"), str)
            and "id" in entry
        ):
            call = entry["id"]
            if isinstance(call, str) or (
                isinstance(call, int) and not isinstance(call, bool) and -(2**63) <= call < 2**63
            ):
                found.append(call)
    return found


def ids_in(frame):
    """The ids that may be answered: a frame that is no request is refused under the id it names."""
    entries = frame if isinstance(frame, list) else [frame]
    return [call for entry in entries if isinstance(entry, dict) and isinstance(call := entry.get("id"), str | int)]


async def exchange(sent):
    """Send each frame in a line of its own, half-close, and read to the end."""
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    with tempfile.TemporaryDirectory() as folder:
        async with Daemon(Path(folder) / "s", Bounds(stall=5.0)) as daemon:
            peer = await daemon.peer()
            got = []
            for frame in sent:
                peer.send(encoded(frame) + b"\n")
            peer.send({"jsonrpc": "2.0", "id": "the end", "method": "system.ping"})
            while True:
                line = await peer.line()
                assert line is not None, "the connection ended early"
                got.append(line)
                if isinstance(line, dict) and line.get("id") == "the end":
                    break
            peer.writer.write_eof()
            for sink in daemon.commands.sinks:
                sink.close()  # or they keep the connection
            async with asyncio.timeout(BOUND):
                rest = await peer.reader.read()
            got += [json.loads(line) for line in rest.splitlines()]
            assert daemon.errors == []
    assert failures == []
    return got


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(sent=st.lists(frames, min_size=20, max_size=20))
def test_no_frame_leaves_a_request_unanswered(loop, sent):
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        got = runner.run(exchange(sent))
    replies = [each for reply in got for each in (reply if isinstance(reply, list) else [reply])]
    for reply in replies:
        assert reply["jsonrpc"] == "2.0"
        assert ("result" in reply) != ("error" in reply)
        assert reply.get("error", {}).get("code") != -32603
    answered = Counter((type(each["id"]), each["id"]) for each in replies)
    asked = Counter((type(call), call) for frame in sent if not isinstance(frame, bytes) for call in requests(frame))
    named = Counter((type(call), call) for frame in sent if not isinstance(frame, bytes) for call in ids_in(frame))
    # An id used twice while in flight is answered with null the second time, so no id may be missing or in excess.
    for call in asked:
        assert 1 <= answered[call] <= named[call]
