import asyncio
import gc
import os
import socket
import stat
import weakref

import pytest

from opusd.rpc.place import PlaceRefused
from tests.rpc.fake import BOUND, Daemon

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


async def test_the_socket_is_ours_alone_in_a_directory_of_ours_alone(tmp_path):
    before = os.umask(0)
    try:
        async with Daemon(tmp_path / "made" / "too" / "s") as daemon:
            assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(daemon.path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(daemon.path.parent.parent.stat().st_mode) == 0o700
    finally:
        assert os.umask(before) == 0
    assert not daemon.path.exists()


async def refusal(path):
    with pytest.raises(PlaceRefused) as raised:
        await Daemon(path).server.serve(path)
    return raised.value.message


async def test_a_stale_socket_is_removed(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    async with Daemon(tmp_path / "s") as daemon:
        assert (await (await daemon.peer()).ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"}))["id"] == 1


async def test_a_socket_that_answers_is_left_alone(tmp_path):
    async with Daemon(tmp_path / "s") as daemon:
        assert "listens" in await refusal(daemon.path)
        assert (await (await daemon.peer()).ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"}))["id"] == 1


async def test_a_symlink_at_the_sockets_place_is_refused(tmp_path):
    (tmp_path / "s").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in await refusal(tmp_path / "s")
    assert (tmp_path / "s").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_file_at_the_sockets_place_is_refused(tmp_path):
    (tmp_path / "s").write_text("precious")
    assert "no socket" in await refusal(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_path_over_107_bytes_is_refused_with_both_numbers(tmp_path):
    message = await refusal(tmp_path / ("ü" * 100))
    assert "107" in message
    assert str(len(os.fsencode(tmp_path)) + 201) in message


async def test_a_directory_that_others_can_write_to_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o777)
    assert "chmod 700" in await refusal(tmp_path / "d" / "s")


async def test_an_inherited_socket_is_used_and_its_path_left(tmp_path):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen()
    daemon = Daemon(tmp_path / "s")
    await daemon.server.serve(None, listening.detach())
    peer = await daemon.peer()
    assert (await peer.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"}))["id"] == 1
    await peer.close()
    await daemon.server.close(BOUND)
    assert (tmp_path / "s").is_socket()


async def test_an_inherited_descriptor_that_is_no_listening_socket_is_refused(tmp_path):
    one, two = socket.socketpair()
    with one, two, pytest.raises(PlaceRefused, match="not a listening"):
        await Daemon(tmp_path / "s").server.serve(None, one.fileno())
    with (tmp_path / "f").open("w") as file, pytest.raises(PlaceRefused, match="no socket"):
        await Daemon(tmp_path / "s").server.serve(None, file.fileno())


async def test_closing_lets_replies_out_and_ends_what_waits(tmp_path):
    daemon = Daemon(tmp_path / "s")
    await daemon.server.serve(daemon.path)
    peer = await daemon.peer()
    peer.call(1, "job.wait", group="g")
    peer.call(2, "job.update", id=5)
    await daemon.commands.until(lambda: len(daemon.commands.started) == 2)
    closing = asyncio.get_running_loop().create_task(daemon.server.close(BOUND))
    reply = await peer.line()
    assert (reply["id"], reply["error"]["code"]) == (1, -32008)
    daemon.commands.gate.set()
    assert (await peer.line())["result"] == {"id": 5}
    assert await peer.line() is None
    await closing
    await peer.close()


async def test_closing_does_not_wait_longer_than_it_was_told(tmp_path):
    daemon = Daemon(tmp_path / "s")
    await daemon.server.serve(daemon.path)
    peer = await daemon.peer()
    peer.call(1, "job.update", id=5)
    await daemon.commands.until(lambda: daemon.commands.started)
    async with asyncio.timeout(BOUND):
        await daemon.server.close(0.05)
    assert await peer.line() is None
    assert daemon.server.connections == 0
    daemon.commands.gate.set()
    await daemon.commands.until(lambda: daemon.commands.written == [5])
    await peer.close()


@pytest.mark.parametrize("ends", ["cancelled", "gone"])
async def test_a_call_that_is_cancelled_leaves_no_cycle_for_the_collector(tmp_path, ends):
    """What it looks at no more it would never free: with each the connection, and all that it holds."""
    async with Daemon(tmp_path / "s") as daemon:
        other, peer = await daemon.peer(), await daemon.peer()
        gc.disable()
        try:
            peer.call(1, "job.wait", group="g")
            await daemon.commands.until(lambda: daemon.commands.started)
            connections = weakref.WeakSet(daemon.server._connections)
            tasks = weakref.WeakSet(call.task for one in connections for call in one._running)
            assert len(tasks) == 1
            if ends == "cancelled":
                peer.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}})
                assert (await peer.line())["error"]["code"] == -32800
            await peer.close()
            async with asyncio.timeout(BOUND):
                while len(connections) > 1 or tasks:
                    await other.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"})
        finally:
            gc.enable()


async def test_a_connection_that_is_over_leaves_no_cycle_for_the_collector(tmp_path):
    """Ten thousand that end together would stop the loop for half a second."""
    async with Daemon(tmp_path / "s") as daemon:
        other, peer = await daemon.peer(), await daemon.peer()
        gc.disable()
        try:
            for call, method in enumerate(("system.ping", "events.subscribe", "system.ping")):
                peer.call(call, method)
                assert (await peer.line())["id"] == call
            connections = weakref.WeakSet(daemon.server._connections)
            await peer.close()
            async with asyncio.timeout(BOUND):
                while len(connections) > 1:
                    daemon.commands.sinks.clear()
                    await other.ask({"jsonrpc": "2.0", "id": 1, "method": "system.ping"})
        finally:
            gc.enable()
