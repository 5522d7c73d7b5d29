"""`opusctl workers start`: slots of one worker, each of which claims a job, runs the program on it, and reports.

A job is held under a lease that heartbeats renew. Whatever happens to the daemon, its program has ended when the
lease ends: from then on somebody else may have the job. A claim that came is either worked on or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import os
import signal
import socket
import sys
import time

import msgspec

from opus_client import AsyncClient, RpcError
from opusctl.failure import INTERRUPTED, OK, Refused, Unwritten
from opusctl.jobs import brief
from opusctl.program import NotStarted, Program
from opusctl.screen import flush, silence
from opusctl.text import cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from opusctl.screen import Screen

    Claim = dict[str, Any]

WAIT = 60.0  # seconds that one claim waits for a job
BEAT = 5.0  # between heartbeats at most: a person who cancels a job does not wait longer
GRACE = 10.0  # between SIGTERM and SIGKILL
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # while the daemon is away
LAST = 20  # lines of a failed program's output that are shown
LEASE_LOST, CANCELLED = -32007, -32800
PASSING = (-32008, -32009)  # the daemon stops, or can't write just now: it is asked again


class Plan(msgspec.Struct, kw_only=True):
    """What the person asked for. `wanted` is the filters of `worker.claim`; `lease` in seconds."""

    name: str
    argv: list[str]
    wanted: dict[str, Any]
    slots: int = 1
    most: int | None = None
    leave_when_idle: bool = False
    lease: float = 60.0


def default_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class Hold:
    """One job that this worker holds, and until when on our own clock, which no jump of the wall's moves."""

    def __init__(self, claim: Claim, lease: float) -> None:
        self.claim = claim
        self.job = claim["job"]
        self.named = {"id": self.job["id"], "token": claim["token"]}
        self.given_back = False
        self.lost: str | None = None  # why it is no longer ours
        self._lease = lease
        self._until = 0.0
        self.renewed(claim["expires_at"])

    def renewed(self, expires_at: str) -> None:
        left = dt.datetime.fromisoformat(expires_at).timestamp() - time.time()
        self._until = time.monotonic() + min(left, self._lease)

    @property
    def left(self) -> float:
        return self._until - time.monotonic()

    @property
    def margin(self) -> float:
        """What it takes to end the program before the lease is over."""
        return min(GRACE, self._lease / 4)


