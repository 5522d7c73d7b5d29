"""What an attempt leaves in `runs/JOB/ATTEMPT`, and what may be concluded from it.

All of this blocks (files, locks, /proc), so the pool calls it in a thread. Unknown is not dead: what can't be
verified is neither killed nor called over. Must not know the event loop or the registry.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import tempfile
from pathlib import Path

import msgspec
from msgspec.structs import replace

from opusd.agents import kernel, shim
from opusd.agents.output import last_text, size_of_all, verify_text
from opusd.agents.result import read_result
from opusd.agents.spec import Ended, Exit, NeverRan

_FENCE = "never"
_VERIFY_BYTES = 4096


class Claim(msgspec.Struct, frozen=True):
    """The file `started`: who holds the attempt, and the agent once there was one."""

    attempt_id: str = ""
    boot: str = ""
    pid_namespace: int = 0
    shim: tuple[int, int] = (0, 0)
    agent: tuple[int, int] | None = None
    never: bool = False

    @property
    def here(self) -> bool:
        """Whether its pids mean anything to us: this boot, this pid namespace."""
        return self.boot == kernel.boot_id() and self.pid_namespace == kernel.pid_namespace()


class Live(msgspec.Struct, frozen=True):
    """The shim holds its lock. `pidfd` watches it, or is None where its pid can't be verified from here."""

    claim: Claim
    pidfd: int | None


def read_claim(folder: Path) -> Claim | None:
    """The claim, None when there is no `started`; a broken one claims nothing but is there."""
    try:
        kind, _, attempt_id = str((folder / "started").readlink()).partition(":")
        return Claim(attempt_id=attempt_id, never=kind == _FENCE)
    except FileNotFoundError:
        return None
    except OSError:
        pass  # no fence, so a shim's own
    try:
        lines = (folder / "started").read_bytes().splitlines()
    except FileNotFoundError:
        return None
    merged: dict[str, object] = {}
    for line in lines:
        try:
            merged.update(json.loads(line))
        except ValueError:
            break
    try:
        return msgspec.convert(merged, Claim)
    except msgspec.ValidationError:
        return Claim()


def put_fence(folder: Path, attempt_id: str) -> bool:
    """Make sure that no shim can ever claim the attempt; False when `started` is there already.

    A symbolic link lies in its inode: it needs no block of a disk that may be full.
    """
    try:
        (folder / "started").symlink_to(f"{_FENCE}:{attempt_id}")
    except FileExistsError:
        return False
    return True


def is_held(folder: Path) -> bool:
    """Whether a shim holds the lock of `started`; an OSError leaves that open."""
    try:
        file = os.open(folder / "started", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return False
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def find(folder: Path, attempt_id: str) -> Live | NeverRan | None:
    """What became of an attempt that the registry calls running; None: it is over, or lost. An OSError says neither.

    Putting up the fence is the question: if we could make `started`, no shim ever can. (The ids of NeverRan
    are the caller's to fill in.)
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if put_fence(folder, attempt_id):
        return NeverRan(job=0, attempt=0)
    claim = read_claim(folder)
    if claim is None or claim.attempt_id != attempt_id:
        return None
    if claim.never:
        return NeverRan(job=0, attempt=0)
    if not is_held(folder):
        return None
    return Live(claim, kernel.open_verified(*claim.shim) if claim.here else None)


def settle(folder: Path, job: int, attempt: int, attempt_id: str) -> Ended | None:
    """How an attempt ended whose shim is over; what a shim left running is ended first. None: it never began.

    After an OSError nothing of it runs either.
    """
    try:
        claim, record = read_claim(folder), read_record(folder)
    except OSError:
        bury(Claim(), attempt_id)
        raise
    if claim is None:
        with contextlib.suppress(OSError):  # its shim is over: there is nobody who could claim it
            put_fence(folder, attempt_id)
        return None
    if claim.attempt_id not in ("", attempt_id):
        message = f"{folder} was used by another attempt: nothing was started"
        return Ended(job=job, attempt=attempt, exit=Exit(kind="spawn", errno=errno.EEXIST, message=message))
    if claim.never:
        return None
    if record is None:
        bury(claim, attempt_id)
        lost = Exit(kind="lost", message="its shim ended without a record; what was left of the attempt was killed")
        record = Record(lost)
    log = folder / "output.log"
    result, problem = read_result(folder)
    return Ended(
        job=job,
        attempt=attempt,
        exit=record.exit,
        result=result,
        result_problem=problem,
        output_tail=last_text(log),
        log_bytes=size_of_all(log),
        oom=record.oom,
        verify=record.verify,
        verify_output="" if record.verify is None else verify_text(log, _VERIFY_BYTES),
        asked=read_orders(folder).get("kill_at") is not None,
    )


def hindrance(folder: Path) -> int | None:
    """The errno for which no attempt can be claimed in the folder, found by doing it anew; None: nothing is in the way.

    A shim that can't claim can't leave word of it either.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".probe.") as place:
            held = shim.claim(place, {})
            if held is not None:
                os.close(held)
            shim.set_aside(place)
    except OSError as error:
        return error.errno
    return None


