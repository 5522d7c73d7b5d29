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
from pathlib import Path

import msgspec

from opusd.agents import kernel
from opusd.agents.output import last_text, size_of
from opusd.agents.result import read_result
from opusd.agents.spec import Ended, Exit, NeverRan

_FENCE = "never"


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
    """Whether a shim holds the lock of `started`."""
    try:
        file = os.open(folder / "started", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def find(folder: Path, attempt_id: str) -> Live | NeverRan | None:
    """What became of an attempt that the registry calls running; None: it is over, or lost.

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
    """How an attempt ended whose shim is over; what a shim left running is ended first. None: it never began."""
    claim = read_claim(folder)
    if claim is None:
        put_fence(folder, attempt_id)
        return None
    if claim.attempt_id not in ("", attempt_id):
        message = f"{folder} was used by another attempt: nothing was started"
        return Ended(job=job, attempt=attempt, exit=Exit(kind="spawn", errno=errno.EEXIST, message=message))
    if claim.never:
        return None
    ending = read_exit(folder)
    if ending is None:
        bury(claim, attempt_id)
        ending = Exit(kind="lost", message="its shim ended without a record; what was left of the attempt was killed")
    result, problem = read_result(folder)
    return Ended(
        job=job,
        attempt=attempt,
        exit=ending,
        result=result,
        result_problem=problem,
        output_tail=last_text(folder / "output.log"),
        log_bytes=size_of(folder / "output.log"),
        asked=read_orders(folder).get("kill_at") is not None,
    )


def read_orders(folder: Path) -> dict[str, float]:
    """What a daemon ordered, in seconds since boot: `kill_at`, `deadline`."""
    try:
        orders = json.loads((folder / "orders").read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: orders[name] for name in ("kill_at", "deadline") if isinstance(orders.get(name), int | float)}


def read_exit(folder: Path) -> Exit | None:
    """The shim's record of the end, None when there is none that can be read."""
    try:
        text = (folder / "exit").read_text("utf-8", "replace").strip("\n")
    except FileNotFoundError:
        return None
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
