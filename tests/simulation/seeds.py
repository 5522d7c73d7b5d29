"""Which seeds are lived: those of $OPUSD_SEEDS, one (`17`) or some in a row (`0-99`), else a test's own."""

import os

CHOSEN = os.environ.get("OPUSD_SEEDS", "")


def seeds(usual: str) -> list[int]:
    first, _, last = (CHOSEN or usual).partition("-")
    return list(range(int(first), int(last or first) + 1))
