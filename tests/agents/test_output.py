from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from opusd.agents import output, watch
from opusd.agents.kernel import PAGE, punch_hole
from opusd.agents.spec import Chunk
from opusd.agents.watch import OutputWatch
from opusd.testing.bench import Bench

MIB = 1 << 20


def log(folder: Path, data: bytes) -> Path:
    path = folder / "output.log"
    path.write_bytes(data)
    return path


def test_offsets_count_bytes_and_a_chunk_ends_with_a_whole_character(tmp_path: Path) -> None:
    path = log(tmp_path, "aé€😀".encode())
    seen = [output.read_chunk(path, 0, 4, over=True)]
    while not seen[-1].eof:
        seen.append(output.read_chunk(path, seen[-1].next_offset, 4, over=True))
    assert [(chunk.data, chunk.offset, chunk.next_offset) for chunk in seen] == [
        ("aé", 0, 3),
        ("€", 3, 6),
        ("😀", 6, 10),
    ]


def test_a_character_that_is_not_complete_yet_is_waited_for_until_nothing_more_comes(tmp_path: Path) -> None:
    path = log(tmp_path, b"a\xe2\x82")
    assert output.read_chunk(path, 0, 100, over=False) == Chunk(data="a", offset=0, next_offset=1)
    assert output.read_chunk(path, 1, 100, over=False) == Chunk(data="", offset=1, next_offset=1)
    assert output.read_chunk(path, 1, 100, over=True) == Chunk(data="\ufffd", offset=1, next_offset=3, eof=True)


def test_bytes_that_are_no_text_become_the_replacement_character(tmp_path: Path) -> None:
    path = log(tmp_path, b"a\xff\x00b\xc3(")
    chunk = output.read_chunk(path, 0, 100, over=True)
    assert chunk.data == "a\ufffd\0b\ufffd("
    assert chunk.next_offset == 6


def test_a_hole_is_skipped_and_counted(tmp_path: Path) -> None:
    path = log(tmp_path, b"h" * (PAGE - 1) + "é".encode() + b"x" * (8 * PAGE) + b"t" * 10)
    with path.open("r+b") as file:
        punch_hole(file.fileno(), PAGE, 8 * PAGE)
    head = output.read_chunk(path, 0, 1 << 20, over=True)
    assert (head.data, head.next_offset) == ("h" * (PAGE - 1) + "\ufffd", PAGE)
    tail = output.read_chunk(path, head.next_offset, 1 << 20, over=True)
    assert (tail.dropped, tail.offset) == (7 * PAGE, 8 * PAGE)
    assert tail.data.endswith("x" + "t" * 10)
    assert tail.eof


def test_a_hole_that_took_half_a_character_takes_the_other_half_too(tmp_path: Path) -> None:
    path = log(tmp_path, b"h" * (2 * PAGE - 1) + "€".encode() + b"tail")
    with path.open("r+b") as file:
        punch_hole(file.fileno(), PAGE, 2 * PAGE)
    tail = output.read_chunk(path, PAGE, 1 << 20, over=True)
    assert (tail.data, tail.dropped, tail.offset) == ("tail", PAGE + 2, 2 * PAGE + 2)


def test_an_offset_beyond_the_end_says_that_the_log_was_cut_and_begins_again(tmp_path: Path) -> None:
    path = log(tmp_path, b"new")
    assert output.read_chunk(path, 100, 10, over=False) == Chunk(data="new", offset=0, next_offset=3, truncated=True)


def test_a_log_that_was_pruned_is_empty_and_at_its_end(tmp_path: Path) -> None:
    assert output.read_chunk(tmp_path / "gone", 0, 10, over=True) == Chunk(data="", offset=0, next_offset=0, eof=True)


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "output.log").symlink_to(tmp_path / "secret")
    assert output.read_chunk(tmp_path / "output.log", 0, 10, over=True).data == ""
    assert output.last_text(tmp_path / "output.log") == ""


