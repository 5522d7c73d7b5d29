"""Builds the verbs over one engine and offers them as the one object that answers the wire."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from opusd.api.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable


def offer(rooms: Iterable[object]) -> Any:
    """A namespace with the coroutine of each method of the table that one of the rooms has; no method has two.

    What stands beside it there goes with it: `VERB_unanswered`, `VERB_shorter`.
    """
    offered: dict[str, Any] = {}
    for room in rooms:
        for method in METHODS.values():
            verb = getattr(room, method.verb, None)
            if verb is not None:
                assert method.verb not in offered, method.name
                offered[method.verb] = verb
                for name in (f"{method.verb}_unanswered", f"{method.verb}_shorter"):
                    if (beside := getattr(room, name, None)) is not None:
                        offered[name] = beside
    return SimpleNamespace(**offered)
