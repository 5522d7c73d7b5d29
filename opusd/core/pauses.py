"""Who starts nothing because a person said so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Pauses:
    """Who is paused: everything, agents, groups. `names` is what is kept across restarts."""

    EVERYTHING = "*"

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = set(names)

    def everything(self) -> bool:
        return self.EVERYTHING in self.names

    def agent(self, name: str) -> bool:
        return f"agent:{name}" in self.names

    def group(self, name: str | None) -> bool:
        return name is not None and f"group:{name}" in self.names
