"""Workers of the command line: a crew claims jobs and runs one program for each, in as many threads as it has hands.

A program gets the Job as JSON on its standard input and the job's folder; its exit code decides. Its lease is renewed
while it runs; when it can't be, the program is ended before the lease is over, for then somebody else has the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time

from opusctl.failure import NoDaemon, Refused
from opusctl.jobs import brief
from opusctl.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.screen import Screen

POLL = 20.0  # seconds that a claim waits at the daemon before it is made again
RETRY = 1.0  # seconds between attempts to reach a daemon that is away
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
BEATS = 3  # heartbeats in the time of a lease
MARGIN = 0.1  # part of a lease before its end in which nothing of the job may run any more
TAIL = 2048  # bytes of output that become the summary
MOST_RESULT = 1 << 20
LOOK = 0.2  # seconds between looks at a program that prints nothing


class Crew:
    """`claim` holds the filters of worker.claim; `limit` is how many jobs are done in all, None: no end."""

    def __init__(
        self,
        screen: Screen,
        path: str,
        claim: dict[str, Any],
        argv: Sequence[str],
        *,
        lease: float,
        limit: int | None,
        until_idle: bool,
    ) -> None:
        self.screen = screen
        self.path = path
        self.lease = lease
        self.argv = list(argv)
        self.stopping = threading.Event()  # take no more
        self.ending = threading.Event()  # and give back what runs
        self._claim = {**claim, "lease": lease}
        self._left = limit
        self._until_idle = until_idle
        self._busy = 0
        self._lock = threading.Lock()
        self._idle: set[Connection] = set()

    def work(self, count: int) -> None:
        """Until there is no more to do, or it was told to stop and nothing runs any more."""
        hands = [threading.Thread(target=self._hand, name=f"hand {number}") for number in range(count)]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._told)
        for hand in hands:
            hand.start()
        for hand in hands:
            while hand.is_alive():
                hand.join(LOOK)

    def _told(self, number: int, frame: object) -> None:
        """The first signal: finish what runs, take no more. The second: end it and give it back."""
        if self.stopping.is_set():
            self.ending.set()
        else:
            self.screen.talk("finishing what runs; once more ends it and gives it back")
            self.stop()

    def stop(self) -> None:
        """Take no more jobs; whoever waits for one waits no longer."""
        self.stopping.set()
        for connection in list(self._idle):
            connection.interrupt()

    # --- one hand -----------------------------------------------------------------------------------

    def _hand(self) -> None:
        line = _Line(self.path)
        claims: list[dict[str, Any]] = []
        while claims or self._permitted():
            if not claims:
                claims = self._next(line)
            if claims:
                claims = self._do(line, claims[0])
        line.close()

    def _permitted(self) -> bool:
        """Whether one more job may be taken; it is counted as taken."""
        with self._lock:
            if self.stopping.is_set() or self._left == 0:
                return False
            self._left = None if self._left is None else self._left - 1
            self._busy += 1
            return True

    def _not_taken(self) -> None:
        with self._lock:
            self._left = None if self._left is None else self._left + 1
            self._busy -= 1
            if self._until_idle and not self._busy:
                self.stopping.set()

    def _next(self, line: _Line) -> list[dict[str, Any]]:
        """What a claim brings; nothing when there was none, or the daemon is away."""
        found: list[dict[str, Any]] = []
        try:
            connection = line.get()
            with self._lock:
                self._idle.add(connection)
            try:
                wait = 0 if self._until_idle else POLL
                found = connection.call("worker.claim", {**self._claim, "wait": wait}, None)["claims"]
            finally:
                with self._lock:
                    self._idle.discard(connection)
        except NoDaemon:
            line.close()
            if not self._until_idle:
                self.stopping.wait(RETRY)
        except Refused as refused:
            if not refused.retryable and refused.data.get("code") != "cancelled":
                self.screen.complain(f"opusctl: {refused.message}")
                self.stop()
            self.stopping.wait(RETRY)
        if not found:
            self._not_taken()
            if self._until_idle:
                self.stopping.wait(LOOK)
        return found

    def _do(self, line: _Line, claim: dict[str, Any]) -> list[dict[str, Any]]:
        """Run one job and report its end; the claims that came with the answer."""
        lease = _Lease(line, claim, self.lease)
        with tempfile.TemporaryDirectory(prefix="opus-") as folder:
            report = Run(self, lease, claim["job"], os.path.join(folder, "result.json")).to_the_end()
        with self._lock:
            self._busy -= 1
        if report is None:
            self.screen.complain(f"opusctl: the lease on job {claim['job']['id']} was lost: somebody else has it")
            return []
        method, params = report
        again = method != "worker.release" and not self._until_idle and self._permitted()
        if again:
            params["claim"] = self._claim
        reply = lease.tell(method, params)
        if reply is None:
            self.screen.complain(f"opusctl: the end of job {claim['job']['id']} could not be reported")
        else:
            self._say(reply.get("job", reply))
        claims: list[dict[str, Any]] = (reply or {}).get("claims", [])
        if again and not claims:
            self._not_taken()
        return claims

    def _say(self, job: Job) -> None:
        with self._lock:
            if self.screen.as_json:
                self.screen.json(job)
            elif self.screen.quiet:
                self.screen.line(str(job["id"]))
            else:
                self.screen.line(brief(self.screen, job))


class _Line:
    """A connection that is made when it is needed, and again when it was lost."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: Connection | None = None

    def get(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._path)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Lease:
    """The hold on one job: `until` is when it must be let go, in monotonic seconds."""

    def __init__(self, line: _Line, claim: dict[str, Any], seconds: float) -> None:
        self._line = line
        self._seconds = seconds
        self.ids = {"id": claim["job"]["id"], "token": claim["token"]}
        self.attempt = claim["attempt"]
        self.lost = False
        self.cancelled = False
        self._renewed(time.monotonic())

    def _renewed(self, at: float) -> None:
        self.until = at + self._seconds * (1 - MARGIN)
        self.beat_at = at + self._seconds / BEATS

    def keep(self) -> None:
        """Renew it when that is due. A daemon that is away is asked again, until the lease is over."""
        now = time.monotonic()
        if now >= self.until:
            self.lost = True
        if self.lost or now < self.beat_at:
            return
        try:
            told = self._line.get().call("worker.heartbeat", self.ids, max(0.1, self.until - now))
        except NoDaemon:
            self._line.close()
            self.beat_at = now + RETRY
        except Refused as refused:
            self.lost = refused.data.get("code") == "lease_lost"
            self.beat_at = now + RETRY
        else:
            self.cancelled = self.cancelled or told["cancel"]
            if self.cancelled:
                self.beat_at = now + self._seconds / BEATS
            else:
                self._renewed(now)

    def tell(self, method: str, params: dict[str, Any]) -> Any:
        """Report the end, to a daemon that may be away for a while; None when it could not be told in time."""
        while time.monotonic() < self.until:
            try:
                return self._line.get().call(method, {**self.ids, **params})
            except NoDaemon:
                self._line.close()
            except Refused as refused:
                if not refused.retryable:
                    return None
            time.sleep(min(RETRY, max(0.0, self.until - time.monotonic())))
        return None


