"""The table of methods as documents: OpenRPC for `rpc.discover`, Markdown for docs/ (`python -m opusd.api.openrpc`)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from opusd import __version__
from opusd.api.method import Method
from opusd.api.methods import METHODS
from opusd.core.errors import OpusError


def document(methods: Sequence[Method[Any, Any]], version: str = __version__) -> dict[str, Any]:
    """An OpenRPC 1.3 document of these methods, with JSON schemas of all that they take and give."""
    schemas, components = _schemas(methods)
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "opusd",
            "version": version,
            "description": "JSON-RPC 2.0, one JSON text a line, over a Unix stream socket.",
        },
        "methods": [_method(method, schemas, components) for method in methods],
        "components": {"schemas": components},
    }


def _schemas(methods: Iterable[Method[Any, Any]]) -> tuple[dict[Any, dict[str, Any]], dict[str, dict[str, Any]]]:
    kinds: list[Any] = []
    for method in methods:
        for kind in (method.params, method.result, method.group_result):
            if kind is not None and kind not in kinds:
                kinds.append(kind)
    found, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return dict(zip(kinds, found, strict=True)), dict(sorted(components.items()))


def _method(
    method: Method[Any, Any], schemas: dict[Any, dict[str, Any]], components: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    params = components[method.params.__name__]
    required = params.get("required", [])
    result = schemas[method.result]
    if method.group_result is not None:
        result = {"anyOf": [result, schemas[method.group_result]]}
    return {
        "name": method.name,
        "summary": method.doc,
        "paramStructure": "by-name",
        "params": [
            {"name": name, "required": name in required, "schema": schema}
            for name, schema in params.get("properties", {}).items()
        ],
        "result": {
            "name": method.result.__name__ if method.result.__module__ != "builtins" else "document",
            "schema": result,
        },
        "errors": [{"code": error.code, "message": error.__name__} for error in method.errors],
        "x-kind": method.kind,
        "x-waits": method.waits,
        "x-since": method.since,
    }


def markdown(methods: Sequence[Method[Any, Any]]) -> str:
    """The protocol page: each method with parameters, result and errors, then the records and the codes."""
    schemas, components = _schemas(methods)
    taken = {method.params.__name__ for method in methods} - {"JobSpec"}
    lines = [
        "# The protocol",
        "",
        "Made by `python -m opusd.api.openrpc` from the table of methods; edit `opusd/api/`, not this page.",
        "",
        "JSON-RPC 2.0 with named parameters, one JSON text a line, over a Unix stream socket. Times are RFC 3339;",
        "durations are seconds, or text such as `90s`, `10m`, `24h`, `7d`. A job is named by its id or its key.",
        "A method with a `since` above the daemon's version is answered with -32601.",
        "",
        "## Methods",
        "",
    ]
    for method in methods:
        lines += _method_section(method, schemas, components[method.params.__name__])
    lines += ["## Records", ""]
    for name, schema in components.items():
        if name not in taken and schema.get("properties"):
            lines += [f"### {name}", "", *_described(schema), *_table(schema), ""]
    return "\n".join([*lines, *_errors()]) + "\n"


def _method_section(method: Method[Any, Any], schemas: dict[Any, dict[str, Any]], params: dict[str, Any]) -> list[str]:
    result = _shape(schemas[method.result])
    if method.group_result is not None:
        result += f", or for a group {_shape(schemas[method.group_result])}"
    traits = [method.kind, *(["may be cancelled while it waits"] if method.waits else []), f"since {method.since}"]
    lines = [f"### {method.name}", "", method.doc, "", f"*{', '.join(traits)}*", ""]
    lines += [*_table(params), ""] if params.get("properties") else []
    lines += [f"Result: {result}", ""]
    if method.errors:
        lines += ["Errors: " + ", ".join(f"{error.__name__} ({error.code})" for error in method.errors), ""]
    return lines


def _described(schema: dict[str, Any]) -> list[str]:
    return [schema["description"], ""] if "description" in schema else []


def _table(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", [])
    lines = ["| name | type | default |", "| --- | --- | --- |"]
    for name, field in schema["properties"].items():
        if "default" in field:
            default = f"`{msgspec.json.encode(field['default']).decode()}`"
        else:
            default = "required" if name in required else "absent"
        lines.append(f"| {name} | {_shape(field)} | {default} |")
    return lines


def _shape(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_shape(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " ".join(f"`{each}`" if each is not None else "null" for each in schema["enum"])
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_shape(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_shape(schema['additionalProperties'])}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else str(kind)


_BOUNDS = {"minimum": "from", "maximum": "to", "minLength": "length from", "maxLength": "length to"}


def _errors() -> list[str]:
    lines = ["## Errors", "", "| code | name | `data.code` | worth trying again |", "| --- | --- | --- | --- |"]
    known = [error for error in OpusError.__subclasses__() if error.__module__ == OpusError.__module__]
    return lines + [
        f"| {error.code} | {error.__name__} | `{error.name}` | {'yes' if error.retryable else 'no'} |"
        for error in sorted(known, key=lambda each: each.code)
    ]


if __name__ == "__main__":
    sys.stdout.write(markdown(list(METHODS.values())))