def named(number: int) -> str:
    """`No space left on device (ENOSPC)`."""
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def read_orders(folder: Path) -> dict[str, float]:
    """What a daemon ordered, in seconds since boot: `kill_at`, `deadline`."""
    try:
        orders = json.loads((folder / "orders").read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: orders[name] for name in ("kill_at", "deadline") if isinstance(orders.get(name), int | float)}


class Record(msgspec.Struct, frozen=True):
    """The file `exit`: how the agent ended, how many processes lacked memory, and how its verification ended."""

    exit: Exit
    oom: int = 0
    verify: Exit | None = None


def read_record(folder: Path) -> Record | None:
    """The shim's record of the end, None when there is none that can be read."""
    try:
        first, *lines = (folder / "exit").read_text("utf-8", "replace").strip("\n").split("\n")
    except FileNotFoundError:
        return None
    ending = _exit(first)
    if ending is None:
        return None
    oom, verify = 0, None
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "oom" and rest.isdigit():
            oom += int(rest)
        elif kind == "verify":
            verify = _verified(rest)
    return Record(ending, oom, verify)


def _exit(text: str) -> Exit | None:
    kind, _, rest = text.partition(" ")
    number, _, more = rest.partition(" ")
    if not number.isdigit():
        return None
    value = int(number)
    why = f", {more}" if more else ""
    match kind:
        case "exit":
            return Exit(kind="exit", code=value, message=f"exit code {value}{why}")
        case "signal":
            return Exit(kind="signal", signal=value, message=f"ended by signal {value} ({_signal_name(value)}){why}")
        case "spawn":
            return Exit(kind="spawn", errno=value, message=f"cannot start {more or os.strerror(value)}")
        case _:
            return None


def _verified(text: str) -> Exit:
    """`exit 1 PROGRAM`, with `late` before the program when it ran past the deadline; or `spawn 2 PROGRAM: WHY`."""
    kind, number, *rest = (*text.split(" "), "")
    ending = _exit(f"{kind} {number}")
    program = " ".join(rest[rest[:1] == ["late"] :]).rstrip(" ")
    if ending is None:
        return Exit(kind="lost", message="how the verification ended can't be read")
    late = ", past the deadline" if rest[:1] == ["late"] else ""
    match kind:
        case "exit":
            words = f"{program} exited with code {ending.code}"
        case "signal":
            words = f"{program} was ended by {_signal_name(ending.signal or 0)}"
        case _:
            words = f"cannot start {program}"
    return replace(ending, message=words + late)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "realtime"


def bury(claim: Claim, attempt_id: str) -> None:
    """Kill the agent, and every process of our user that carries the attempt's id, until two looks find none."""
    if claim.boot and not claim.here:
        return  # another boot: nothing can be left; another pid namespace: nothing can be verified
    if claim.agent is not None:
        kernel.signal_verified(*claim.agent, signal.SIGKILL)
    clean = 0
    while clean < 2:
        found = bearers(attempt_id)
        clean = 0 if found else clean + 1
        ended = select.poll()
        handles = [handle for pid, start in found if (handle := kernel.open_verified(pid, start)) is not None]
        for handle in handles:
            ended.register(handle, select.POLLIN)
            with contextlib.suppress(OSError):  # it ended, or changed its user
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        if found:
            ended.poll(100)  # until one has ended; without a descriptor to watch one, a rest
        for handle in handles:
            os.close(handle)


def bearers(attempt_id: str) -> list[tuple[int, int]]:
    """Processes of our user with OPUS_ATTEMPT_ID=attempt_id in their environment, as (pid, start time).

    Zombies have no environment any more and are not found.
    """
    mark = b"\0OPUS_ATTEMPT_ID=" + attempt_id.encode() + b"\0"
    user = os.geteuid()
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        seen = kernel.parent_and_start(int(place.name))
        try:
            if place.stat().st_uid != user:
                continue
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        if seen is not None and mark in b"\0" + environment:
            found.append((int(place.name), seen[1]))
    return found
