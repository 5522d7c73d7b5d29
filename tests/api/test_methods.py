import ast
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import opusd
from opusd.api.methods import METHODS
from opusd.api.openrpc import document, markdown
from opusd.api.params import JobSubmit, JobUpdate
from opusd.api.types import EnvSource, KindWord, Params, Progress


def test_the_table_has_every_method_of_the_protocol_by_its_name():
    assert len(METHODS) == 50
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_parameters_are_named_after_the_method_and_refuse_unknown_ones(method):
    assert method.params.__name__ == "".join(word.capitalize() for word in re.split(r"[._]", method.name))
    assert issubclass(method.params, Params)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"no such parameter": 1}, method.params)


def structs(node):
    """The structs in what msgspec says of a type, at any depth."""
    if isinstance(node, msgspec.inspect.StructType):
        yield node
    for inner in vars_of(node):
        yield from structs(inner)


def vars_of(node):
    found = [getattr(node, name) for name in node.__struct_fields__] if isinstance(node, msgspec.Struct) else [node]
    flat = [inner for one in found for inner in (one if isinstance(one, tuple) else [one])]
    return [inner for inner in flat if isinstance(inner, msgspec.inspect.Type | msgspec.inspect.Field)]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_what_is_sent_refuses_unknown_names_at_any_depth(method):
    lax = {
        one.cls.__name__ for one in structs(msgspec.inspect.type_info(method.params)) if not one.forbid_unknown_fields
    }
    assert lax == set()


def test_what_comes_back_may_grow_fields():
    assert msgspec.convert({"fraction": 0.5, "later": 1}, Progress).fraction == 0.5


def noted():
    """The kinds of events of the daemon's own, as the sources have them."""
    for path in Path(opusd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "note":
                yield from (one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant))


def test_every_kind_of_event_can_be_asked_for():
    words = {kind for kind in noted() if isinstance(kind, str)}
    assert {"schedule.replaced", "machine.short", "queue.paused"} <= words
    assert words <= set(get_args(KindWord))


def test_not_given_is_told_from_null():
    update = msgspec.convert({"id": 1, "timeout": None}, JobUpdate)
    assert update.timeout is None
    assert update.title is msgspec.UNSET


def test_a_jobspec_takes_what_the_wire_allows():
    spec = {
        "priority": 7,
        "depends_on": [1, "key", {"job": 2}],
        "env": {"A": "b", "C": {"from_env": "D"}},
        "delay": "10m",
    }
    got = msgspec.convert(spec, JobSubmit)
    assert got.env["C"] == EnvSource(from_env="D")
    assert got.priority == 7


def references(value):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from [item] if name == "$ref" else references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_the_openrpc_document_has_what_openrpc_asks_for_and_no_loose_end():
    made = msgspec.json.decode(msgspec.json.encode(document(list(METHODS.values()), "1.2.3")))
    assert re.fullmatch(r"1\.\d+\.\d+", made["openrpc"])
    assert (made["info"]["title"], made["info"]["version"]) == ("opusd", "1.2.3")
    assert [each["name"] for each in made["methods"]] == list(METHODS)
    for method in made["methods"]:
        assert method["paramStructure"] == "by-name"
        assert {"name", "schema"} <= method["result"].keys()
        assert all({"name", "schema", "required"} == param.keys() for param in method["params"])
        assert all({"code", "message"} == error.keys() for error in method["errors"])
    for reference in references(made):
        assert reference.rpartition("/")[2] in made["components"]["schemas"]


def test_the_protocol_page_names_every_method_parameter_and_code():
    page = markdown(list(METHODS.values()))
    for method in METHODS.values():
        assert f"### {method.name}\n" in page
        for field in msgspec.structs.fields(method.params):
            assert f"| {field.encode_name} |" in page
    for code in (-32700, -32602, -32800, *range(-32009, -32000)):
        assert f"| {code} |" in page
