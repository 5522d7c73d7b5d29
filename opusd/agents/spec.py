"""What goes into the pool and what comes out of it: a launch, and the reports about it.

Values only. Times are seconds; a deadline counts from the moment of the launch. An attempt is named by
(job, attempt) for the registry and by `attempt_id`, 128 random bits as text, for the processes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MIB = 1 << 20


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to run: `argv` and `env` are final; `stdin` of any size is what the agent reads, None is nothing.

    `head` and `tail` are how much of the output is kept when it is more than both. `deadline_s` is when the
    daemon means to end the attempt; its shim does it `overtime_s` later when no daemon did. `grace_s` is the
    time between TERM and KILL when nobody says another. `memory_max` is in bytes.

    `verify` is run in the same place once the agent has ended with code 0, or with any when `verify_any_exit`, unless
    somebody wanted it to end; it belongs to the attempt.
    """

    job: int
    attempt: int
    attempt_id: str
    argv: list[str]
    env: dict[str, str]
    workdir: str
    stdin: bytes | None = None
    head: int = 8 * MIB
    tail: int = 56 * MIB
    deadline_s: float | None = None
    overtime_s: float = 60.0
    grace_s: float = 10.0
    memory_max: int | None = None
    nice: int | None = None
    verify: list[str] = []
    verify_any_exit: bool = False
    umask: int | None = None


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended.

    exit: by itself, with `code`. signal: by `signal`. spawn: it never began, for `errno` where one is known; `machine`:
    no attempt of any job would have begun.
    lost: nobody saw how; what was left of it is ended. `message` says it in words.
    """

    kind: Literal["exit", "signal", "spawn", "lost"]
    code: int | None = None
    signal: int | None = None
    errno: int | None = None
    machine: bool = False
    message: str = ""


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The shim of an attempt lives; the agent itself comes an instant later."""

    job: int
    attempt: int
    shim_pid: int


class Adopted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An attempt of an earlier daemon runs on and is watched; `shim_pid` is 0 when it is in another pid namespace."""

    job: int
    attempt: int
    shim_pid: int


class Unknown(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What became of an attempt can't be found out now, which says not that it is over: it is asked for again."""

    job: int
    attempt: int
    message: str


class NeverRan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An attempt never began and never will: its fence is up. `why` says what kept it, where that was ours."""

    job: int
    attempt: int
    why: str = ""


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An attempt is over: no process of it is left.

    `result` is the JSON text that the agent wrote to $OPUS_RESULT, None when there is none or it can't be
    used, and then `result_problem` says why. `output_tail` is the last 2 KiB of output; `log_bytes` counts all
    that was written. `asked`: a daemon, perhaps an earlier one, had told it to end. `oom`: so many of its processes
    were killed for lack of memory, as far as that is known. `verify` is how the verification ended, None when there
    was none, and `verify_output` the end of what it printed.
    """

    job: int
    attempt: int
    exit: Exit
    result: bytes | None = None
    result_problem: str | None = None
    output_tail: str = ""
    log_bytes: int = 0
    asked: bool = False
    oom: int = 0
    verify: Exit | None = None
    verify_output: str = ""


Report = Started | Adopted | Unknown | NeverRan | Ended


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an attempt's output: bytes `offset` up to `next_offset`, counted as written.

    `dropped` bytes before `offset` were asked for and are no longer kept. `truncated`: the agent cut its log
    short below the offset asked for, so this begins at 0 again. `verify`: not the agent wrote it, but what verified its
    work; its output comes after all of the agent's.
    """

    data: str
    offset: int
    next_offset: int
    dropped: int = 0
    eof: bool = False
    truncated: bool = False
    verify: bool = False