def test_the_last_text_begins_with_a_whole_character_and_is_at_most_2_kib(tmp_path: Path) -> None:
    assert output.last_text(log(tmp_path, "€".encode() * 1000)) == "€" * 682
    assert output.last_text(log(tmp_path, b"short\n")) == "short\n"


@pytest.mark.parametrize("inotify", [True, False])
async def test_a_long_poll_is_woken_by_what_is_written(tmp_path: Path, inotify: bool) -> None:
    bench = Bench(tmp_path)
    pool = bench.new_pool(inotify=inotify)
    await pool.open()
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    bench.start("sh", "-c", f"read x < {fifo}; echo now; sleep 60")
    await bench.there(bench.place() / "output.log")
    waiting = asyncio.create_task(pool.read_output(1, 1, 0, 100, 30))
    await asyncio.wait((waiting,), timeout=0.1)
    assert bool(pool._watch._armed) == inotify
    assert bool(pool._watch._looked_at) != inotify
    await asyncio.to_thread(fifo.write_text, "go\n")
    async with asyncio.timeout(5):
        assert (await waiting).data == "now\n"
    pool.stop(1, 1, 0)
    await bench.ended()
    await pool.close()


async def test_a_long_poll_of_a_log_that_is_not_there_yet_does_not_wait_for_the_next_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 3600.0)
    launcher = bench.pool.launcher_pid
    assert launcher is not None
    os.kill(launcher, signal.SIGSTOP)  # it makes the folder, and its shim the log
    bench.start("echo", "hello")
    reading = asyncio.create_task(bench.pool.read_output(1, 1, 0, 100, 3600))
    await asyncio.wait((reading,), timeout=0.05)
    assert not reading.done()
    os.kill(launcher, signal.SIGCONT)
    async with asyncio.timeout(20):
        assert (await reading).data == "hello\n"


async def test_a_long_poll_ends_with_the_attempt(bench: Bench) -> None:
    bench.start("sleep", "600")
    waiting = asyncio.create_task(bench.pool.read_output(1, 1, 0, 100, 30))
    await bench.started()
    bench.pool.stop(1, 1, 0)
    assert await waiting == Chunk(data="", offset=0, next_offset=0, eof=True)


async def test_a_long_poll_ends_with_its_time(bench: Bench) -> None:
    bench.start("sleep", "600")
    chunk = await bench.pool.read_output(1, 1, 0, 100, 0.2)
    assert chunk == Chunk(data="", offset=0, next_offset=0)
    bench.pool.stop(1, 1, 0)
    await bench.ended()


async def test_a_long_poll_ends_with_the_pool_and_does_not_say_that_the_attempt_is_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.pool.open()
    bench.start("sleep", "600")
    waiting = asyncio.create_task(bench.pool.read_output(1, 1, 0, 100, 30))
    await bench.started()
    await asyncio.wait((waiting,), timeout=0.1)
    await bench.pool.close()
    async with asyncio.timeout(5):
        assert await waiting == Chunk(data="", offset=0, next_offset=0)
    bench.clean_up()


async def test_a_long_poll_that_is_cancelled_leaves_nothing_behind(bench: Bench) -> None:
    bench.start("sleep", "600")
    polls = [asyncio.create_task(bench.pool.read_output(1, 1, 0, 100, 30)) for _ in range(3)]
    await asyncio.wait(polls, timeout=0.2)
    for poll in polls:
        poll.cancel()
    await asyncio.wait(polls)
    assert all(poll.cancelled() for poll in polls)
    assert bench.pool._watch._armed == {}
    assert bench.pool._attempts[1, 1].waiters == set()
    bench.pool.stop(1, 1, 0)
    await bench.ended()


async def test_ten_readers_of_a_chatty_agent_all_read_everything(bench: Bench) -> None:
    bench.start("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; printf €; exit 0")

    async def follow() -> str:
        text, offset, eof = "", 0, False
        while not eof:
            chunk = await bench.pool.read_output(1, 1, offset, 777, 10)
            assert chunk.offset == offset
            text, offset, eof = text + chunk.data, chunk.next_offset, chunk.eof
        return text

    async with asyncio.timeout(20):
        texts = await asyncio.gather(*(follow() for _ in range(10)))
    assert set(texts) == {"".join(f"{i}\n" for i in range(3000)) + "€"}


