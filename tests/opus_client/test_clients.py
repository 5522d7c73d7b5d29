import asyncio
import json

import pytest
import pytest_asyncio

from opus_client import AsyncClient, Client, ConnectionLost, Lagged, RpcError, socket_path
from opusd.api.methods import JOB_LOGS, JOB_WAIT, SYSTEM_HELLO
from opusd.api.params import JobLogs, JobWait, SystemHello
from tests.rpc.fake import BOUND, Daemon

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest_asyncio.fixture
async def daemon(tmp_path):
    async with Daemon(tmp_path / "s") as daemon:
        yield daemon


@pytest_asyncio.fixture
async def opus(daemon):
    async with AsyncClient(daemon.path) as opus:
        yield opus


async def test_concurrent_calls_each_get_their_own_answer(opus):
    got = await asyncio.gather(*(opus.call("job.get", id=number) for number in range(300)))
    assert [each["id"] for each in got] == list(range(300))


async def test_a_typed_call_gives_the_typed_result(opus):
    assert (await opus.ask(SYSTEM_HELLO, SystemHello())).protocol == 1
    assert (await opus.ask(JOB_LOGS, JobLogs(id=1, limit=100))).data == "é" * 50


async def test_a_refusal_is_raised_with_code_message_and_data(opus):
    with pytest.raises(RpcError, match="no room") as raised:
        await opus.call("job.submit_batch", jobs=[{}])
    assert raised.value.code == -32003
    assert raised.value.data["max_queued"] == 1


async def test_a_notification_is_sent_and_not_answered(opus, daemon):
    await opus.notify("job.get", id=7)
    await daemon.commands.until(lambda: daemon.commands.started == [7])


async def test_a_cancelled_call_is_cancelled_at_the_daemon(opus, daemon):
    waiting = asyncio.get_running_loop().create_task(opus.ask(JOB_WAIT, JobWait(group="g")))
    await daemon.commands.until(lambda: daemon.commands.started)
    waiting.cancel()
    await daemon.commands.until(lambda: daemon.commands.cancelled == ["g"])
    assert (await opus.call("job.get", id=1)) == {"id": 1}


async def test_a_call_that_is_given_up_is_answered_all_the_same(opus, daemon):
    call = opus.begin("job.wait", group="g")
    await daemon.commands.until(lambda: daemon.commands.started)
    call.give_up()
    with pytest.raises(RpcError) as raised:
        await call.result()
    assert raised.value.code == -32800
    done = opus.begin("job.get", id=3)
    done.give_up()  # it does not wait
    assert await done.result() == {"id": 3}


async def test_events_are_iterated_until_they_lag(opus, daemon):
    events = await opus.subscribe(since=0)
    (sink,) = daemon.commands.sinks
    for cursor in (1, 2):
        sink(cursor, json.dumps({"cursor": cursor}).encode())
    sink._end_lagging()
    got = [await anext(events), await anext(events)]
    assert [each["cursor"] for each in got] == [1, 2]
    with pytest.raises(Lagged) as raised:
        await anext(events)
    assert raised.value.cursor == events.cursor == 2


async def test_closing_events_unsubscribes(opus, daemon):
    events = await opus.subscribe()
    await events.close()
    assert daemon.commands.sinks[0].closed


async def test_when_the_daemon_goes_away_calls_and_events_say_so(tmp_path):
    async with Daemon(tmp_path / "s") as daemon:
        opus = await AsyncClient(daemon.path).connect()
        events = await opus.subscribe()
        waiting = asyncio.get_running_loop().create_task(opus.call("job.update", id=1))
        await daemon.commands.until(lambda: daemon.commands.started)
        await daemon.server.close(0)
        async with asyncio.timeout(BOUND):
            for lost in (waiting, anext(events), opus.call("system.ping")):
                with pytest.raises(ConnectionLost):
                    await lost
        await opus.close()


async def test_the_blocking_client_calls_and_follows_events(daemon):
    def use():
        with Client(daemon.path, timeout=BOUND) as opus:
            assert opus.call("job.get", id="key") == {"id": "key"}
            assert opus.ask(SYSTEM_HELLO, SystemHello(client="me")).protocol == 1
            opus.notify("job.get", id=2)
            with pytest.raises(RpcError) as raised:
                opus.call("job.get")
            assert raised.value.data["path"] == "$.id"
            daemon.commands.first = b'{"cursor":1}'
            events = opus.events(since=0)
            assert opus.call("job.get", id=3) == {"id": 3}
            return next(events)

    assert await asyncio.to_thread(use) == {"cursor": 1}


async def test_the_socket_is_where_the_contract_says(monkeypatch, tmp_path):
    monkeypatch.delenv("OPUSD_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert socket_path() == tmp_path / ".local/state/opusd/opusd.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/u")
    assert str(socket_path()) == "/run/u/opusd/opusd.sock"
    monkeypatch.setenv("OPUSD_SOCKET", "/s")
    assert str(socket_path()) == "/s"
    assert str(socket_path("/given")) == "/given"
