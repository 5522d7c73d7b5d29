"""What is asked of a daemon while it is struck, and what it answered: the account that it is held to afterwards.

One script: submissions of every kind, agents that run, fail and are ended, a worker, retries, cancels, holds, a pause,
an update, a schedule and a prune. Whatever a reply said, and every event that was delivered, goes into the account; so
does what was refused. A call without an answer may have been done or not. Steps whose ground is missing are left out.
"""

import asyncio
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from opus_client import AsyncClient, ConnectionLost, RpcError

STORAGE = -32009
PATIENCE = 6.0
CONFIG = """\
max_concurrent = 4
[retention]
every = "1h"
"""
SCHEDULE = "tick"
MUST_COMPLETE = ("plain", "after", "again", "keyless", "later", "soon", "paused", "b1", "b2", "b3", "b4", "b5")
"""Of these keys nobody cancels the jobs, and their work succeeds in the end."""
LONG = ("long", "stopped")
"""These sleep until somebody ends them."""


@dataclass(eq=False)
class Call:
    """A call: with its reply, with its refusal, or without an answer."""

    method: str
    params: dict[str, Any]
    reply: Any = None
    error: RpcError | None = None
    answered: bool = False


@dataclass
class Account:
    calls: list[Call] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)  # by token, those not given back
    finished: bool = False  # the script came to its end

    def answered(self, *methods):
        return [call for call in self.calls if call.answered and (not methods or call.method in methods)]

    def unanswered(self):
        return [call for call in self.calls if not call.answered and call.error is None]

    def refused(self):
        return [call for call in self.calls if call.error is not None and call.error.code == STORAGE]

    def jobs(self):
        """Every Job of every reply, in the order of the replies."""
        return [job for call in self.answered() for job in _jobs_in(call.reply)]


def _jobs_in(reply):
    if isinstance(reply, dict):
        if {"id", "version", "status"} <= reply.keys():
            yield reply
        else:
            for value in reply.values():
                yield from _jobs_in(value)
    elif isinstance(reply, list):
        for value in reply:
            yield from _jobs_in(value)


def agent(work, body="true", code="0"):
    """argv of an agent that notes its beginning and its end, and notices another attempt of its job beside it.

    By 75, for what is being ended may end flock first.
    """
    line = "$OPUS_JOB_ID $OPUS_ATTEMPT"
    marks, lock = shlex.quote(f"{work}/marks"), f"{shlex.quote(str(work))}/lock.$OPUS_JOB_ID"
    script = (
        f"exec 9>>{lock}; flock -n -E 75 9 || [ $? != 75 ] || echo overlap {line} >>{marks}; "
        f"echo start {line} >>{marks}; {body}; code={code}; echo end {line} $code >>{marks}; exit $code"
    )
    return ["sh", "-c", script]


