"""Who may import which library. The layers of opusd's own modules are contracts of import-linter (pyproject.toml)."""

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "opusd").rglob("*.py"), *(ROOT / "clients").rglob("*.py")]

PURE = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "datetime", "enum", "fnmatch", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "re", "string", "types", "typing", "msgspec", "opusd",
}  # fmt: skip
"""The standard library's data modules: none of them does I/O, reads a clock, the environment or chance."""

ONLY = {
    "aiosqlite": ["opusd.store.sqlite*"],
    "sqlite3": ["opusd.store.sqlite*"],
    "subprocess": [
        "opusd.agents.launcher*",
        "opusd.agents.shim*",
        "opusd.agents.worktree",
        "opusd.observers.program",
        "opusd.testing*",
        "opusctl*",
    ],
    "cronsim": ["opusd.triggers.calendar"],
    "multiprocessing": [],
    "uvloop": ["opusd.__main__", "opusd.testing*"],
}
"""Library -> the modules that may import it, by pattern."""


def module_of(path: Path) -> str:
    inside = path.relative_to(ROOT).with_suffix("")
    parts = inside.parts[1:] if inside.parts[0] == "clients" else inside.parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[str]:
    """The libraries that a file imports, anywhere in it, by their first name."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_the_core_imports_only_data_modules_and_msgspec() -> None:
    core = [path for path in SOURCES if module_of(path).startswith("opusd.core")]
    assert core
    wrong = {module_of(path): sorted(set(imports(path)) - PURE) for path in core}
    assert {module: names for module, names in wrong.items() if names} == {}


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_imported_by_its_room_alone(library: str) -> None:
    importers = [module_of(path) for path in SOURCES if library in imports(path)]
    allowed = ONLY[library]
    assert [module for module in importers if not any(fnmatch.fnmatch(module, pattern) for pattern in allowed)] == []


def test_the_shim_and_the_launcher_import_the_standard_library_alone() -> None:
    """They run as `python -I -S`: nothing else is there."""
    small = [
        path
        for path in SOURCES
        if module_of(path)
        in {"opusd.agents.shim", "opusd.agents.shim_spawn", "opusd.agents.kernel", "opusd.agents.launcher_main"}
    ]
    others = {"msgspec", "structlog", "uvloop", "aiosqlite", "asyncio"}
    assert {module_of(path): others & set(imports(path)) for path in small if others & set(imports(path))} == {}
