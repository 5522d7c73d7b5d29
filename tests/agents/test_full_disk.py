from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opusd.testing.bench import Bench


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    path = place / "fill"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"f" * 4096)
        except OSError:
            return path


async def test_the_exit_of_an_agent_that_filled_the_disk_is_on_record(small: Path) -> None:
    bench = Bench(small)
    await bench.pool.open()
    bench.start("sh", "-c", "cat /dev/zero > fill 2>/dev/null; cat /dev/zero; exit 7")
    ended = await bench.ended()
    assert ended.exit.code == 7
    await bench.pool.close()


async def test_on_a_full_disk_an_attempt_does_not_start_and_is_not_lost_and_goes_when_there_is_room(
    small: Path,
) -> None:
    bench = Bench(small)
    await bench.pool.open()
    full = fill(small)
    bench.start("true")
    assert (await bench.ended()).exit.kind == "spawn"
    full.unlink()
    bench.start("true", attempt=2)
    assert (await bench.ended(1, 2)).exit.code == 0
    await bench.pool.close()


@pytest.mark.parametrize("made", [False, True])
async def test_an_attempt_that_a_full_disk_keeps_from_starting_names_the_disk_and_the_folder(
    small: Path, made: bool
) -> None:
    bench = Bench(small)
    await bench.pool.open()
    if made:
        bench.place().mkdir(parents=True)
    fill(small)
    bench.start("true")
    exit_ = (await bench.ended()).exit
    assert (exit_.kind, exit_.errno) == ("spawn", errno.ENOSPC)
    assert str(bench.place()) in exit_.message
    assert "ENOSPC" in exit_.message
    await bench.pool.close()


async def test_on_a_full_disk_an_attempt_that_never_ran_is_found_to_be_one(small: Path) -> None:
    bench = Bench(small)
    await bench.pool.open()
    bench.place().mkdir(parents=True)
    fill(small)
    await bench.pool.recover([(1, 1, "a" * 32, None)])
    assert type(bench.reports[0]).__name__ == "NeverRan"
    await bench.pool.close()
