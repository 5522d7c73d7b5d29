"""`opusctl submit`: gives the daemon a job, a file of jobs or a schedule; stays for the end if asked to."""

from __future__ import annotations

from opusctl.entering import add_job_options, check_job, specs
from opusctl.failure import FAILED, INTERRUPTED, OK, Failure, Unwritten, UsageError
from opusctl.jobfile import batches
from opusctl.jobs import code_of, queue_state, state
from opusctl.parsing import duration
from opusctl.schedules import add, add_calendar_options, refuse_calendar_options
from opusctl.screen import flush
from opusctl.text import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser
    from opusctl.screen import Screen
    from opusctl.session import Session
    from opusctl.spec import Spec

TAKES_COMMAND = True  # what follows `--` is not parsed but kept

SEE = "see opusctl submit --help"
EXAMPLES = """\
examples:
  opusctl submit -p 'Fix the flaky test in tests/api' --agent claude --priority urgent
  opusctl submit --wait -- make -j4 test
  git diff | opusctl submit -p - --type review --follow
  opusctl submit --depends-on 12 --depends-on lint:any -- ./deploy.sh
  opusctl submit --depends-on 12:failure -p 'Say why job 12 failed'
  opusctl submit --delay 2h --need repo:$PWD --key nightly -- make clean all
  opusctl submit --cron '0 3 * * *' --name nightly -- make clean all
  opusctl submit --file jobs.jsonl --group nightly
  opusctl submit --like 12 --priority low"""


def arguments(parser: Parser) -> None:
    parser.usage = "opusctl submit [OPTIONS] (-p PROMPT | --file FILE | --like ID | -- ARGV...)"
    parser.epilog = EXAMPLES
    add_job_options(parser)
    add_calendar_options(parser, named=True)
    stay = parser.add_argument_group("staying for the end")
    stay.add_argument("-w", "--wait", action="store_true", help="until it has ended: exit 0 when it completed, else 1")
    stay.add_argument(
        "-f", "--follow", action="store_true", help="the same, and print its output as it comes; with -q the id alone"
    )
    stay.add_argument("--wait-timeout", type=duration, metavar="DURATION", help="wait no longer than this: exit 124")


def run(session: Session, args: Namespace) -> int:
    _check(args)
    if args.cron is not None:
        return add(session, args, args.name, SEE)
    entries, single = specs(session, args, SEE)
    if args.follow and len(entries) > 1:
        raise UsageError("--follow follows one job; the file has several", hint="use --wait")
    ids_alone = session.screen.quiet and not session.screen.as_json
    follow = args.follow and not ids_alone
    jobs = [_submit_one(session, entries[0], follow=follow)] if single else _submit_many(session, entries)
    if follow:
        return _follow(session, jobs[0])
    if args.wait or args.follow or args.wait_timeout is not None:
        from opusctl.waiting import wait_for

        return wait_for(session, [job["id"] for job in jobs], timeout=args.wait_timeout, show=not ids_alone)
    return OK


def _check(args: Namespace) -> None:
    """Refuse what does not go together before anything is sent."""
    if args.cron is None:
        refuse_calendar_options(args, "--cron", SEE)
    elif args.wait or args.follow or args.wait_timeout is not None:
        raise UsageError("--cron submits nothing now: there is no job to stay for", hint=SEE)
    if args.wait_timeout is not None and args.follow:
        raise UsageError("--wait-timeout goes with --wait, not with --follow", hint=SEE)
    check_job(args, SEE)


def _submit_one(session: Session, spec: Spec, *, follow: bool) -> Job:
    """Under --follow stdout is the job's output alone: the id is talk then."""
    reply = session.call("job.submit", spec)
    screen = session.screen
    job: Job = reply["job"]
    try:
        if screen.as_json:
            screen.json(reply)
        elif not follow:
            screen.line(str(job["id"]))
            flush()
    except Unwritten as failure:
        failure.hint = f"job {job['id']} is submitted all the same"
        raise
    if not screen.as_json:
        _talk(session, reply)
    return job


def _submit_many(session: Session, entries: list[Spec]) -> list[Job]:
    """Each batch is all or none; a later one that is refused does not take the earlier ones back."""
    screen = session.screen
    parts = list(batches(entries))
    if len(parts) > 1:
        screen.talk(f"{plural(len(entries), 'job')} go in {len(parts)} batches, each of them whole or not at all")
    jobs: list[Job] = []
    known = 0
    for part in parts:
        try:
            reply = session.call("job.submit_batch", {"jobs": part}, patience=120.0)
        except Failure as failure:
            _locate(failure, len(jobs))
            if jobs:
                screen.complain(
                    f"opusctl: the first {plural(len(jobs), 'job')} of the file are submitted, the others not"
                )
            raise
        jobs += [one["job"] for one in reply["jobs"]]
        known += sum(not one["created"] for one in reply["jobs"])
        try:
            _show_many(screen, reply)
        except Unwritten as failure:
            ids = f"{jobs[0]['id']} to {jobs[-1]['id']}"
            failure.hint = f"{plural(len(jobs), 'job')} are submitted all the same: {ids}"
            raise
    there = f"; {known:,} of the keys were known already, nothing was changed for them" if known else ""
    screen.talk(f"submitted {plural(len(jobs) - known, 'job')}{there}")
    return jobs


def _show_many(screen: Screen, reply: dict[str, Any]) -> None:
    if screen.as_json:
        screen.json(reply)
        return
    for one in reply["jobs"]:
        screen.line(str(one["job"]["id"]))
    flush()


def _locate(failure: Failure, before: int) -> None:
    """Name the entry that was refused as the file counts it."""
    index = failure.data.get("index")
    if isinstance(index, int):
        failure.data["index"] = index + before
        failure.message = f"job {index + before + 1} of the file: {failure.message}"


def _talk(session: Session, reply: dict[str, Any]) -> None:
    job = reply["job"]
    if not reply["created"]:
        session.screen.talk(f"job {job['id']} has this key already; nothing was changed. It {state(job)}")
        return
    place = queue_state(job) if job.get("ahead") or not job.get("reason") else ""
    reason = job.get("reason") if job["status"] == "queued" else f"it {state(job)}"
    words = "; ".join(word for word in (reason, place) if word)
    session.screen.talk(f"submitted job {job['id']} to {job.get('agent')}: {words}")


def _follow(session: Session, job: Job) -> int:
    from opusctl.output import Follower, Output

    output = Output(session.screen)
    try:
        ended = Follower(session, output, job["id"], attempt=1).run()
        if session.screen.as_json:
            session.screen.json(ended)
        session.screen.talk(f"job {ended['id']} {state(ended)}")
    except KeyboardInterrupt:
        output.close_line()
        session.screen.talk(f"detached; job {job['id']} goes on. Come back with: opusctl logs -f {job['id']}")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    return code_of([ended])
