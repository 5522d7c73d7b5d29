"""The bare queue (peers.bare), asked as opusd is."""

from __future__ import annotations

import sys

from peers.drivers.opusd import Opusd
from peers.drivers.serve import serve, versions


class Bare(Opusd):
    def versions(self) -> str:
        return f"bare queue: {versions('msgspec', 'uvloop')}"


if __name__ == "__main__":
    serve(Bare(sys.argv[1]))