async def test_a_watch_is_armed_again_no_sooner_than_ten_milliseconds_later(tmp_path: Path) -> None:
    path = log(tmp_path, b"")
    watch = OutputWatch()
    watch.open()
    assert watch.rest(path) == 0
    waiter = watch.arm(path, 0)
    assert 0 < watch.rest(path) <= 0.011  # uvloop counts in milliseconds
    with path.open("ab") as file:
        file.write(b"x")
    async with asyncio.timeout(5):
        await waiter
    watch.disarm(waiter)
    watch.close()


async def test_an_agent_that_truncates_its_log_is_followed_from_its_beginning(bench: Bench) -> None:
    fifo = bench.folder / "go"
    os.mkfifo(fifo)
    bench.python(
        "import os, sys\n"
        "os.write(1, b'o' * 1000 + b'|')\n"
        f"open({str(fifo)!r}).read()\n"
        "os.ftruncate(1, 0); os.write(1, b'new')\n"
    )
    await bench.output("|")
    await asyncio.to_thread(fifo.write_text, "go")
    await bench.ended()
    chunk = await bench.pool.read_output(1, 1, 1001, 100, 0)
    assert chunk == Chunk(data="new", offset=0, next_offset=3, eof=True, truncated=True)


async def test_an_agent_may_close_its_output_and_go_on(bench: Bench) -> None:
    bench.python("import os, time; os.write(1, b'last words'); os.close(1); os.close(2); time.sleep(0.1); os._exit(3)")
    ended = await bench.ended()
    assert (ended.exit.code, ended.output_tail) == (3, "last words")


async def test_binary_output_is_text_to_readers_and_its_bytes_are_counted(bench: Bench) -> None:
    bench.python("import os; os.write(1, bytes(range(256)) * 100)")
    ended = await bench.ended()
    assert ended.log_bytes == 25600
    chunk = await bench.pool.read_output(1, 1, 0, 100_000, 0)
    assert chunk.eof
    assert chunk.data == (bytes(range(256)) * 100).decode("utf-8", "replace")


async def flood(bench: Bench, total: int) -> int:
    """The most disk that the log took while the agent wrote `total` bytes as fast as it can."""
    program = (
        f"import os\nblock = b'f' * {MIB}\nfor _ in range({total // MIB}): os.write(1, block)\nos.write(1, b'the end')"
    )
    bench.python(program, head=1 * MIB, tail=4 * MIB)
    path, most = bench.place() / "output.log", 0
    await bench.there(path)
    ending = asyncio.create_task(bench.ended())
    while not ending.done():
        await asyncio.wait((ending,), timeout=0.01)
        most = max(most, path.stat().st_blocks * 512)
    return most


async def test_a_flood_of_1_gib_takes_little_disk_and_keeps_head_and_tail(bench: Bench) -> None:
    if not bench.pool.punches_holes:
        pytest.skip("this file system has no holes")
    most = await flood(bench, 1024 * MIB)
    ended = await bench.ended()
    size = 1024 * MIB + 7
    assert ended.log_bytes == bench.pool.output_size(1, 1) == size
    assert ended.output_tail.endswith("the end")
    assert most < 900 * MIB
    assert (bench.place() / "output.log").stat().st_blocks * 512 < 6 * MIB
    kept, dropped, offset, eof = 0, 0, 0, False
    while not eof:
        chunk = await bench.pool.read_output(1, 1, offset, 512 << 10, 0)
        kept, dropped = kept + len(chunk.data), dropped + chunk.dropped
        offset, eof = chunk.next_offset, chunk.eof
    assert kept + dropped == offset == size
    assert 5 * MIB <= kept < 6 * MIB


async def test_without_holes_a_flood_is_cut_down_to_its_head(bench: Bench) -> None:
    bench.pool.punches_holes = False
    await flood(bench, 256 * MIB)
    ended = await bench.ended()
    assert ended.log_bytes <= 6 * MIB
    assert ended.exit.code == 0
