"""Weeks of mixed work with failures and rate limits, on a fake clock: see docs/reliability.md.

OPUSD_SEEDS=17 replays one week exactly, OPUSD_SEEDS=0-99 runs a hundred.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.core.world import HOUR
from tests.simulation.people import People
from tests.simulation.rules import DAY, RULES, WEEK
from tests.simulation.seeds import CHOSEN, seeds
from tests.simulation.starts import BOUND
from tests.simulation.week import Week

if TYPE_CHECKING:
    from opusd.core.job import Change

pytestmark = pytest.mark.slow
SEEDS = seeds("0-2")
ROOT = Path(__file__).parents[2]
EVERY_WEEK = (
    "job.retrying", "retry at its moment", "ended: stalled", "ended: timeout", "ended: rate_limited", "ended: lost",
    "failed of losses", "probe", "closed by name", "closed for a while", "escalated", "budget used up", "day used up",
    "lapsed",
    "late worker refused", "lent", "expired unstarted", "question expired", "job.answered", "job.held", "killed",
    "power lost", "clock set", "key known", "interactive beside the pool", "reserved", "went before what was older",
    "past half the bound", "parked", "left to a person",
)  # fmt: skip


def lived(seed: int, length: int = WEEK) -> Week:
    week = Week(seed, length)
    try:
        People(week)
        week.run()
    except Exception as error:
        days, rest = divmod(week.steady / 1e6, 86_400)
        when = f"step {week.steps}, day {days:.0f} and {rest:.6f} s"
        error.add_note(f"seed {seed}, {when}; to replay it: OPUSD_SEEDS={seed} pytest tests/simulation")
        raise
    return week


@cache
def seen(seed: int) -> Counter[str]:
    return lived(seed).seen


def trail(seed: int, length: int) -> str:
    """A digest of all that happens."""
    week, digest = Week(seed, length), sha256()

    def note(change: Change) -> None:
        digest.update(repr((week.steady, change.after, change.event)).encode())

    week.world.watchers.append(note)
    People(week)
    week.run()
    return digest.hexdigest()


def test_the_bound_that_is_judged_is_the_one_that_is_printed() -> None:
    assert RULES.points.bound_hours() * HOUR == pytest.approx(BOUND)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_week_of_mixed_work_keeps_every_promise(seed: int) -> None:
    print("\n".join(f"{count:7} {what}" for what, count in sorted(seen(seed).items())))


@pytest.mark.skipif(bool(CHOSEN), reason="other weeks were chosen")
def test_nothing_that_is_judged_is_missing_from_these_weeks() -> None:
    for what in EVERY_WEEK:
        assert all(seen(seed)[what] for seed in SEEDS), f"a week without: {what}"
    assert sum(seen(seed)["failed of limits"] for seed in SEEDS)


def test_a_seed_replays_exactly_in_another_process() -> None:
    program = f"from tests.simulation.test_week import trail; print(trail(5, {DAY // 2}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": chaos},
        ).stdout
        for chaos in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
