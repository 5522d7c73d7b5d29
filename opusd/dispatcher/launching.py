"""From a job and its agent's program to a Launch: argv, environment, standard input (contract, section 8).

No shell sees job text. Prompts and values of variables are never logged from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from opusd.agents.environment import build_argv, build_env, resolve_env
from opusd.agents.spec import MIB, Launch
from opusd.core.errors import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opusd.core.job import Job, Spec


class Program(msgspec.Struct, frozen=True):
    """How an agent's program is called. No `argv`: the job's own command is."""

    argv: tuple[str, ...] = ()
    stdin: str = "prompt"
    env: dict[str, str | dict[str, str]] = {}
    env_pass: tuple[str, ...] = ()


class Launching:
    """`base` is the daemon's environment."""

    def __init__(
        self,
        *,
        programs: Mapping[str, Program],
        base: Mapping[str, str],
        socket: str,
        head: int = 8 * MIB,
        tail: int = 56 * MIB,
        grace: float = 10.0,
        umask: int | None = None,
    ) -> None:
        self._base = base
        self._socket = socket
        self._umask = umask
        self.configure(programs=programs, head=head, tail=tail, grace=grace)

    def configure(self, *, programs: Mapping[str, Program], head: int, tail: int, grace: float) -> None:
        """The configuration, read or read again; `head` and `tail` in bytes, `grace` in seconds."""
        self.programs = programs
        self._head = head
        self._tail = tail
        self._grace = grace

    def prepare(self, job: Job, spec: Spec, token: str) -> Launch:
        """The Launch of the attempt under way; OpusError when what the job or agent names can't be had."""
        run = job.run
        assert run is not None
        program = self.programs.get(job.terms.agent)
        if program is None:
            message = f"agent {job.terms.agent} is not configured"
            raise InvalidParams(message)
        values = {
            "prompt": spec.prompt or "",
            "title": spec.title,
            "job_id": str(job.id),
            "attempt": str(run.attempt),
            "cwd": spec.cwd,
            "workdir": spec.cwd,
            "key": job.key or "",
            "session_id": "",
        }
        argv = build_argv(list(program.argv), values) if program.argv else list(spec.command or ())
        if not argv:
            message = f"agent {job.terms.agent} has no argv: set it in config.toml"
            raise InvalidParams(message)
        own = {
            "OPUSD_SOCKET": self._socket,
            "OPUS_JOB_ID": str(job.id),
            "OPUS_ATTEMPT": str(run.attempt),
            "OPUS_SLOT": str(run.slot),
            "OPUS_TOKEN": token,
        }
        env = build_env(
            self._base, program.env_pass, resolve_env(program.env, self._base), resolve_env(spec.env, self._base), own
        )
        return Launch(
            job=job.id,
            attempt=run.attempt,
            attempt_id=run.attempt_id,
            argv=argv,
            env=env,
            workdir=spec.cwd,
            stdin=_stdin(program, spec),
            head=self._head,
            tail=self._tail,
            deadline_s=None if job.terms.timeout is None else job.terms.timeout / 1e6,
            grace_s=self._grace,
            umask=self._umask,
        )


def _stdin(program: Program, spec: Spec) -> bytes | None:
    match program.stdin:
        case "prompt" if spec.prompt is not None:
            return spec.prompt.encode()
        case "payload":
            return msgspec.json.encode(spec.payload)
        case _:
            return None
