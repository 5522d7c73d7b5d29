"""config.example.toml is the reference of every key: these hold it to the code."""

import tomllib
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from opusd.config import Config, parse
from opusd.config.tables import File
from tests.config import example
from tests.config.example import EXAMPLE, READY, section

NAMED_BY_PEOPLE = ("resources", "groups", "routes", "agents", "retry", "notifications")


def uncommented() -> dict[str, Any]:
    """The file with every setting in force."""
    return tomllib.loads(example.uncommented())


def keys_of(struct: type[msgspec.Struct], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every key the code reads; * stands for a name that people choose, or a place in a list."""
    found = set()
    for field in msgspec.structs.fields(struct):
        here = (*path, field.encode_name)
        nested = [(field.type, here), *((inner, (*here, "*")) for inner in get_args(field.type))]
        tables = [(inner, at) for inner, at in nested if isinstance(inner, type) and issubclass(inner, msgspec.Struct)]
        found |= {key for inner, at in tables for key in keys_of(inner, at)} if tables else {here}
    return found


def keys_in(value: Any, expected: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if path in expected or not isinstance(value, dict | list):
        return {path}
    entries = value.items() if isinstance(value, dict) else (("*", entry) for entry in value)
    found = set()
    for key, entry in entries:
        named = len(path) == 1 and path[0] in NAMED_BY_PEOPLE
        found |= keys_in(entry, expected, (*path, "*" if named else key))
    return found


def test_the_example_as_it_stands_changes_nothing() -> None:
    assert parse(tomllib.loads(EXAMPLE.read_text())) == parse({})


def test_every_key_that_the_code_reads_is_in_the_example_and_no_other() -> None:
    expected = keys_of(File)
    assert keys_in(uncommented(), expected) == expected
    assert ("agents", "*", "max_retries") in expected
    assert ("routes", "*", "match", "label") in expected


def test_the_values_behind_the_comments_are_the_defaults() -> None:
    config, defaults = parse(uncommented()), parse({})
    by_people = {name: getattr(defaults, name) for name in (*NAMED_BY_PEOPLE, "hours", "days")}
    assert isinstance(config, Config)
    assert replace(config, **by_people) == defaults


def test_what_the_example_names_is_read() -> None:
    config = parse(uncommented())
    assert config.agents["mine"].needs == {"gpu": 1}
    assert config.agents["mine"].retry.max_retries == 2
    assert config.routes[0].name == "reviews"
    assert [sink.name for sink in config.notifications] == ["desktop", "phone", "here"]
    assert config.groups["nightly"].max_running == 1
    assert config.retry["patient"].base == 30_000_000


def test_the_agents_that_are_ready_are_read_each_by_its_own_adapter_and_alone() -> None:
    for name in READY:
        agent = parse(tomllib.loads(section(name))).agents[name]
        assert agent.output == name
        assert agent.stdin == "prompt"
        assert agent.timeout is not None
        assert agent.stall_after is not None


def test_who_is_resumed_is_allowed_what_it_was_allowed_before() -> None:
    for name in ("claude", "codex", "opencode"):
        agent = parse(tomllib.loads(section(name))).agents[name]
        kept = [word for word in agent.resume_argv if word in agent.argv]
        assert kept == list(agent.argv)
