"""opusd, with a look at its cyclic collector: `python watched.py PAUSES [argument of opusd] ...`.

At the end PAUSES holds, by generation, how many collections there were and the seconds that the longest took; the
daemon's one loop stands still for that long. SIGUSR2 asks for a collection of everything, which is what comes to a
daemon by itself once in a long while.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any


class Pauses:
    def __init__(self) -> None:
        self.counts = [0, 0, 0]
        self.longest = [0.0, 0.0, 0.0]
        self._begun = 0.0

    def __call__(self, phase: str, about: dict[str, Any]) -> None:
        if phase == "start":
            self._begun = time.thread_time()
            return
        took = time.thread_time() - self._begun
        generation = about["generation"]
        self.counts[generation] += 1
        self.longest[generation] = max(self.longest[generation], took)


def main() -> int:
    from opusd.__main__ import main as opusd

    pauses = Pauses()
    gc.callbacks.append(pauses)
    signal.signal(signal.SIGUSR2, lambda *_: gc.collect())
    try:
        return opusd(sys.argv[2:])
    finally:
        gc.callbacks.clear()
        Path(sys.argv[1]).write_text(json.dumps({"counts": pauses.counts, "longest": pauses.longest}))


if __name__ == "__main__":
    sys.exit(main())
