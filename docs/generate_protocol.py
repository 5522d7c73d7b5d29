"""docs/protocol.md from the table of methods in opusd/api, with how lines go over the socket before it."""

from __future__ import annotations

import sys

from fresh import HERE, page

from opusd.api.methods import METHODS
from opusd.api.openrpc import markdown

MARK = "## Methods\n"

if __name__ == "__main__":
    head, mark, rest = markdown(list(METHODS.values())).partition(MARK)
    wire = (HERE / "wire.md").read_text("utf-8")
    sys.exit(page("protocol.md", head + wire.rstrip("\n") + "\n\n" + mark + rest))
