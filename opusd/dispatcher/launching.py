"""From a job and its agent's program to a Launch: argv, environment, standard input (contract, section 8).

No shell sees job text. Prompts and values of variables are never logged from here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from opusd.agents.adapters import adapter
from opusd.agents.adapters.base import Usage
from opusd.agents.environment import build_argv, build_env, passed_on, resolve_env
from opusd.agents.follow import Listening
from opusd.agents.spec import MIB, Launch
from opusd.core.errors import InvalidParams
from opusd.dispatcher.prompts import prompt_for, resumes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from opusd.core.job import Job, Outcome, Spec


class Program(msgspec.Struct, frozen=True):
    """How an agent's program is called, and understood. No `argv`: the job's own command is.

    `resume_argv` takes up the session that it names by {session_id}. `listens`: its output is read while it runs.
    """

    argv: tuple[str, ...] = ()
    resume_argv: tuple[str, ...] = ()
    stdin: str = "prompt"
    output: str = "text"
    progress_pattern: str | None = None
    listens: bool = False
    env: dict[str, str | dict[str, str]] = {}
    env_pass: tuple[str, ...] = ()
    memory_max: int | None = None
    nice: int | None = None


class Launching:
    """`base` is the daemon's environment, `zone()` the one that programs' clock times are in."""

    def __init__(
        self,
        *,
        programs: Mapping[str, Program],
        base: Mapping[str, str],
        socket: str,
        zone: Callable[[], tzinfo],
        head: int = 8 * MIB,
        tail: int = 56 * MIB,
        grace: float = 10.0,
        umask: int | None = None,
    ) -> None:
        self._base = base
        self._socket = socket
        self._zone = zone
        self._umask = umask
        self.configure(programs=programs, head=head, tail=tail, grace=grace)

    def configure(self, *, programs: Mapping[str, Program], head: int, tail: int, grace: float) -> None:
        """The configuration, read or read again; `head` and `tail` in bytes, `grace` in seconds."""
        self.programs = programs
        self._passed = {name: passed_on(self._base, program.env_pass) for name, program in programs.items()}
        self._head = head
        self._tail = tail
        self._grace = grace

    def listen(self, job: Job, outcome: Outcome) -> Listening | None:
        """How the output of the attempt under way is understood; None: it is not read while it runs."""
        program = self.programs.get(job.terms.agent)
        if program is None or not program.listens:
            return None
        before = outcome.session_usage if self._session(program, job, outcome) is not None else None
        usage = None if before is None else msgspec.convert(before, Usage)
        sign = None if program.progress_pattern is None else re.compile(program.progress_pattern)
        return Listening(adapter=adapter(program.output, self._zone(), usage), sign=sign)

    @staticmethod
    def _session(program: Program, job: Job, outcome: Outcome) -> str | None:
        """The session that the attempt takes up."""
        return resumes(job, outcome) if program.resume_argv else None

    def prepare(self, job: Job, spec: Spec, outcome: Outcome, token: str) -> Launch:
        """The Launch of the attempt under way; OpusError when what the job or agent names can't be had."""
        run = job.run
        assert run is not None
        program = self.programs.get(job.terms.agent)
        if program is None:
            message = f"agent {job.terms.agent} is not configured"
            raise InvalidParams(message)
        session = self._session(program, job, outcome)
        prompt = prompt_for(job, spec, outcome, resumed=session is not None)
        values = {
            "prompt": prompt or "",
            "title": spec.title,
            "job_id": str(job.id),
            "attempt": str(run.attempt),
            "cwd": spec.cwd,
            "workdir": outcome.workdir or spec.cwd,
            "key": job.key or "",
            "session_id": session or "",
        }
        template = program.argv if session is None else program.resume_argv
        argv = build_argv(list(template), values) if template else list(spec.command or ())
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
        theirs, jobs = resolve_env(program.env, self._base), resolve_env(spec.env, self._base)
        env = build_env(self._passed[job.terms.agent], theirs, jobs, own)
        return Launch(
            job=job.id,
            attempt=run.attempt,
            attempt_id=run.attempt_id,
            argv=argv,
            env=env,
            workdir=outcome.workdir or spec.cwd,
            stdin=_stdin(program, spec, prompt),
            head=self._head,
            tail=self._tail,
            deadline_s=None if job.terms.timeout is None else job.terms.timeout / 1e6,
            grace_s=self._grace,
            memory_max=program.memory_max,
            verify=spec.verify or [],
            verify_any_exit=program.output == "claude",  # whose result may be good and its code is not
            nice=program.nice,
            umask=self._umask,
        )


def _stdin(program: Program, spec: Spec, prompt: str | None) -> bytes | None:
    match program.stdin:
        case "prompt" if prompt is not None:
            return prompt.encode()
        case "payload":
            return msgspec.json.encode(spec.payload)
        case _:
            return None
