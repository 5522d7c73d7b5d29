"""What the generators of pages share: write a page, or with --check say whether the one that is there is fresh."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def page(name: str, text: str) -> int:
    """The exit status of a generator of docs/NAME."""
    path = HERE / name
    if "--check" not in sys.argv[1:]:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text("utf-8") == text:
        return 0
    print(f"docs/{name} is not what the code says: make generate", file=sys.stderr)
    return 1
