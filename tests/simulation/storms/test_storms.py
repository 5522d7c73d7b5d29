"""The daemon in storms, on a fake clock, with a disk that fails: see docs/reliability.md.

OPUSD_SEEDS=17 replays one storm exactly, OPUSD_SEEDS=0-99 runs a hundred.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.simulation.seeds import CHOSEN, seeds
from tests.simulation.storms.storm import LENGTH, Storm

pytestmark = pytest.mark.slow
SEEDS = seeds("0-79")
ROOT = Path(__file__).parents[3]
ALL_THAT_IS_JUDGED = (
    "killed", "killed in the middle of a step", "stopped", "power lost", "clock set", "compared with a rebuild",
    "lapsed", "stale token", "heard", "lagged",
    "job.completed", "job.failed", "job.retrying", "job.lost", "job.asked", "job.answered", "job.escalated",
    "job.expired", "job.pruned", "job.held", "job.released", "job.cancelling", "job.scheduled", "job.blocked",
    "agent.cooling", "queue.paused", "pool.resized", "schedule.added", "daemon.stopped",
    "job.submit: storage_unavailable", "job.submit: internal_error", "worker.complete: lease_lost",
    "job.wait: answered", "job.wait: cancelled", "worker.claim: answered", "system.reload: answered",
    "log: OutcomeUnknown", "log: StoreError", "log: attempt.adopted", "log: storage.unreadable", "log: result.refused",
)  # fmt: skip


def weathered(seed: int, folder: Path, length: int = LENGTH) -> Storm:
    storm = Storm(seed, folder, length)
    try:
        storm.run()
    except BaseException as error:
        when = f"step {storm.loop.steps}, {storm.loop.now / 1e6:.6f} s"
        error.add_note(f"seed {seed}, {when}; to replay it: OPUSD_SEEDS={seed} pytest tests/simulation/storms")
        raise
    return storm


@cache
def seen(seed: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        return weathered(seed, Path(folder)).seen()


def trail(seed: int, length: int) -> str:
    """A digest of all that came to be on disk, of when, and in which step."""
    with tempfile.TemporaryDirectory() as folder:
        return weathered(seed, Path(folder), length).judge.digest.hexdigest()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_breaks_no_promise(seed: int) -> None:
    print("\n".join(f"{count:7} {what}" for what, count in sorted(seen(seed).items())))


@pytest.mark.skipif(bool(CHOSEN), reason="other storms were chosen")
def test_nothing_that_is_judged_is_missing_from_these_storms() -> None:
    all_of_it = sum((seen(seed) for seed in SEEDS), Counter[str]())
    assert [what for what in ALL_THAT_IS_JUDGED if not all_of_it[what]] == []


def test_a_storm_replays_exactly_in_another_process() -> None:
    program = "from tests.simulation.storms.test_storms import trail; print(trail(5, 4000))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": chaos},
        ).stdout
        for chaos in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
