"""The whole daemon on a disk that does what a test says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.storms.disk import CALM, Weather
from tests.simulation.storms.storm import Storm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Storm]:
    """A storm in which nothing happens."""
    storm = Storm(1, tmp_path)
    with storm.here():
        storm.house.start()
        while not storm.house.is_dispatching:
            storm.loop.step()
        yield storm


def exits(storm: Storm) -> dict[str, int]:
    """How daemons ended until one is gone."""
    while storm.house.daemon is not None:
        storm.loop.step()
    words = ("stopped", "OutcomeUnknown", "StoreError")
    return {word: storm.house.log[word] for word in words if word in storm.house.log}


def test_a_daemon_that_is_stopped_ends_well(quiet: Storm) -> None:
    assert quiet.disk.weather == CALM
    quiet.house.daemon.stop()
    assert exits(quiet) == {"stopped": 1}


def test_a_daemon_gives_back_the_memory_that_is_free_now_and_then(
    quiet: Storm, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr("opusd.memory.give_back", lambda: given.append(quiet.loop.now))
    while quiet.loop.now < 3_600_000_000:
        quiet.loop.step()
    assert 3 <= len(given) <= 6


@pytest.mark.parametrize("stop", [True, False])
def test_a_commit_of_which_nobody_knows_is_told_by_the_exit_also_of_a_daemon_that_is_stopped(
    quiet: Storm, stop: bool
) -> None:
    quiet.disk.weather = Weather(unknown=1.0)
    if stop:
        quiet.house.daemon.stop()
    else:
        quiet.crowd.call("queue.pause")
    assert exits(quiet) == {"OutcomeUnknown": 1}
