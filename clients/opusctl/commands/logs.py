"""`opusctl logs`: a job's output, as it was or as it comes."""

from __future__ import annotations

from opusctl.failure import INTERRUPTED, OK
from opusctl.jobs import state
from opusctl.output import PAGE, Follower, Output, read
from opusctl.parsing import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from opusctl.parsing import Parser
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    parser.add_argument("id", type=ref, metavar="ID", help="the job's id or key")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print what comes, until the job has ended; Ctrl-C detaches"
    )
    parser.add_argument("--attempt", type=int, metavar="N", help="the output of this attempt (default: the last)")
    parser.add_argument("--tail", type=int, metavar="BYTES", help="only the last BYTES bytes")
    parser.add_argument("-n", "--lines", type=int, metavar="LINES", help="only the last LINES lines")


def run(session: Session, args: Namespace) -> int:
    job = session.call("job.get", {"id": args.id})
    attempt = args.attempt or job["attempts"]
    output = Output(session.screen)
    offset = 0
    if attempt and (args.tail is not None or args.lines is not None):
        offset = _start(session, job["id"], attempt, args.tail, args.lines)
    if not args.follow:
        if not attempt:
            session.screen.talk(f"job {job['id']} was not started yet: {job.get('reason') or job['status']}")
            return OK
        read(session, output, job["id"], attempt, offset)
        output.close_line()
        return OK
    try:
        only = args.attempt is not None
        ended = Follower(session, output, job["id"], attempt=attempt or 1, offset=offset, only=only).run()
    except KeyboardInterrupt:
        output.close_line()
        session.screen.talk(f"detached; job {job['id']} goes on. Come back with: opusctl logs -f {job['id']}")
        return INTERRUPTED
    output.close_line()
    session.screen.talk(f"job {ended['id']} {state(ended)}")
    return OK


def _start(session: Session, job: int, attempt: int, tail: int | None, lines: int | None) -> int:
    """The offset at which the last bytes or lines begin."""
    end = _log_bytes(session, job, attempt)
    if tail is not None:
        return max(0, end - tail)
    wanted = lines or 0
    if wanted <= 0:
        return end
    start = end
    while start > 0:
        start = max(0, start - PAGE)
        text = b"".join(_between(session, job, attempt, start, end))
        breaks = [place for place, byte in enumerate(text[:-1]) if byte == 10]  # the last newline ends the last line
        if len(breaks) >= wanted:
            return start + breaks[-wanted] + 1
    return 0


def _between(session: Session, job: int, attempt: int, start: int, end: int) -> list[bytes]:
    """The bytes from start to end; what was dropped among them is there as NUL, so that offsets stay true."""
    found = []
    while start < end:
        page = session.call("job.logs", {"id": job, "attempt": attempt, "offset": start, "limit": PAGE})
        data = page["data"].encode("utf-8", "surrogatepass")
        found.append(bytes(max(0, page["next_offset"] - start - len(data))) + data)
        if page["next_offset"] <= start:
            break
        start = page["next_offset"]
    return found


def _log_bytes(session: Session, job: int, attempt: int) -> int:
    for row in session.call("job.history", {"id": job})["attempts"]:
        if row["attempt"] == attempt:
            return int(row.get("log_bytes") or 0)
    return 0
