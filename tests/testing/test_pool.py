from __future__ import annotations

import asyncio
import inspect

import pytest

from opusd.agents.pool import AgentPool
from opusd.agents.spec import Adopted, Ended, Exit, Launch, NeverRan, Report, Started
from opusd.testing.pool import ScriptedPool


def launch(job: int, attempt: int = 1) -> Launch:
    return Launch(job=job, attempt=attempt, attempt_id=f"id{job}", argv=["x"], env={}, workdir="/")


def test_it_has_every_public_method_of_the_real_pool_with_the_same_parameters() -> None:
    for name, method in inspect.getmembers(AgentPool, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(ScriptedPool, name)) == inspect.signature(method), name


def test_a_launch_is_written_down_and_ends_as_the_test_says() -> None:
    reports: list[Report] = []
    pool = ScriptedPool(report=reports.append)
    pool.start(launch(1))
    pool.start(launch(2))
    assert [each.job for each in pool.launches] == [1, 2]
    assert pool.running() == [(1, 1), (2, 1)]
    pool.stop(1, 1, 5.0)
    pool.stop(9, 1, 5.0)
    assert pool.stops == [(1, 1, 5.0)]
    pool.end(1, code=3)
    pool.lose(2)
    assert [type(report) for report in reports] == [Started, Started, Ended, Ended]
    assert [report.exit.kind for report in reports if isinstance(report, Ended)] == ["exit", "lost"]
    assert pool.running() == []


def test_one_job_is_never_run_twice_at_once() -> None:
    pool = ScriptedPool(report=[].append)
    pool.start(launch(1))
    with pytest.raises(AssertionError, match="twice"):
        pool.start(launch(1, attempt=2))


async def test_recovery_finds_what_the_script_says() -> None:
    reports: list[Report] = []
    pool = ScriptedPool(report=reports.append)
    pool.survivors = {(1, 1)}
    pool.ended[2, 1] = Ended(job=2, attempt=1, exit=Exit(kind="exit", code=0))
    await pool.recover([(1, 1, "a", None), (2, 1, "b", 5.0), (3, 1, "c", None)])
    assert [type(report) for report in reports] == [Adopted, Ended, NeverRan]


async def test_output_is_waited_for() -> None:
    pool = ScriptedPool(report=[].append)
    pool.start(launch(1))
    waiting = asyncio.create_task(pool.read_output(1, 1, 0, 100, 5))
    await asyncio.wait((waiting,), timeout=0.01)
    pool.write(1, 1, b"hello")
    assert (await waiting).data == "hello"
    pool.end(1)
    assert (await pool.read_output(1, 1, 5, 100, 5)).eof
