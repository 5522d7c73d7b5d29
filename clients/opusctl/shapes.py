"""Whether replies are what their methods promise: asked when a verb has stumbled over one, never on the fast path.

A verb takes what it needs of a reply and minds nothing else, so that daemons of other versions can be talked to.
"""

from __future__ import annotations

import msgspec

from opusctl.failure import NotUnderstood
from opusd.api.methods import METHODS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def misshapen(answered: Iterable[tuple[str, Any]]) -> NotUnderstood | None:
    """The first of the replies that is not of its method's shape, as a failure; None when all are."""
    for method, result in answered:
        wrong = _wrong(result, METHODS[method].result)
        kind = METHODS[method].group_result
        if wrong and (kind is None or _wrong(result, kind)):
            return NotUnderstood(method, wrong)
    return None


def _wrong(result: Any, kind: Any) -> str:
    try:
        msgspec.convert(result, kind)
    except msgspec.ValidationError as error:
        return str(error)
    return ""
