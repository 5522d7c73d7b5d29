import pytest

from opusd.core.access import Caller
from opusd.core.errors import Forbidden
from tests.rpc.fake import OFFERED, Daemon

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest.mark.parametrize(
    ("method", "params", "path", "words"),
    [
        ("job.get", {"id": 1, "ful": True}, "$.ful", "unknown parameter 'ful'"),
        ("job.submit", {"promt": "x"}, "$.promt", "did you mean 'prompt'"),
        ("job.get", {}, "$.id", "'id' is missing"),
        ("job.get", {"id": 1.5}, "$.id", "got `float`"),
        ("job.get", {"id": True}, "$.id", "got `bool`"),
        ("job.submit", {"boost": 50}, "$.boost", "<= 49"),
        ("job.submit", {"prompt": "a\0b"}, "$.prompt", "NUL"),
        ("job.submit", {"payload": {"a": [1, 2**63]}}, "$.payload.a[1]", "2^63"),
        ("job.submit", {"payload": {"a": -(2**63) - 1}}, "$.payload.a", "2^63"),
        (
            "job.submit",
            {"depends_on": [1, {"job": 2, "on": "never"}]},
            "$.depends_on[1].on",
            "'never' is not one of any, ",
        ),
        ("job.list", {"status": "runing"}, "$.status", "unknown word 'runing': did you mean 'running'?"),
        ("job.list", {"status": ["held", "runing"]}, "$.status[1]", "did you mean 'running'?"),
        ("job.submit_batch", {"jobs": [{}, {"source": "users"}]}, "$.jobs[1].source", "did you mean 'user'?"),
        ("events.subscribe", {"kinds": ["job.failed", "job.complete"]}, "$.kinds[1]", "did you mean 'job.completed'?"),
        ("events.subscribe", {"kinds": ["x"]}, "$.kinds[0]", "'x' is not one of agent.cooling, agent.ready, daemon."),
        ("job.submit", {"needs": {"a": 1, "b": 2, "c": 0, "d": 0}}, "$.needs.c", ">= 1"),
        ("job.update", {"needs": {"a": "x"}, "id": 1}, "$.needs.a", "got `str`"),
        (
            "job.submit_batch",
            {"jobs": [{}, {"env": {"A": "x", "B": {"from_env": 1}}}]},
            "$.jobs[1].env.B.from_env",
            "int",
        ),
        ("job.submit_batch", {"jobs": [{}, {"boost": "x"}]}, "$.jobs[1].boost", "got `str`"),
        ("job.submit_batch", {"jobs": [{}, {"bost": 1}]}, "$.jobs[1].bost", "unknown parameter"),
    ],
)
async def test_a_bad_parameter_is_named_by_its_path(peer, method, params, path, words):
    peer.call(1, method, **params)
    error = (await peer.line())["error"]
    assert error["code"] == -32602
    index = {"index": 1} if path.startswith("$.jobs[1]") else {}
    assert error["data"] == {"code": "invalid_params", "retryable": False, "path": path, **index}
    assert words in error["message"]


async def test_an_unknown_method_and_one_that_the_daemon_does_not_offer_are_not_found(peer):
    for method in ("job.destroy", "worker.claim", "stats.summary", "__init__", "$/cancelRequest"):
        peer.call(1, method)
        assert (await peer.line())["error"]["code"] == -32601


async def test_a_refusal_carries_its_code_its_word_and_its_particulars(peer):
    peer.call(1, "job.submit_batch", jobs=[{}])
    assert (await peer.line())["error"] == {
        "code": -32003,
        "message": "no room",
        "data": {"code": "queue_full", "retryable": True, "queued": 1, "max_queued": 1, "retry_after": 2.0},
    }


