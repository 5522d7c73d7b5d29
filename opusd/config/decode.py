"""TOML values into Structs; a refusal names the key by its path, what is wrong, and the nearest key that exists.

Knows nothing of what the keys mean. Three types are read from text: Duration (`"10m"`), Size (`"8MiB"`), and
`Duration | None`, where `"off"` is None, for TOML has no null.
"""

from __future__ import annotations

import difflib
import enum
import os
import re
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NewType, TypeVar, Union, get_args, get_origin

import msgspec

from opusd.core.times import parse_duration

Duration = NewType("Duration", int)
"""Microseconds; written as seconds or as text."""
Size = NewType("Size", int)
"""Bytes; written as a number or as text such as "56MiB"."""
Name = NewType("Name", str)
"""What the keys of a table may be when people choose them."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
_QUOTED = re.compile(r"`([^`]+)`")
_WORDS = {
    "object": "a table",
    "array": "a list",
    "str": "a string",
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
}
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration can't be used; the message says which key and why. The daemon exits with `exit_code`."""

    exit_code: ClassVar[int] = os.EX_CONFIG


def decode(table: Mapping[str, Any], struct: type[S], path: str = "") -> S:
    """`table`, which stands at `path`, as a `struct`; ConfigError for an unknown key or a wrong value in it."""
    everywhere: dict[str, str] = {}
    _collect(struct, path, everywhere)
    return _struct(table, struct, path, everywhere)


def join(path: str, key: str) -> str:
    """`agents` and `claude` make `agents.claude`; a key that is not bare is quoted, as in TOML."""
    shown = key if _BARE.fullmatch(key) else '"' + key.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    return f"{path}.{shown}" if path else shown


def parse_size(value: object) -> int:
    """Bytes of 65536, "64KiB", "8MiB", "1GB"; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    matched = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise ValueError(f"a size is a number of bytes or text such as 64KiB or 8MiB, not {value!r}")
    number, unit, binary = matched.groups()
    scale: int = (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " ")
    return int(number) * scale


def _struct(table: object, struct: type[S], path: str, everywhere: Mapping[str, str]) -> S:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path} is a table, not {_kind(table)}")
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key in table:
        if key not in fields:
            raise ConfigError(_unknown(key, path, list(fields), everywhere))
    for name, field in fields.items():
        if field.required and name not in table:
            raise ConfigError(f"{join(path, name)} is missing" + (f": [{path}] needs it" if path else ""))
    values = {
        fields[key].name: _value(value, fields[key].type, join(path, key), everywhere) for key, value in table.items()
    }
    return struct(**values)


def _value(value: object, kind: Any, path: str, everywhere: Mapping[str, str]) -> Any:
    options = get_args(kind) if get_origin(kind) in {types.UnionType, Union} else ()
    if types.NoneType in options:
        if value == "off" and str not in options:
            return None
        inner = [option for option in options if option is not types.NoneType]
        kind = inner[0] if len(inner) == 1 else kind
    if Size in options:
        if value in _choices(kind):
            return value
        kind = Size
    try:
        if kind is Duration:
            return parse_duration(value)  # type: ignore[arg-type]  # it refuses what is neither
        if kind is Size:
            return parse_size(value)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return _struct(value, kind, path, everywhere)
        return _container(value, kind, path, everywhere)
    except ValueError as error:  # msgspec's ValidationError is one
        raise ConfigError(f"{path}: {_plain(error, kind)}") from None


def _container(value: object, kind: Any, path: str, everywhere: Mapping[str, str]) -> Any:
    """Tables of tables and lists of tables keep their path; all else is msgspec's."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is a table, not {_kind(value)}")
        for key in value:
            if inner[0] is Name and not _NAME.fullmatch(key):
                raise ConfigError(
                    f"{join(path, key)}: a name is 1 to 64 of A-Z a-z 0-9 _ . - and starts with neither . nor -"
                )
        return {key: _value(entry, inner[1], join(path, key), everywhere) for key, entry in value.items()}
    if origin is tuple and isinstance(inner[0], type) and issubclass(inner[0], msgspec.Struct):
        if not isinstance(value, list):
            raise ConfigError(f"{path} is a list of tables ([[{path}]]), not {_kind(value)}")
        return tuple(_struct(entry, inner[0], f"{path}[{i}]", everywhere) for i, entry in enumerate(value, 1))
    return msgspec.convert(value, kind, strict=True)


def _unknown(key: str, path: str, here: list[str], everywhere: Mapping[str, str]) -> str:
    where = f"[{path}]" if path else "the top level"
    message = f"{join(path, key)}: {where} has no key {key!r}"
    if near := difflib.get_close_matches(key, here, n=1):
        return f"{message}; the nearest is {near[0]!r}"
    if elsewhere := difflib.get_close_matches(key, list(everywhere), n=1, cutoff=0.75):
        return f"{message}; there is {everywhere[elsewhere[0]]}"
    return f"{message}; it has {', '.join(here)}"


def _collect(struct: type[msgspec.Struct], path: str, found: dict[str, str]) -> None:
    """Every key that exists, and where: for one that was written into the wrong table."""
    for field in msgspec.structs.fields(struct):
        here = join(path, field.encode_name)
        found.setdefault(field.encode_name, here)
        for inner in (field.type, *get_args(field.type)):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                _collect(inner, here if inner is field.type else f"{here}.NAME", found)


def _kind(value: object) -> str:
    names = {list: "a list", dict: "a table", float: "a number"}
    return names.get(type(value)) or _WORDS.get(type(value).__name__, f"a {type(value).__name__}")


def _plain(error: ValueError, kind: Any) -> str:
    """The words of msgspec in those of TOML: "Expected `int`, got `str`"; and what may be chosen."""
    text = str(error).split(" - at ")[0]
    if text.startswith("Invalid enum value"):
        return f"{text.removeprefix('Invalid enum value ')} is not one of {', '.join(_choices(kind))}"
    text = _QUOTED.sub(lambda quoted: " or ".join(_WORDS.get(word, word) for word in quoted[1].split(" | ")), text)
    return text.replace("Expected", "expected")


def _choices(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [choice for inner in get_args(kind) for choice in _choices(inner)]
