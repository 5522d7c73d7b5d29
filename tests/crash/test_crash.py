"""A part of `make crashtest`: always the same points, some of each kind."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crash import torn
from tests.crash.stage import Point, can_strike
from tests.crash.strikes import Strikes, sample

WHY = can_strike()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY is not None, reason=str(WHY))]
POINTS = 25


@pytest.fixture(scope="module")
def strikes():
    with Strikes() as strikes:
        yield strikes


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("faults", [False, True], ids=["killed", "failing"])
def test_struck_anywhere_it_keeps_what_it_promised(strikes, faults, seed):
    points = sample(strikes.points(faults=faults), POINTS, seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(strikes.strike, points))
    broken = [f"make crashtest ARGS='--replay {one.point}': {line}" for one in outcomes for line in one.broken]
    assert not broken, "\n".join(broken)
    assert sum(one.struck for one in outcomes) > POINTS // 2


def test_a_torn_log_opens_to_a_beginning_of_the_history(tmp_path):
    opened, wrong = torn.run(tmp_path, every=16)
    assert opened > 20
    assert wrong == []


@pytest.mark.parametrize("text", ["registry:pwrite64:kill:417", "launcher:clone:EAGAIN:3+"])
def test_a_point_is_read_as_it_is_written(text):
    assert str(Point.read(text)) == text
