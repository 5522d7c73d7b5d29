"""Results with Jobs in them as one line holds them, for those whose line would be too long.

Must not decide when: whoever writes the reply knows its size. Claims are never cut: a worker does what they say.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import fields, replace

from opusd.api import results
from opusd.api import types as wire

Shown = wire.Job | results.Submitted | results.Status | results.Jobs | results.JobPage | results.Waited
_MOST: Final = 32 << 10
"""Bytes of JSON that one field keeps: of all fields together a line holds twice as much."""
_LONGEST_ESCAPE: Final = 6
_BRIEF: Final = tuple(field.name for field in fields(wire.Job) if field.required or field.name == "key")
_BRIEF_TEXT: Final = 100


def shorter(result: Shown) -> Shown:
    """The same with each of its Jobs `shortened`."""
    match result:
        case wire.Job():
            return shortened(result)
        case results.Submitted():
            return replace(result, job=shortened(result.job), shortened=True)
        case results.Status():
            return replace(result, running=[shortened(job) for job in result.running])
        case _:
            return replace(result, jobs=[shortened(job) for job in result.jobs])


def shortened(shown: wire.Job) -> wire.Job:
    """A Job with nothing in it that is long: texts end in `…`, lists and objects have the first of what they had."""
    cut = {field.name: _cut(getattr(shown, field.name)) for field in fields(wire.Job)}
    return replace(shown, **{**cut, "shortened": True})


def brief(shown: wire.Job) -> dict[str, Any]:
    """What every Job has, its key, and its texts cut short: a reply holds a thousand of any."""
    found = {name: getattr(shown, name) for name in _BRIEF}
    for name in ("reason", "title", "type", "cwd"):
        if len(found[name]) > _BRIEF_TEXT:
            found[name] = found[name][: _BRIEF_TEXT - 1] + "…"
    return found


def _cut(value: Any, room: int = _MOST) -> Any:
    """A value of at most about so many bytes of JSON."""
    if not isinstance(value, str | list | dict | msgspec.Struct) or _size(value) <= room:
        return value
    if isinstance(value, str):
        return value[: room // _LONGEST_ESCAPE] + "…"
    if isinstance(value, list):
        return [entry for _, entry in _first([(None, entry) for entry in value], room)]
    if isinstance(value, dict):
        return dict(_first(list(value.items()), room))
    names = [field.name for field in fields(value)]
    return replace(value, **{name: _cut(getattr(value, name), room // len(names)) for name in names})


def _first(entries: list[tuple[Any, Any]], room: int) -> list[tuple[Any, Any]]:
    """The first entries of an object or a list; where a text is the first to be too long, its beginning too."""
    kept = []
    for name, entry in entries:
        size = _size([name, entry])
        if size <= room:
            kept.append((name, entry))
            room -= size
            continue
        room -= _size(name)
        if isinstance(entry, str) and room > 0:
            kept.append((name, _cut(entry, room)))
        break
    return kept


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))
