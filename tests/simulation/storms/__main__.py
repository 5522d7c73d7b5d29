"""As many storms as a number of steps takes: python -m tests.simulation.storms [--steps 1000000] [--seed 0]."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from tests.simulation.storms.test_storms import weathered


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.storms", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of all storms together (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first storm (%(default)s)")
    options = parser.parse_args()
    seed, steps, seen = options.seed, 0, Counter[str]()
    while steps < options.steps:
        with tempfile.TemporaryDirectory() as folder:
            storm = weathered(seed, Path(folder))
        seed += 1
        steps += storm.loop.steps
        seen += storm.seen()
    print("\n".join(f"{count:9} {what}" for what, count in sorted(seen.items())))
    print(f"{steps} steps in {seed - options.seed} storms, {seen['killed']} kills, {seen['commits']} commits")


if __name__ == "__main__":
    main()