class Line:
    """One connection for all slots, made again after the daemon was away."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._client: AsyncClient | None = None
        self._lock = asyncio.Lock()

    async def client(self) -> AsyncClient:
        """OSError while there is no daemon."""
        async with self._lock:
            if self._client is None or self._client.lost:
                await self.close()
                self._client = await AsyncClient(self.path).connect()
            return self._client

    async def call(self, method: str, params: dict[str, Any], within: float) -> Any:
        """RpcError, or OSError (TimeoutError is one) when no answer came in so many seconds."""
        async with asyncio.timeout(max(within, 0.0)):
            return await (await self.client()).call(method, **params)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class Worker:
    def __init__(self, screen: Screen, path: str, plan: Plan) -> None:
        self._screen = screen
        self._plan = plan
        self._line = Line(path)
        self._left = math.inf if plan.most is None else plan.most  # jobs that may still be claimed
        self._running: dict[int, tuple[Hold, Program]] = {}
        self._busy = 0
        self._stopping = False
        self._wait_no_more = asyncio.Event()  # it stops, or nothing runs and it leaves when idle
        self._failure: Refused | Unwritten | None = None  # what ends it
        self._interrupted = False

    async def run(self) -> int:
        """Until it is told to stop, or has done what it was asked to do."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._signalled)
        try:
            async with asyncio.TaskGroup() as slots:
                for number in range(self._plan.slots):
                    slots.create_task(self._slot(number + 1))
        finally:
            await self._line.close()
        if self._failure is not None:
            raise self._failure
        return INTERRUPTED if self._interrupted else OK

    def _signalled(self) -> None:
        if not self._stopping:
            many = len(self._running)
            self._screen.talk(f"finishing {many} running; again: stop and give back" if many else "stopping")
            self._stop()
            return
        self._interrupted = True
        for hold, program in self._running.values():
            hold.given_back = True
            program.stop(min(GRACE, hold.left - hold.margin / 4))

    def _stop(self) -> None:
        self._stopping = True
        self._wait_no_more.set()

    # --- claiming ---------------------------------------------------------------------------------

    async def _slot(self, number: int) -> None:
        claim = await self._next()
        while claim is not None:
            self._busy += 1
            if not self._stopping:
                self._wait_no_more.clear()
            try:
                claim = await self._work(number, Hold(claim, self._plan.lease))
            finally:
                self._busy -= 1
                if self._plan.leave_when_idle and not self._busy:
                    self._wait_no_more.set()
            claim = claim or await self._next()

    async def _next(self) -> Claim | None:
        """A job, once there is one; None when this slot has nothing more to do."""
        pause = FIRST_PAUSE
        while not self._stopping and self._left:
            idle = self._plan.leave_when_idle and not self._busy
            try:
                claim = await self._claim(0.0 if idle else WAIT)
            except RpcError as error:
                if error.code not in PASSING:
                    self._failure = Refused({"code": error.code, "message": str(error), "data": error.data})
                    self._stop()
                    return None
            except OSError:
                pass
            else:
                if claim is not None or idle:
                    return claim
                pause = FIRST_PAUSE
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wait_no_more.wait()
            pause = min(2 * pause, LONGEST_PAUSE)
        return None

    async def _claim(self, wait: float) -> Claim | None:
        with self._reserved() as place:
            call = (await self._line.client()).begin("worker.claim", **self._asked(), wait=wait)
            ended = asyncio.ensure_future(call.result())
            told = asyncio.ensure_future(self._wait_no_more.wait())
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if not ended.done():
                call.give_up()
            try:
                claims = (await ended)["claims"]
            except RpcError as error:
                if error.code != CANCELLED:
                    raise
                return None
            return await self._ours(claims, place)

    async def _ours(self, claims: list[Claim], place: list[Claim]) -> Claim | None:
        """The claim, unless this worker was told to stop while that came: then it goes back."""
        if not claims:
            return None
        if self._stopping:
            hold = Hold(claims[0], self._plan.lease)
            with contextlib.suppress(RpcError, OSError):
                await self._line.call("worker.release", hold.named, hold.left)
            return None
        place.append(claims[0])
        return claims[0]

    @contextlib.contextmanager
    def _reserved(self, *, many: int = 1) -> Iterator[list[Claim]]:
        """So many of the jobs that may still be claimed; free again when no claim was put into the list."""
        place: list[Claim] = []
        self._left -= many
        try:
            yield place
        finally:
            if not place:
                self._left += many

    def _asked(self) -> dict[str, Any]:
        return {"worker": self._plan.name, "lease": self._plan.lease, **self._plan.wanted}

    # --- one job ----------------------------------------------------------------------------------

    async def _work(self, slot: int, hold: Hold) -> Claim | None:
        """Run the program on the job and say how it went; the next claim, if one came with the answer."""
        number, claim = hold.named["id"], hold.claim
        if hold.left <= 0:  # this process was suspended meanwhile
            self._screen.talk(f"job {number}: the lease was over before it could begin")
            return None
        own = {
            "OPUSD_SOCKET": os.path.abspath(self._line.path),
            "OPUS_JOB_ID": str(number),
            "OPUS_ATTEMPT": str(claim["attempt"]),
            "OPUS_ATTEMPT_ID": claim["attempt_id"],
            "OPUS_SLOT": str(slot),
            "OPUS_TOKEN": claim["token"],
        }
        job = {**hold.job, "prompt": claim.get("prompt", hold.job.get("prompt"))}
        try:
            program = Program(self._plan.argv, job, own)
        except NotStarted as error:
            return await self._report(hold, "worker.fail", {"error": {"class": error.failure, "message": str(error)}})
        self._screen.talk(f"job {number}: attempt {claim['attempt']} of {cut(hold.job['title'], 60)}")
        self._running[number] = (hold, program)
        keeper = asyncio.get_running_loop().create_task(self._keep(hold, program))
        try:
            await program.ended.wait()
            return await self._ended(hold, program)
        finally:
            program.kill()
            keeper.cancel()
            await asyncio.wait([keeper])
            program.clean_up()
            del self._running[number]

    async def _keep(self, hold: Hold, program: Program) -> None:
        """Renew the lease while the program runs; end the program when that is wanted, or the lease will end."""
        pause = min(BEAT, self._plan.lease / 3)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(pause, hold.left - hold.margin), 0.05)):
                    await program.ended.wait()
                    return
            try:
                beat = await self._line.call("worker.heartbeat", hold.named, hold.left - hold.margin)
            except RpcError as error:
                if error.code not in PASSING:
                    hold.lost = str(error)
                    program.kill()
                    return
            except OSError:
                pass
            else:
                hold.renewed(beat["expires_at"])
                if beat["cancel"]:  # the lease is no longer renewed
                    program.stop(min(GRACE, hold.left - hold.margin / 4))
                    return
                pause = min(BEAT, self._plan.lease / 3)
                continue
            if hold.left <= hold.margin:
                hold.lost = "the daemon could not be reached to renew the lease"
                program.stop(hold.margin / 2)
                return
            pause = FIRST_PAUSE

    async def _ended(self, hold: Hold, program: Program) -> Claim | None:
        if hold.lost is not None:
            self._screen.talk(f"job {hold.named['id']}: {hold.lost}")
            return None
        if hold.given_back and program.code:
            return await self._report(hold, "worker.release", {})
        data, problem = program.result()
        if problem is not None:
            self._screen.talk(f"job {hold.named['id']}: {problem}")
        summary = program.summary()
        if program.code == 0:
            return await self._report(hold, "worker.complete", {"result": {"summary": summary or None, "data": data}})
        how = f"exit code {program.code}" if program.code > 0 else f"ended by signal {-program.code}"
        lines = summary.splitlines()
        for line in lines[-LAST:]:  # the job keeps the last line alone
            self._screen.talk(f"job {hold.named['id']} | {line}")
        message = f"{how}: {lines[-1][:500]}" if lines else how
        return await self._report(hold, "worker.fail", {"error": {"class": "agent_error", "message": message}})

    async def _report(self, hold: Hold, method: str, said: dict[str, Any]) -> Claim | None:
        """Say how the job ended, and take the next with it; tried again while the lease is ours."""
        number = hold.named["id"]
        while hold.left > 0:
            takes = method != "worker.release" and not self._stopping and self._left > 0
            with self._reserved(many=int(takes)) as place:
                params = {**hold.named, **said, **({"claim": self._asked()} if takes else {})}
                try:
                    reply = await self._line.call(method, params, hold.left)
                except RpcError as error:
                    if error.code not in PASSING:
                        self._screen.talk(f"job {number}: {error}")
                        if error.code == LEASE_LOST or method != "worker.complete":
                            return None
                        method = "worker.fail"  # its result is none that the daemon takes
                        said = {"error": {"class": "agent_error", "message": f"its result was refused: {error}"}}
                        continue
                except OSError:
                    pass
                else:
                    self._show(reply if method == "worker.release" else reply["job"])
                    return await self._ours(reply.get("claims") or [], place)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_PAUSE):
                    await asyncio.Event().wait()
        self._screen.talk(f"job {number}: the daemon could not be reached before the lease ended")
        return None

    def _show(self, job: dict[str, Any]) -> None:
        try:
            if self._screen.as_json:
                self._screen.json(job)
            elif self._screen.quiet:
                self._screen.line(str(job["id"]))
            else:
                self._screen.line(brief(self._screen, job))
            flush()
        except BrokenPipeError:  # nobody reads on: as with other tools, this one has no more to do
            self._stop()
        except Unwritten as failure:
            silence(sys.stdout)  # what is under way is finished and may talk
            self._failure = failure
            self._stop()
