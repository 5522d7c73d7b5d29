"""What an agent is started with: its environment and its argv, from templates, configuration and the job.

Pure but for `resolve_env`, which reads the files and variables that a job names at the moment of the launch.
No shell sees any of it; a value is put in once and never looked at again for placeholders.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

from opusd.core.errors import InvalidParams

PLACEHOLDERS = ("prompt", "title", "job_id", "attempt", "cwd", "workdir", "key", "session_id")
MAX_ARGUMENT = 128 * 1024  # MAX_ARG_STRLEN of Linux, with the NUL at its end
MAX_VALUE_FILE = MAX_ARGUMENT

_BASE = (
    "HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_*", "TZ", "TMPDIR", "XDG_*", "SSH_AUTH_SOCK",
)  # fmt: skip
_NOT_THE_JOBS = ("LD_*", "OPUS_*", "OPUSD_*")
_NOT_PASSED = ("OPUS_*", "OPUSD_*", "NOTIFY_SOCKET", "LISTEN_*", "WATCHDOG_*")  # the daemon's own, whatever a glob says
_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_ANY_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def passed_on(base: Mapping[str, str], agent_pass: Iterable[str]) -> dict[str, str]:
    """What an agent gets of the daemon's environment: the names of the contract, and those of its own globs."""
    passed = (*_BASE, *agent_pass)
    return {name: value for name, value in base.items() if _matches(name, passed) and not _matches(name, _NOT_PASSED)}


def build_env(
    passed: Mapping[str, str], agent_env: Mapping[str, str], job_env: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """An attempt's environment; the later of two sources wins: what is passed on, the agent's, the job's, opusd's own.

    InvalidParams for a name that a job may not set, or that no environment can hold.
    """
    check_job_env(job_env)
    built = {**passed, **agent_env, **job_env, **own}
    for name, value in built.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidParams(f"no environment can hold the variable {name!r}", path=f"$.env.{name}")
    return built


def check_job_env(names: Iterable[str]) -> None:
    """Refuse names that a job may not set: those of the loader and opusd's own."""
    for name in names:
        if _matches(name, _NOT_THE_JOBS):
            raise InvalidParams(
                f"a job may not set {name}: names with LD_, OPUS_ and OPUSD_ are kept", path=f"$.env.{name}"
            )
        if not name or "=" in name or "\0" in name:
            raise InvalidParams(f"no environment can hold the variable {name!r}", path=f"$.env.{name}")


def refuse_secrets(env: Mapping[str, object], secret: Iterable[str]) -> None:
    """Refuse a literal under a name that matches one of the globs `env_secret`: the registry would keep it.

    In either case of letters, for programs read `api_key` as well.
    """
    globs = tuple(glob.upper() for glob in secret)
    for name, value in env.items():
        if isinstance(value, str) and _matches(name.upper(), globs):
            message = (
                f'{name} looks like a secret and would be kept: send {{"from_env": "{name}"}} or {{"from_file": PATH}}'
            )
            raise InvalidParams(message, path=f"$.env.{name}")


def resolve_env(spec: Mapping[str, object], base: Mapping[str, str]) -> dict[str, str]:
    """A job's `env` with every `{from_env: NAME}` and `{from_file: PATH}` read now.

    InvalidParams names the variable whose source is not there. One newline at a file's end is not part of the value.
    """
    resolved: dict[str, str] = {}
    for name, value in spec.items():
        match value:
            case str():
                resolved[name] = value
            case {"from_env": str(source), **rest} if not rest:
                if source not in base:
                    raise InvalidParams(f"{name}: opusd's environment has no {source}", path=f"$.env.{name}.from_env")
                resolved[name] = base[source]
            case {"from_file": str(source), **rest} if not rest:
                resolved[name] = _value_of_file(name, Path(source))
            case _:
                message = f"{name}: a string, {{from_env: NAME}} or {{from_file: PATH}} is expected"
                raise InvalidParams(message, path=f"$.env.{name}")
    return resolved


def _value_of_file(name: str, path: Path) -> str:
    where = f"$.env.{name}.from_file"
    if not path.is_absolute():
        raise InvalidParams(f"{name}: {path} is not an absolute path", path=where)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise InvalidParams(f"{name}: {path} is not a regular file", path=where)
            data = os.read(file, MAX_VALUE_FILE + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise InvalidParams(f"{name}: {path}: {error.strerror}", path=where) from error
    if len(data) > MAX_VALUE_FILE:
        raise InvalidParams(f"{name}: {path} is larger than {MAX_VALUE_FILE} bytes", path=where)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidParams(f"{name}: {path} is not UTF-8", path=where) from error
    if "\0" in text:
        raise InvalidParams(f"{name}: {path} holds a NUL", path=where)
    return text.removesuffix("\n")


def check_argv(template: Sequence[str]) -> None:
    """Refuse a template that is empty or names a placeholder that does not exist."""
    if not template or not template[0]:
        raise InvalidParams("argv names no program", path="$.argv")
    for index, element in enumerate(template):
        for name in _ANY_PLACEHOLDER.findall(element):
            if name not in PLACEHOLDERS:
                known = " ".join(f"{{{word}}}" for word in PLACEHOLDERS)
                raise InvalidParams(f"{{{name}}} is no placeholder; there are {known}", path=f"$.argv[{index}]")


def build_argv(template: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The template with its placeholders filled in, once; a placeholder without a value is left alone.

    InvalidParams for a value that would be taken for an option, for NUL, and for an element that exec would refuse.
    """
    built: list[str] = []
    for index, element in enumerate(template):
        whole = _PLACEHOLDER.fullmatch(element)
        filled = _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), element)
        if whole and filled.startswith("-") and "--" not in template[:index]:
            message = (
                f"{element} begins with '-' and would be taken for an option: put '--' before it in argv, or use stdin"
            )
            raise InvalidParams(message, path=f"$.argv[{index}]")
        built.append(filled)
    check_elements(built)
    return built


def check_elements(argv: Sequence[str]) -> None:
    """Refuse an argv that exec can't take."""
    for index, element in enumerate(argv):
        if "\0" in element:
            raise InvalidParams("an argument can't hold a NUL", path=f"$.argv[{index}]")
        if len(element.encode("utf-8", "surrogatepass")) >= MAX_ARGUMENT:
            message = f'argument {index} is over 128 KiB, which exec refuses: use stdin = "prompt"'
            raise InvalidParams(message, path=f"$.argv[{index}]")


def _matches(name: str, globs: Iterable[str]) -> bool:
    """Capitals and small letters differ."""
    return _pattern(tuple(globs)).match(name) is not None


@lru_cache(maxsize=256)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all of them: a launch asks of each variable that the daemon has."""
    return re.compile("|".join(map(translate, globs)) or r"(?!)")
