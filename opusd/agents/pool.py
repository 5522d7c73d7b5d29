"""The pool: starts attempts, watches their shims, adopts those of an earlier daemon, ends them, reads their output.

Own and adopted attempts take one path: the shim's pidfd is watched, and when it is over the traces in the
attempt's folder say how it ended. The pool decides nothing: it starts what it is told and reports what
happened, each fact once, on the loop. Must not know jobs, the registry or the wire.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from opusd.agents import kernel, machine, output, traces
from opusd.agents.attempt import Attempt, Key, Stage
from opusd.agents.inquiry import Inquiry
from opusd.agents.launcher import Launcher, Message
from opusd.agents.reader import OutputReader
from opusd.agents.result import NAME as RESULT_NAME
from opusd.agents.spec import Adopted, Chunk, Ended, Exit, Launch, NeverRan, Report, Started, Unknown
from opusd.agents.watch import OutputWatch
from opusd.core.errors import InternalError
from opusd.threads import started

T = TypeVar("T")

_OPEN_SECONDS = 20.0
_RELAUNCH_SECONDS = 1.0
_LOCK_SECONDS = 1.0
_RECOVER_SECONDS = 10.0
_RECORD_TRIES = 4


class AgentPool:
    """`runs` is where attempts leave their traces; `report` is called on the loop with every fact.

    `limit` is a net under the scheduler, which alone counts slots: nobody ever waits for it.
    """

    def __init__(self, *, runs: Path, report: Callable[[Report], None], limit: int = 64, inotify: bool = True) -> None:
        self.punches_holes = True
        self.limit = limit
        self._runs = runs.absolute()
        self._report = report
        self._launcher = Launcher(self._heard, self._launcher_gone)
        self._generation = 0
        self._launched_at = 0.0
        self._relaunch: asyncio.TimerHandle | None = None
        self._ready = asyncio.Event()
        self._attempts: dict[Key, Attempt] = {}
        self._shims: dict[int, Attempt] = {}
        self._watch = OutputWatch(inotify=inotify)
        self._threads = started(8, "opusd-agents")
        self._reader = OutputReader(self._watch, self._threads)
        self._inquiry = Inquiry(self._threads, unknown=self._tell_unknown, lost=self._lose)
        self._scope: str | None = None
        self._closed = False

    async def open(self) -> None:
        """Start the launcher, which is to happen before the daemon is big, and see what this machine can do."""
        self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._start_launcher()
        self._watch.open()
        punches_holes = partial(machine.punches_holes, self._runs)
        self.punches_holes = await asyncio.get_running_loop().run_in_executor(self._threads, punches_holes)
        self._scope = machine.scope_program(os.environ)
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            message = (
                f"the launcher of agents did not answer for {_OPEN_SECONDS:g} s: is it stopped, or the machine busy?"
            )
            raise InternalError(message) from None

    async def close(self) -> None:
        """Stop watching; agents live on."""
        self._closed = True
        self._inquiry.close()
        self._reader.close()
        if self._relaunch is not None:
            self._relaunch.cancel()
        await self._launcher.close()
        for attempt in list(self._attempts.values()):
            self._unwatch(attempt)
            attempt.wake()
        self._attempts.clear()
        self._watch.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def launcher_pid(self) -> int | None:
        """The launcher's process, None between the death of one and the start of the next."""
        return self._launcher.pid

    def running(self) -> list[Key]:
        """The attempts that are not over, those that are being launched among them."""
        return list(self._attempts)

    def start(self, launch: Launch) -> None:
        """Launch an attempt; returns at once, and whatever goes wrong comes as a report.

        Only of an attempt that it may not be asked for it says so at once, and then nothing of that was begun.
        """
        key = (launch.job, launch.attempt)
        assert len(self._attempts) < self.limit, "the scheduler placed more attempts than the pool may hold"
        assert key not in self._attempts, f"attempt {key} is running already"
        attempt = Attempt(key, launch.attempt_id, self._folder(key), Stage.LAUNCHING)
        self._attempts[key] = attempt
        try:
            self._start_launcher()
            attempt.generation = self._generation
            self._launcher.send(self._message(launch, attempt.folder), launch.stdin or b"")
        except OSError as error:
            self._refused(attempt, error.errno or 0, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours: how far it came says the fence
            attempt.stage = Stage.SETTLING
            self._find(attempt, partial(self._found_broken, attempt, f"{type(error).__name__}: {error}"))

    def stop(self, job: int, attempt: int, grace: float) -> None:
        """TERM to every process of the attempt, KILL after the grace; a later call may shorten it, not lengthen it.

        The shim does both, so it happens even if the daemon dies in between. Not known: nothing is done.
        """
        known = self._attempts.get((job, attempt))
        if known is not None:
            known.end_by(kernel.monotonic_seconds() + max(0.0, grace))

    def set_deadline(self, job: int, attempt: int, seconds: float | None) -> None:
        """A running attempt's timeout has moved: its shim is told, for the case that no daemon is there by then."""
        known = self._attempts.get((job, attempt))
        if known is not None:
            known.orders["deadline"] = None if seconds is None else kernel.monotonic_seconds() + seconds
            known.write_orders()

    async def recover(self, running: Sequence[tuple[int, int, str, float | None]]) -> None:
        """Find out what became of attempts that the registry calls running: (job, attempt, attempt_id, seconds left).

        Reports exactly one of Adopted, NeverRan and Ended for each; all are out on return, but for an
        attempt whose last processes resist being killed for 10 s, and for those of which nothing can be found out now.
        """
        over: list[asyncio.Future[None]] = []
        now = asyncio.get_running_loop().time()
        for job, number, attempt_id, left in running:
            key = (job, number)
            assert key not in self._attempts, f"attempt {key} is known already"
            attempt = Attempt(key, attempt_id, self._folder(key), Stage.SETTLING)
            self._attempts[key] = attempt
            await self._find(attempt, partial(self._recovered, attempt, None if left is None else now + left, over))
        if over:
            await asyncio.wait(over, timeout=_RECOVER_SECONDS)

    def _recovered(
        self,
        attempt: Attempt,
        deadline: float | None,
        over: list[asyncio.Future[None]],
        found: traces.Live | NeverRan | None,
    ) -> None:
        match found:
            case traces.Live():
                since = dict(attempt.orders)  # ordered while nothing was known of it
                attempt.read_orders()
                self._watch_shim(attempt, found.claim.shim, found.pidfd)
                self._tell(Adopted(job=attempt.key[0], attempt=attempt.key[1], shim_pid=attempt.shim[0]))
                if deadline is not None and "deadline" not in since:
                    self.set_deadline(*attempt.key, max(0.0, deadline - asyncio.get_running_loop().time()))
                if "kill_at" in since:
                    attempt.send_end()
            case NeverRan():
                self._over(attempt, None)
            case None:
                over.append(self._settle(attempt))

    def attempt_of(self, pid: int) -> Key | None:
        """The live attempt that a process belongs to: a shim is among its ancestors, start times compared."""
        self._launcher.pump()  # a shim begins only when we can know of it
        return kernel.ancestor(pid, {attempt.shim: attempt.key for attempt in self._shims.values()})

    async def read_output(self, job: int, attempt: int, offset: int, limit: int, wait_s: float) -> Chunk:
        """Output from `offset` on; with nothing there and the attempt not over, wait up to `wait_s` for some."""
        key = (job, attempt)
        path = self._folder(key) / "output.log"
        return await self._reader.read(path, offset, limit, wait_s, lambda: self._attempts.get(key))

    def output_size(self, job: int, attempt: int) -> int:
        """Bytes of output as written, 0 when there is none."""
        return output.size_of_all(self._folder((job, attempt)) / "output.log")

    # Launching

    def _message(self, launch: Launch, folder: Path) -> Message:
        """What the shim is to know; the two names in the environment are those that the pool itself relies on."""
        scope = self._scope if launch.memory_max is not None and "XDG_RUNTIME_DIR" in launch.env else None
        units: list[str | None] = [None, None]
        prefixes: list[list[str]] = [[], []]
        if scope is not None and launch.memory_max is not None:
            for number in (0, 1):
                unit = machine.scope_unit(launch.job, launch.attempt, launch.attempt_id, verify=number == 1)
                units[number], prefixes[number] = unit, machine.scope_argv(scope, unit, launch.memory_max)
        names = {"OPUS_ATTEMPT_ID": launch.attempt_id, "OPUS_RESULT": f"{folder}/out/{RESULT_NAME}"}
        return {
            "job": launch.job,
            "attempt": launch.attempt,
            "attempt_id": launch.attempt_id,
            "folder": str(folder),
            "argv": launch.argv,
            "prefix": prefixes[0],
            "scope": units[0],
            "verify": launch.verify,
            "verify_any_exit": launch.verify_any_exit,
            "verify_prefix": prefixes[1],
            "env": {**launch.env, **names},
            "workdir": launch.workdir,
            "has_stdin": launch.stdin is not None,
            "head": launch.head,
            "tail": launch.tail,
            "punch": self.punches_holes,
            "deadline_s": launch.deadline_s,
            "overtime_s": launch.overtime_s,
            "grace_s": launch.grace_s,
            "data_limit": None if scope else launch.memory_max,
            "nice": launch.nice,
            "umask": launch.umask,
        }

    def _start_launcher(self) -> None:
        if self._launcher.pid is None:
            self._launched_at = asyncio.get_running_loop().time()
            self._launcher.start()
            self._generation += 1

    def _heard(self, message: Message, handle: int | None) -> None:
        if "ready" in message:
            self._ready.set()
            return
        if "reaped" in message:
            return  # the pidfd says so too, and what it came to says the folder
        attempt = self._attempts.get((message["job"], message["attempt"]))
        if attempt is None or attempt.stage is not Stage.LAUNCHING:
            if handle is not None:
                os.close(handle)
        elif "refused" in message:
            why = f"{message['why']}: {traces.named(message['refused'])}"
            self._refused(attempt, message["refused"], why, machine=message["machine"])
        else:
            claimed = (message["started"], message["start"])
            self._began(attempt, claimed, handle if handle is not None else kernel.open_verified(*claimed))

    def _began(self, attempt: Attempt, claimed: tuple[int, int], pidfd: int | None) -> None:
        self._watch_shim(attempt, claimed, pidfd)
        report = Started(job=attempt.key[0], attempt=attempt.key[1], shim_pid=claimed[0])
        asyncio.get_running_loop().call_soon(self._tell, report)  # not from inside a caller of attempt_of
        attempt.send_end()

    def _refused(self, attempt: Attempt, number: int, why: str, *, machine: bool = True) -> None:
        attempt.stage = Stage.SETTLING
        ended = attempt.ended(Exit(kind="spawn", errno=number, machine=machine, message=f"cannot start: {why}"))
        asyncio.get_running_loop().call_soon(self._over, attempt, ended)

    def _launcher_gone(self) -> None:
        """Start another; of launches that were not answered, find out how far they came."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        early = loop.time() < self._launched_at + _RELAUNCH_SECONDS
        self._relaunch = loop.call_later(_RELAUNCH_SECONDS if early else 0.0, self._launch_again)
        for attempt in list(self._attempts.values()):
            if attempt.stage is Stage.LAUNCHING:
                attempt.stage = Stage.SETTLING
                self._find(attempt, partial(self._found_unanswered, attempt))

    def _launch_again(self) -> None:
        try:
            self._start_launcher()
        except OSError:
            self._relaunch = asyncio.get_running_loop().call_later(_RELAUNCH_SECONDS, self._launch_again)

    def _find(self, attempt: Attempt, then: Callable[[traces.Live | NeverRan | None], None]) -> asyncio.Future[None]:
        """What became of it. Unknown is not dead: an attempt that may run is asked after until that can be read."""
        return self._inquiry.ask(attempt, partial(traces.find, attempt.folder, attempt.attempt_id), then)

    def _found_unanswered(self, attempt: Attempt, found: traces.Live | NeverRan | None) -> None:
        match found:
            case traces.Live():
                self._began(attempt, found.claim.shim, found.pidfd)
            case NeverRan():
                self._over(attempt, None, why="the launcher of agents ended")
            case None:
                self._settle(attempt)

    def _found_broken(self, attempt: Attempt, why: str, found: traces.Live | NeverRan | None) -> None:
        if isinstance(found, NeverRan):
            self._over(attempt, attempt.ended(Exit(kind="spawn", message=f"cannot start: {why}")))
        else:
            self._found_unanswered(attempt, found)

    # Watching

    def _watch_shim(self, attempt: Attempt, claimed: tuple[int, int], pidfd: int | None) -> None:
        attempt.stage = Stage.RUNNING
        attempt.pidfd = pidfd
        if pidfd is None:  # alive in another pid namespace: its lock is all that can be seen of it
            self._look_at_lock(attempt)
            return
        attempt.shim = claimed
        self._shims[claimed[0]] = attempt
        asyncio.get_running_loop().add_reader(pidfd, self._settle, attempt)

    def _look_at_lock(self, attempt: Attempt) -> None:
        try:
            held = traces.is_held(attempt.folder)
        except OSError:
            held = True  # for all that is known
        if held:
            attempt.timer = asyncio.get_running_loop().call_later(_LOCK_SECONDS, self._look_at_lock, attempt)
        else:
            self._settle(attempt)

    def _unwatch(self, attempt: Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.pidfd is not None:
            asyncio.get_running_loop().remove_reader(attempt.pidfd)
            os.close(attempt.pidfd)
            attempt.pidfd = None
            self._shims.pop(attempt.shim[0], None)

    def _settle(self, attempt: Attempt) -> asyncio.Future[None]:
        """The shim is over: find out how it ended, and end what it left running, if it did."""
        attempt.stage = Stage.SETTLING
        self._unwatch(attempt)
        work = partial(traces.settle, attempt.folder, *attempt.key, attempt.attempt_id)
        return self._inquiry.ask(attempt, work, partial(self._settled, attempt), tries=_RECORD_TRIES)

    def _settled(self, attempt: Attempt, ended: Ended | None) -> None:
        if ended is None and attempt.generation == self._generation:
            self._inquiry.ask(attempt, partial(traces.hindrance, attempt.folder), partial(self._unclaimed, attempt))
        else:
            self._over(attempt, ended)

    def _unclaimed(self, attempt: Attempt, hindrance: int | None) -> None:
        """Where nothing hinders a claim the shim was killed: that says nothing of the job, which is tried again."""
        if hindrance is None:
            number, message = errno.EAGAIN, "its shim ended before it could claim the attempt"
        else:
            number, message = hindrance, f"nothing can be written in {attempt.folder}: {traces.named(hindrance)}"
        self._over(attempt, attempt.ended(Exit(kind="spawn", errno=number, message=f"cannot start: {message}")))

    def _over(self, attempt: Attempt, ended: Ended | None, why: str = "") -> None:
        """The last word on an attempt; None: it never ran, and `why` of NeverRan."""
        self._attempts.pop(attempt.key, None)
        self._watch.forget(attempt.log)
        attempt.wake()
        self._tell(ended if ended is not None else NeverRan(job=attempt.key[0], attempt=attempt.key[1], why=why))

    def _tell(self, report: Report) -> None:
        if not self._closed:
            self._report(report)

    def _tell_unknown(self, attempt: Attempt, error: OSError) -> None:
        message = f"nothing can be found out in {attempt.folder}: {error}"
        self._tell(Unknown(job=attempt.key[0], attempt=attempt.key[1], message=message))

    def _lose(self, attempt: Attempt, error: BaseException) -> None:
        lost = Exit(kind="lost", message=f"what it left behind can't be read: {error}")
        self._over(attempt, attempt.ended(lost))

    def _folder(self, key: Key) -> Path:
        return self._runs / str(key[0]) / str(key[1])
