"""A job's output as it was written: read in pages, followed while it grows, followed on into the next attempt.

Offsets count bytes as the agent wrote them. What the daemon dropped from the middle is noted on stderr, so that
stdout stays the output alone.
"""

from __future__ import annotations

from opusctl.failure import NoDaemon, Refused
from opusctl.jobs import FINAL, queue_state, state
from opusctl.text import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.screen import Screen
    from opusctl.session import Session

PAGE = 256 * 1024
LONG_POLL = 30  # seconds that the daemon holds a call for output that is not there yet
LONG_POLL_PATIENCE = 60.0


class Output:
    """Writes pages of output: raw bytes to a file or pipe, made safe on a terminal, the replies under --json."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._ended_in_return = False  # "\r" ended the last page; a "\n" that follows belongs to it
        self._line_open = False

    def write(self, page: dict[str, Any]) -> None:
        if page.get("dropped"):
            self.close_line()
            self.screen.complain(f"[{size(page['dropped'])} of output are not kept]")
        if self.screen.as_json:
            self.screen.json(page)
        elif page["data"] and self.screen.terminal:
            self._show(page["data"])
        elif page["data"]:
            self.screen.raw(_bytes(page["data"]))

    def close_line(self) -> None:
        """End an unfinished line on a terminal, so that what is said next stands alone."""
        if self._line_open:
            self.screen.running_text("\n")
            self._line_open = False

    def _show(self, data: str) -> None:
        """A carriage return becomes a newline: it would overwrite, and progress bars stay readable."""
        if self._ended_in_return and data.startswith("\n"):
            data = data[1:]
        self._ended_in_return = data.endswith("\r")
        data = data.replace("\r\n", "\n").replace("\r", "\n")
        self.screen.running_text(data)
        self._line_open = not data.endswith("\n") if data else self._line_open


def _bytes(data: str) -> bytes:
    try:
        return data.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return data.encode("utf-8", "surrogatepass")


def read(session: Session, output: Output, job: int | str, attempt: int | None, offset: int) -> None:
    """Print what there is of one attempt's output from `offset` on, and end."""
    while True:
        page = session.call("job.logs", {"id": job, "attempt": attempt, "offset": offset, "limit": PAGE})
        if page["data"] or page.get("dropped") or session.screen.as_json:
            output.write(page)
        if page["eof"] or not (page["data"] or page.get("dropped")):
            return
        offset = page["next_offset"]


class Follower:
    """Prints a job's output until the job has ended, through retries, escalations and restarts of the daemon.

    `attempt` is the first one to print, from `offset` on. `only` ends it with that attempt.
    """

    def __init__(
        self, session: Session, output: Output, job: int, *, attempt: int = 1, offset: int = 0, only: bool = False
    ) -> None:
        self.session = session
        self.output = output
        self.job = job
        self.attempt = attempt
        self.offset = offset
        self.only = only
        self._said = ""

    def run(self) -> Job:
        """The job as it ended."""
        while True:
            try:
                return self._to_the_end()
            except (NoDaemon, Refused) as failure:
                self.session.come_back(failure)

    def _to_the_end(self) -> Job:
        self._subscribe()  # before the job is read: what happens after that is an event
        while True:
            job: Job = self.session.call("job.get", {"id": self.job})
            if job["attempts"] >= self.attempt:
                self._read_attempt()
                if self.only:
                    return job
            elif job.get("escalated_to"):
                self._say(job)
                self.job, self.attempt = job["escalated_to"], 1
                self._subscribe()
            elif job["status"] in FINAL:
                self.output.close_line()
                return job
            else:
                self._say(job)
                self._next_event()

    def _read_attempt(self) -> None:
        """Print the attempt's output to its end, then turn to the next attempt."""
        while True:
            asked = {"id": self.job, "attempt": self.attempt, "offset": self.offset, "limit": PAGE, "wait": LONG_POLL}
            try:
                page = self.session.call("job.logs", asked, patience=LONG_POLL_PATIENCE)
            except Refused as failure:
                if failure.word != "not_found":
                    raise
                if self._under_way():  # its output is not there yet, or a worker has it: look again when it ends
                    self._next_event()
                    continue
                break
            if page["offset"] < self.offset:
                self.output.close_line()
                self.output.screen.complain("[the agent began its output anew]")
            self.output.write(page)
            self.offset = page["next_offset"]
            if page["eof"]:
                break
        self.attempt += 1
        self.offset = 0

    def _under_way(self) -> bool:
        job = self.session.call("job.get", {"id": self.job})
        return job["status"] in ("running", "cancelling") and job["attempts"] == self.attempt

    def _subscribe(self) -> None:
        self.session.call("events.subscribe", {"jobs": [self.job]})

    def _next_event(self) -> None:
        for message in self.session.connection.notifications():
            if message["method"] == "event.lagged":
                self._subscribe()
                return
            event = message.get("params", {}).get("event", {})
            if event.get("kind") != "job.progress":
                return

    def _say(self, job: Job) -> None:
        """Why there is no output at the moment, when that changed."""
        if job["status"] in ("running", "cancelling"):
            return
        said = f"job {job['id']} {state(job)}"
        if said != self._said:
            self.output.close_line()
            place = queue_state(job) if not job.get("reason") else ""
            self.output.screen.talk(f"{said} ({place})" if place else said)
            self._said = said