class Run:
    """One program from its start to its end."""

    def __init__(self, crew: Crew, lease: _Lease, job: Job, result: str) -> None:
        self._crew = crew
        self._lease = lease
        self._job = job
        self._result = result
        self._tail = b""
        self._kill_at: float | None = None

    def to_the_end(self) -> tuple[str, dict[str, Any]] | None:
        """The call that reports how it ended; None when the lease was lost meanwhile."""
        try:
            process = self._start()
        except (OSError, ValueError) as error:
            words = f"can't start {self._crew.argv[0]}: {getattr(error, 'strerror', None) or error}"
            return "worker.fail", {"error": {"class": "config", "message": words}}
        assert process.stdout is not None
        with process:
            while process.poll() is None:
                self._listen(process, LOOK)
                self._lease.keep()
                self._steer(process)
            self._listen(process, 0.0)
            self._signal(process, signal.SIGKILL)  # what it left running in its group
            process.stdout.close()
        if self._lease.lost:
            return None
        if self._crew.ending.is_set() and process.returncode:
            return "worker.release", {}
        return self._report(process.returncode)

    def _start(self) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(self._job).encode())
            stdin.seek(0)
            return subprocess.Popen(
                self._crew.argv,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._job["cwd"],
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        """Our own, the job's, and what its program needs to speak for the job."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("OPUS")}
        number, attempt = self._job["id"], self._lease.attempt
        return {
            **own,
            **{name: _resolved(name, value) for name, value in (self._job.get("env") or {}).items()},
            "OPUSD_SOCKET": os.path.abspath(self._crew.path),
            "OPUS_JOB_ID": str(number),
            "OPUS_ATTEMPT": str(attempt),
            "OPUS_ATTEMPT_ID": f"{number}-{attempt}",  # tells whatever it starts from a person
            "OPUS_TOKEN": str(self._lease.ids["token"]),
            "OPUS_RESULT": self._result,
        }

    def _listen(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Take in what it prints, for so long at most; only the end is kept."""
        assert process.stdout is not None
        out, until = process.stdout.fileno(), time.monotonic() + seconds
        while select.select([out], [], [], max(0.0, until - time.monotonic()))[0]:
            data = os.read(out, 65536)
            if not data:
                if process.poll() is None:
                    time.sleep(min(LOOK, max(0.0, until - time.monotonic())))
                return
            self._tail = (self._tail + data)[-TAIL:]

    def _steer(self, process: subprocess.Popen[bytes]) -> None:
        now = time.monotonic()
        if self._lease.lost:
            self._signal(process, signal.SIGKILL)
        elif self._kill_at is None:
            if self._lease.cancelled or self._crew.ending.is_set():
                self._kill_at = min(now + GRACE, self._lease.until)
                self._signal(process, signal.SIGTERM)
        elif now >= self._kill_at:
            self._signal(process, signal.SIGKILL)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)

    def _report(self, code: int) -> tuple[str, dict[str, Any]]:
        summary = self._tail.decode("utf-8", "replace").strip()
        if code == 0:
            return "worker.complete", {"result": {"summary": summary, "data": self._data()}}
        how = f"exited with code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        last = summary.splitlines()[-1:] or [""]
        words = f"{how}: {last[0]}" if last[0] else how
        return "worker.fail", {"error": {"class": "agent_error", "message": words[:500]}}

    def _data(self) -> Any:
        """The JSON that it left in $OPUS_RESULT; nothing when it left none, or no JSON."""
        try:
            with open(self._result, "rb") as file:
                text = file.read(MOST_RESULT + 1)
            return json.loads(text) if len(text) <= MOST_RESULT else None
        except (OSError, ValueError):
            return None


def _resolved(name: str, value: Any) -> str:
    """A variable of the job: its text, that of one of ours, or a file's."""
    if isinstance(value, str):
        return value
    if "from_env" in value:
        if value["from_env"] not in os.environ:
            raise ValueError(f"{name}: there is no {value['from_env']} in the worker's environment")
        return os.environ[value["from_env"]]
    with open(value["from_file"], encoding="utf-8") as file:
        return file.read().removesuffix("\n")