class Script:
    """`patient`: what is refused for the disk's sake is asked again, for the disk gets well."""

    def __init__(self, client, work, account, *, patient):
        self.client, self.work, self.account, self.patient = client, work, account, patient

    async def call(self, method, /, **params):
        """The reply, or None when it was refused; ConnectionLost when there is no daemon any more."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            call = Call(method, params)
            self.account.calls.append(call)
            try:
                call.reply = await self.client.call(method, **params)
            except RpcError as error:
                call.error = error
                if error.code == STORAGE and self.patient and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.05)
                    continue
                return None
            call.answered = True
            return call.reply

    async def submit(self, key, *, body="true", code="0", **fields):
        fields = {"cwd": str(self.work), "command": agent(self.work, body, code), **fields}
        if key is not None:
            fields["key"] = key
        reply = await self.call("job.submit", **fields)
        return reply and reply["job"]["id"]

    async def on(self, job, method, **params):
        """A call about a job, if there is one."""
        return await self.call(method, id=job, **params) if job else None

    async def started(self, job):
        await self.call("job.wait", ids=[job], until="started", timeout=2 if self.patient else 0.3)

    async def run(self):
        await self.submissions()
        await self.pulled()
        await self.ended()
        await self.steered()
        await self.tidied()
        self.account.finished = True

    async def submissions(self):
        held = [self.submit(f"h{number}", held=True, title=f"held {number}") for number in range(3)]
        plain, *_ = await asyncio.gather(self.submit("plain", body="sleep 0.02"), *held)
        await asyncio.gather(
            self.submit("after", depends_on=["plain"] if plain else []),
            self.submit("again", code="$((OPUS_ATTEMPT < 2))", retry={"strategy": "immediate", "max_retries": 2}),
            self.submit(None, title="keyless", group="keyless"),
            self.submit("later", delay=0.1),
        )
        pull = [{"agent": "pull", "prompt": f"pull {number}", "key": f"b{number}"} for number in (1, 2, 3, 4)]
        pull.append({"command": agent(self.work), "cwd": str(self.work), "key": "b5", "depends_on": ["b1"]})
        await self.call("job.submit_batch", jobs=pull)

    async def claim(self, method="worker.claim", /, **params):
        reply = await self.call(method, **params)
        for claim in reply["claims"] if reply else ():
            self.account.claims[claim["token"]] = claim
        return reply["claims"] if reply else []

    async def pulled(self):
        """A worker takes, completes and takes the next, fails, gives back, and completes."""
        taking = {"worker": "w", "agents": ["pull"], "lease": 2}
        done = "worker.complete"
        for claim in await self.claim(**taking):
            given = {"id": claim["job"]["id"], "token": claim["token"]}
            await self.call("worker.heartbeat", **given, lease=2)
            more = await self.claim(done, **given, result={"by": "w"}, claim={**taking, "count": 2})
            for one in more[:1]:
                await self.call("worker.release", id=one["job"]["id"], token=one["token"])
            for one in more[1:]:
                await self.call(done, id=one["job"]["id"], token=one["token"], result="second")
        for claim in await self.claim(**taking):
            await self.call(done, id=claim["job"]["id"], token=claim["token"])

    async def ended(self):
        """Agents that people end, that fail, and that are retried."""
        long, stopped = await asyncio.gather(
            self.submit("long", body="exec sleep 60"), self.submit("stopped", body="exec sleep 60")
        )
        fails = await self.submit("fails", code="3")
        for job in (long, stopped):
            if job:
                await self.started(job)
        await self.on(long, "job.cancel", grace=0, reason="enough")
        await self.on(stopped, "job.hold", stop=True)
        await self.finished(fails, long)
        if fails:
            await self.call("job.retry", ids=[fails])

    async def finished(self, *jobs):
        if all(jobs):
            await self.call("job.wait", ids=list(jobs), timeout=3 if self.patient else 0.3)

    async def steered(self):
        await self.call("queue.pause")
        paused = await self.submit("paused", priority="urgent")
        job = await self.call("job.get", id="h1")
        if job:
            await self.call("job.update", id="h1", version=job["version"], title="renamed", priority="low")
        await self.call("queue.resume")
        await asyncio.gather(
            self.call("job.release", id="h0"), self.call("job.hold", id="h2"), self.call("job.cancel", id="h1")
        )
        added = await self.call(
            "schedule.add", name="nightly", cron="0 0 29 2 *", job={"command": agent(self.work), "cwd": str(self.work)}
        )
        if added:
            await self.call("schedule.run", name="nightly")
            await self.call("schedule.remove", name="nightly")
        await self.finished(paused)

    async def tidied(self):
        await self.submit("plain", body="sleep 0.02")  # the same again: nothing new
        soon = await self.submit("soon")
        long = await self.call("job.get", id="long")
        if long and long["status"] == "cancelled":
            await self.call("job.prune", ids=[long["id"]])
        await self.finished(soon)
        await self.call("queue.status")
        await self.call("job.list", limit=1000)


async def perform(socket, work, account, *, patient=True):
    """The script, with an ear for events, until its end or the daemon's."""
    with suppress(OSError, ConnectionLost):
        async with AsyncClient(socket) as client:
            ear = await client.subscribe(since=0)

            async def listen():
                with suppress(ConnectionLost):
                    async for event in ear:
                        account.events.append(event)

            listening = asyncio.create_task(listen())
            try:
                with suppress(ConnectionLost):
                    await Script(client, work, account, patient=patient).run()
            finally:
                listening.cancel()
                await asyncio.wait([listening])