async def test_an_exception_is_reported_to_the_daemon_and_not_to_the_client(peer, daemon):
    peer.call(1, "job.why", id=1)
    error = (await peer.line())["error"]
    assert error["code"] == -32603
    assert "secret" not in str(error)
    assert "Traceback" not in str(error)
    ((raised, method),) = daemon.errors
    assert isinstance(raised, ZeroDivisionError)
    assert method == "job.why"


async def test_a_result_that_is_no_json_is_an_internal_error(peer, daemon):
    peer.call(1, "job.history", id=1)
    assert (await peer.line())["error"]["code"] == -32603
    assert len(daemon.errors) == 1


async def test_hello_agrees_on_the_protocol_or_is_a_conflict(peer):
    peer.call(1, "system.hello", protocol_min=1, protocol_max=9, client="test")
    result = (await peer.line())["result"]
    assert result["protocol"] == 1
    own = {"system.hello", "system.ping", "rpc.discover", "events.unsubscribe"}
    assert set(result["capabilities"]) == {*OFFERED, *own}
    peer.call(2, "system.hello", protocol_min=2, protocol_max=9)
    assert (await peer.line())["error"]["data"]["protocol"] == 1


async def test_a_token_lowers_the_caller_before_the_next_call_is_looked_at(tmp_path):
    def lower(caller, token):
        return Caller(uid=caller.uid, pid=caller.pid, agent=True, job=len(token), attempt=1)

    async with Daemon(tmp_path / "s", lower=lower) as daemon:
        peer = await daemon.peer()
        peer.call(1, "queue.capacity")
        peer.call(2, "system.hello", token="abc")
        peer.call(3, "queue.capacity")
        replies = {each["id"]: each["result"] for each in [await peer.line() for _ in range(3)]}
        assert replies[1]["agent"] is False
        assert (replies[3]["agent"], replies[3]["job"]) == (True, 3)


async def test_discover_describes_exactly_what_is_answered(peer):
    peer.call(1, "rpc.discover")
    document = (await peer.line())["result"]
    assert document["openrpc"].startswith("1.")
    names = [method["name"] for method in document["methods"]]
    peer.call(2, "system.hello")
    assert names == (await peer.line())["result"]["capabilities"]


async def test_a_peer_that_may_not_call_is_told_so_and_closed(tmp_path):
    def identify(_):
        raise Forbidden("not you")

    async with Daemon(tmp_path / "s", identify=identify) as daemon:
        peer = await daemon.peer()
        peer.call(1, "system.ping")
        assert (await peer.line())["error"]["code"] == -32005
        assert await peer.line() is None


async def test_one_connection_too_many_is_told_so_and_closed(tmp_path):
    async with Daemon(tmp_path / "s", max_connections=2) as daemon:
        peers = [await daemon.peer() for _ in range(2)]
        for peer in peers:
            assert (await peer.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"}))["id"] == 1
        third = await daemon.peer()
        assert (await third.line())["error"]["code"] == -32004
        assert await third.line() is None


async def test_a_tenth_of_the_connections_is_left_to_people_however_many_agents_come(tmp_path):
    callers = [Caller(uid=1000, pid=1, agent=True)] * 12
    identify = lambda _: callers.pop() if callers else Caller(uid=1000, pid=1)  # noqa: E731 - plain on one line
    async with Daemon(tmp_path / "s", identify=identify, max_connections=10) as daemon:
        ping = {"jsonrpc": "2.0", "id": 1, "method": "system.ping"}
        agents = [await daemon.peer() for _ in range(9)]
        for agent in agents:
            assert (await agent.ask(ping))["id"] == 1
        for _ in range(3):  # they are told why, do not close, and count for nobody
            assert (await (await daemon.peer()).line())["error"]["data"] == {
                "code": "quota_exceeded", "retryable": True, "quota": "connections", "limit": 9, "retry_after": 1.0,
            }  # fmt: skip
        assert (await (await daemon.peer()).ask(ping))["id"] == 1
        assert daemon.server.connections == 10
        assert (await (await daemon.peer()).line())["error"]["data"]["limit"] == 10
