"""What a caller sent, read: names resolved to values, text checked, durations in microseconds.

Every refusal is InvalidParams with the path of the bad field. Decides nothing about the queue.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from opusd.agents.environment import check_job_env, refuse_secrets
from opusd.api.types import DependsOn, EnvSource, JobSpec, RetryPolicy
from opusd.core.admission import Ref, Submission
from opusd.core.commands import Edit
from opusd.core.errors import InvalidParams
from opusd.core.job import IfUnmet, On, Source, Spec, Tier, default_title
from opusd.core.priority import parse_priority
from opusd.core.retry import PRESETS, FailureClass, Policy, Strategy
from opusd.core.times import from_rfc3339, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opusd.api.params import JobUpdate

T = TypeVar("T")
V = TypeVar("V")

MAX_PROMPT: Final = 1 << 20
MAX_OBJECTS: Final = 256 << 10
MAX_ARGUMENT: Final = (128 << 10) - 1
_MAX_NAME: Final = 200
# Beside spaces and controls (those of C1 too): line separators, and what turns the direction of text round.
_KEY: Final = re.compile(r"[^\s,\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]{1,200}")


class Intake:
    """Reads JobSpecs and updates. `policies` are the retry policies by name, `env_secret` globs of names."""

    def __init__(self, *, policies: Mapping[str, Policy], env_secret: tuple[str, ...], home: str) -> None:
        self._home = home
        self.configure(policies=policies, env_secret=env_secret)

    def configure(self, *, policies: Mapping[str, Policy], env_secret: tuple[str, ...]) -> None:
        """The configuration was read again."""
        self._policies = policies
        self._env_secret = env_secret

    def submission(self, sent: JobSpec, now: int, path: str = "$") -> Submission:
        """The Submission that a JobSpec means at `now`."""
        _check_text(sent, path)
        tier, boost = _priority(sent.priority, path)
        if sent.run_at is not None and sent.delay is not None:
            raise _invalid(path, "delay", "give run_at or delay, not both")
        run_at = None if sent.run_at is None else read(path, "run_at", from_rfc3339, sent.run_at)
        if sent.delay is not None:
            run_at = now + read(path, "delay", parse_duration, sent.delay)
        return Submission(
            spec=self._spec(sent, path),
            tier=tier,
            boost=_boost(boost + sent.boost, path) if boost or sent.boost else 0,
            explicit_priority=sent.priority is not UNSET or sent.boost != 0,
            agent=sent.agent,
            type=sent.type,
            source=None if sent.source is None else Source(sent.source),
            group=sent.group,
            interactive=sent.interactive,
            needs=dict(sent.needs),
            timeout=None if sent.timeout is None else _positive(path, "timeout", sent.timeout),
            expires_in=None if sent.expires_in is None else _positive(path, "expires_in", sent.expires_in),
            retry=None if sent.retry is None else self._policy(sent.retry, f"{path}.retry"),
            max_retries=sent.max_retries,
            run_at=run_at if run_at is not None and run_at > now else None,
            held=sent.held,
            key=sent.key,
            parent=sent.parent,
            depends=depends(sent.depends_on, path) if sent.depends_on else (),
            worktree=sent.worktree,
            verify=sent.verify,
        )

    def _spec(self, sent: JobSpec, path: str) -> Spec:
        check_objects(sent.payload, sent.metadata, path, "payload")
        cwd = sent.cwd if sent.cwd is not None else self._home
        if not cwd.startswith("/"):
            raise _invalid(path, "cwd", f"{cwd!r} is not an absolute path")
        return Spec(
            title=sent.title or default_title(sent.prompt, sent.command, sent.type),
            prompt=sent.prompt,
            command=sent.command,
            payload=sent.payload,
            metadata=sent.metadata,
            labels=sent.labels,
            cwd=cwd,
            env=self._env(sent.env, f"{path}.env") if sent.env else {},
            digest=_digest(sent) if sent.key is not None else b"",
        )

    def _env(self, env: Mapping[str, str | EnvSource], path: str) -> dict[str, Any]:
        check_job_env(env)
        refuse_secrets(env, self._env_secret)
        for name, value in env.items():
            if isinstance(value, EnvSource) and (value.from_env is UNSET) is (value.from_file is UNSET):
                raise _invalid(path, name, "exactly one of from_env and from_file")
        return {name: value if isinstance(value, str) else msgspec.to_builtins(value) for name, value in env.items()}

    def _policy(self, sent: str | RetryPolicy, path: str) -> Policy:
        if isinstance(sent, str):
            if sent not in self._policies:
                message = f"retry policy {sent!r} is not known; there are: {', '.join(self._policies)}"
                raise InvalidParams(message, path=path)
            return self._policies[sent]
        base = PRESETS["default"]
        given = {
            "strategy": Strategy(sent.strategy),
            "base": None if sent.base is None else read(path, "base", parse_duration, sent.base),
            "cap": None if sent.cap is None else read(path, "cap", parse_duration, sent.cap),
            "jitter": sent.jitter,
            "max_retries": 0 if sent.strategy == "none" else sent.max_retries,
            "on": None if sent.on is None else tuple(FailureClass(word) for word in sent.on),
        }
        return replace(base, **{name: value for name, value in given.items() if value is not None})

    def edit(self, sent: JobUpdate) -> Edit:
        """What job.update asks for; priority words become tier and boost."""
        _check_text(sent, "$")
        if sent.title == "":
            raise _invalid(
                "$", "title", "a title is not empty: leave it out to keep it, or give null for the first line"
            )
        tier: Any = UNSET
        boost: Any = sent.boost
        if sent.priority is not UNSET:
            tier, level = _priority(sent.priority, "$")
            if not isinstance(sent.priority, str):  # a tier's name says nothing of the boost
                boost = _boost(level + (0 if sent.boost is UNSET else sent.boost), "$")
        return Edit(
            title=sent.title,
            labels=sent.labels,
            metadata=sent.metadata,
            timeout=_if_set(sent.timeout, partial(_duration, "timeout")),
            tier=tier,
            boost=boost,
            needs=_if_set(sent.needs, dict),
            prompt=sent.prompt,
            command=sent.command,
            agent=sent.agent,
            expires_in=_if_set(sent.expires_in, partial(_duration, "expires_in")),
            max_retries=sent.max_retries,
            run_at=_if_set(
                sent.run_at, lambda value: None if value is None else read("$", "run_at", from_rfc3339, value)
            ),
            depends=_if_set(sent.depends_on, lambda value: depends(value, "$")),
        )


def check_objects(payload: object, metadata: object, path: str, field: str) -> None:
    """InvalidParams, for this field, when both together are too long."""
    if not payload and not metadata:
        return
    size = len(msgspec.json.encode(payload)) + len(msgspec.json.encode(metadata))
    if size > MAX_OBJECTS:
        raise _invalid(path, field, f"payload and metadata are {size} bytes together; {MAX_OBJECTS} are allowed")


def depends(sent: list[int | str | DependsOn], path: str) -> tuple[tuple[Ref, On, IfUnmet], ...]:
    """On success by default; if_unmet is block, for failure cancel."""
    edges: list[tuple[Ref, On, IfUnmet]] = []
    for index, entry in enumerate(sent):
        edge = entry if isinstance(entry, DependsOn) else DependsOn(job=entry)
        if isinstance(edge.job, int) and edge.job < 1:
            raise _invalid(path, f"depends_on[{index}]", f"{edge.job} is not a job's id: ids begin at 1")
        on = On(edge.on)
        default = IfUnmet.CANCEL if on is On.FAILURE else IfUnmet.BLOCK
        edges.append((edge.job, on, default if edge.if_unmet is None else IfUnmet(edge.if_unmet)))
    return tuple(edges)


def read(path: str, field: str, parse: Callable[[V], T], value: V) -> T:
    """`parse(value)`, with its ValueError as InvalidParams."""
    try:
        return parse(value)
    except ValueError as error:
        raise _invalid(path, field, str(error)) from None


def _if_set(value: V | UnsetType, parse: Callable[[V], T]) -> T | UnsetType:
    return UNSET if isinstance(value, UnsetType) else parse(value)


def _priority(sent: str | int | UnsetType, path: str) -> tuple[Tier, int]:
    if isinstance(sent, UnsetType) or sent == "normal":
        return Tier.NORMAL, 0
    return read(path, "priority", parse_priority, sent)


def _positive(path: str, field: str, value: float | str) -> int:
    duration = read(path, field, parse_duration, value)
    if duration <= 0:
        raise _invalid(path, field, "it must be more than 0; leave it out (or null) for none")
    return duration


def _duration(field: str, value: float | str | None) -> int | None:
    return None if value is None else _positive("$", field, value)


def _boost(boost: int, path: str) -> int:
    if not -49 <= boost <= 49:
        raise _invalid(path, "boost", f"priority and boost add up to {boost}; -49 to 49 are allowed")
    return boost


def _digest(sent: JobSpec) -> bytes:
    """Of the content as sent. Registries are full of digests in which `normal` is as if not sent: it stays so."""
    if sent.priority == "normal":
        sent = replace(sent, priority=UNSET)
    return hashlib.sha256(msgspec.json.encode(sent, order="sorted")).digest()


def _check_text(sent: JobSpec | JobUpdate, path: str) -> None:
    """Lengths, and the characters of a key; the framing has refused NUL and lone surrogates everywhere."""
    if isinstance(sent.prompt, str) and len(sent.prompt.encode()) > MAX_PROMPT:
        raise _invalid(path, "prompt", f"it is {len(sent.prompt.encode())} bytes; {MAX_PROMPT} are allowed")
    if isinstance(sent.command, list):
        _check_argv(sent.command, path, "command")
    if isinstance(sent, JobSpec) and sent.verify:
        _check_argv(sent.verify, path, "verify")
    if isinstance(sent, JobSpec) and sent.key is not None and (not _KEY.fullmatch(sent.key) or sent.key.isdigit()):
        raise _invalid(
            path, "key", "a key has 1 to 200 characters, is not all digits, and has no space, comma or control"
        )
    for label in sent.labels if isinstance(sent.labels, list) else ():
        if not 1 <= len(label) <= _MAX_NAME:
            raise _invalid(path, "labels", "a label has 1 to 200 characters")
    for need in sent.needs if isinstance(sent.needs, dict) else ():
        if not 1 <= len(need) <= _MAX_NAME:
            raise _invalid(path, "needs", "a resource's name has 1 to 200 characters")


def _check_argv(argv: list[str], path: str, field: str) -> None:
    if not argv or not argv[0]:
        raise _invalid(path, field, f"{field} names a program first")
    for index, argument in enumerate(argv):
        if len(argument.encode()) > MAX_ARGUMENT:
            raise _invalid(path, f"{field}[{index}]", f"an argument has at most {MAX_ARGUMENT} bytes: use a file")


def _invalid(path: str, field: str, why: str) -> InvalidParams:
    where = f"{path}.{field}"
    return InvalidParams(f"{where}: {why}", path=where)
