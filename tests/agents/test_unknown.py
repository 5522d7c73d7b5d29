"""What can't be read of an attempt says not that it is over."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opusd.agents import inquiry, kernel, shim, traces
from opusd.agents.spec import Adopted, Ended, NeverRan, Unknown
from opusd.testing.bench import Bench


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "_FIRST_PAUSE", 0.01)


@contextmanager
def in_the_way(folder: Path) -> Iterator[None]:
    """Meanwhile nothing can be read in it: a file is in its place."""
    away = folder.with_name("away")
    folder.rename(away)
    folder.touch()
    yield
    folder.unlink()
    away.rename(folder)


async def abandoned(bench: Bench) -> str:
    """An attempt that runs on while no daemon is there, and the next daemon's pool; its id."""
    launch = bench.start("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    await bench.output("ready")
    await bench.pool.close()
    await bench.new_pool().open()
    bench.reports.clear()
    return launch.attempt_id


async def test_an_attempt_of_which_nothing_can_be_found_out_is_asked_after_until_it_is_adopted(bench: Bench) -> None:
    attempt_id = await abandoned(bench)
    with in_the_way(bench.place()):
        await bench.pool.recover([(1, 1, attempt_id, None)])
        [unknown] = bench.reports
        assert isinstance(unknown, Unknown)
        assert str(bench.place()) in unknown.message
        assert bench.pool.running() == [(1, 1)]
        assert traces.bearers(attempt_id)
    await bench.until(lambda: bench.of(Adopted))
    assert bench.reports == [unknown, bench.of(Adopted)[0]]
    bench.pool.stop(1, 1, 10)
    assert (await bench.ended()).exit.code == 9


async def test_what_is_ordered_of_an_unknown_attempt_holds_once_it_is_adopted(bench: Bench) -> None:
    attempt_id = await abandoned(bench)
    with in_the_way(bench.place()):
        await bench.pool.recover([(1, 1, attempt_id, 900.0)])
        bench.pool.set_deadline(1, 1, 300.0)
        bench.pool.stop(1, 1, 200.0)
    assert (await bench.ended()).exit.code == 9
    orders, now = traces.read_orders(bench.place()), kernel.monotonic_seconds()
    assert 100 < orders["kill_at"] - now <= 200
    assert 200 < orders["deadline"] - now <= 300


async def test_an_attempt_that_never_ran_is_said_so_as_soon_as_its_fence_can_be_put_up(bench: Bench) -> None:
    bench.place().mkdir(parents=True)
    with in_the_way(bench.place()):
        await bench.pool.recover([(1, 1, "a" * 32, None)])
        assert bench.of(NeverRan) == []
    await bench.until(lambda: bench.of(NeverRan))
    assert len(bench.of(Unknown)) == 1


def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The record of the end can't be read so many times."""
    read: Callable[..., Any] = traces.read_record
    left = iter(range(times))

    def fails(folder: Path) -> traces.Record | None:
        if next(left, None) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(folder)

    monkeypatch.setattr(traces, "read_record", fails)


async def test_the_end_of_an_attempt_is_read_again_when_it_could_not_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2)
    bench.start("sh", "-c", "exit 3")
    assert (await bench.ended()).exit.code == 3
    assert len(bench.of(Unknown)) == 1


async def test_an_end_that_stays_unreadable_is_lost_once_nothing_of_the_attempt_is_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 1000)
    launch = bench.start("sh", "-c", "echo ready; exec sleep 600")
    await bench.output("ready")
    os.kill((await bench.started()).shim_pid, signal.SIGKILL)
    ended = await bench.ended()
    assert ended.exit.kind == "lost"
    assert "Too many open files" in ended.exit.message
    assert traces.bearers(launch.attempt_id) == []
    assert bench.of(Ended) == [ended]


async def test_a_lock_that_cant_be_looked_at_is_not_taken_for_free(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = shim.claim(str(await asyncio.to_thread(_made, bench.place())), {"attempt_id": "abc"})
    assert held is not None

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(OSError, match="Too many open files"):
            traces.is_held(bench.place())
    assert traces.is_held(bench.place())
    os.close(held)
    assert not traces.is_held(bench.place())


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
