"""Real work on a real daemon, with kill -9 in the middle: `make demo`.

The jobs count, index, audit, compile and test a copy of this repository's own sources. In the end there is a table of
what ran when, and a list of promises, each with its evidence; the exit status is 0 only if every promise held. All of
it happens in a scratch folder with a daemon of its own, and nothing is left behind (`--keep` leaves the folder).
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from typing import Any

import demo_proof as proof
import demo_work as work
from demo_stage import HERE, OTHERS, Stage, scratch_folder

Spec = dict[str, Any]

PACKAGES = {  # folder -> tier: the least urgent are submitted first
    "opusd/api": "low",
    "opusd/config": "low",
    "opusd/store": "low",
    "opusd/agents": "normal",
    "opusd/rpc": "normal",
    "opusd/core": "urgent",
}
STILL = {"blocked", "completed", "failed", "cancelled", "expired"}
"""States in which a job stays until somebody does something."""
TESTS = {
    "the order": ["tests/core/test_order.py", "tests/core/test_times.py", "tests/core/test_priority.py"],
    "opusctl": ["tests/opusctl/test_text.py", "tests/opusctl/test_parsing.py"],
}


def work_of(stage: Stage, title: str, *argv: str, tier: str = "normal", after: object = None) -> Spec:
    """A JobSpec of a command. Its key makes it safe to submit again."""
    return {
        "title": title,
        "key": title.replace(" ", "-"),
        "command": [sys.executable, str(HERE / "demo_work.py"), *argv],
        "cwd": str(stage.sources),
        "priority": tier,
        "depends_on": after or [],
    }


def first_three(stage: Stage) -> list[Spec]:
    """They fill the pool, and go on until something has happened that they are told of by a file."""
    return [
        work_of(stage, "index everything", "index", ".", "adopted"),
        work_of(stage, "audit", "audit", "opusd", "adopted"),
        work_of(stage, "index the clients", "index", "clients", "dead"),
    ]


def graph(stage: Stage, audit: int) -> list[Spec]:
    """The jobs that wait behind the first three, in the wrong order on purpose."""
    counts = [work_of(stage, f"count {folder}", "count", folder, tier=tier) for folder, tier in PACKAGES.items()]
    compiled = work_of(stage, "compile opusd", "compile", "opusd", tier="low")
    tests = [
        work_of(
            stage,
            f"test {what}",
            "test",
            *paths,
            tier="urgent" if what == "the order" else "normal",
            after=["compile-opusd"],
        )
        for what, paths in TESTS.items()
    ]
    parts = [job["key"] for job in (*counts, compiled, *tests)]
    why = {"title": "say why the audit failed", "key": "why", "cwd": str(stage.sources), "priority": "urgent"}
    return [
        *counts,
        compiled,
        work_of(stage, "report", "report", tier="low", after=parts),
        *tests,
        work_of(stage, "publish", "count", "examples", after=["audit"]),
        {**why, "prompt": f"Why did job {audit} fail?", "depends_on": [{"job": "audit", "on": "failure"}]},
    ]


# ------------------------------------------------------------------------------------------------------ the story


def tell(stage: Stage) -> proof.Story:
    """All of it; the story as the registry and the jobs themselves have it in the end."""
    (stage.scratch / "limit").write_text("100\n")
    stage.start()
    specs = first_three(stage)
    jobs = submit(stage, specs)
    stage.until("the first three run", lambda: len(stage.runs()) == 3)
    rest = graph(stage, audit=jobs[1])
    jobs += submit(stage, rest)
    stage.say(f"three jobs fill the pool of a daemon; {len(rest)} more wait, the least urgent submitted first")
    stage.opusctl("status")
    ask(stage)
    crash(stage, specs + rest, jobs)
    stage.until("all is over but what waits for the audit", lambda: states(stage) <= STILL)
    mend(stage)
    return collect(stage)


def submit(stage: Stage, specs: list[Spec]) -> list[int]:
    return [one["job"]["id"] for one in stage.call("job.submit_batch", jobs=specs)["jobs"]]


def states(stage: Stage) -> set[str]:
    return {job["status"] for job in stage.call("job.list", limit=1000)["jobs"]}


def ask(stage: Stage) -> None:
    stage.say("a person asks something: an interactive job has a slot above those of the pool")
    question = "Where does rank_key live?"
    code = stage.opusctl("submit", "--interactive", "--key", "message", "--follow", "-p", question)
    busy = sum(run.end is None for run in stage.runs())
    job = stage.call("job.get", id="message")
    waited = proof.seconds(job["started_at"]) - proof.seconds(job["created_at"])
    stage.promise(
        "a person's message starts at once in a full pool",
        code == 0 and waited < 0.5 and busy == proof.POOL and "rank_key is at" in job["result"]["summary"],
        f"after {waited * 1000:.1f} ms, with {busy} others running",
    )


def crash(stage: Stage, specs: list[Spec], jobs: list[int]) -> None:
    """SIGKILL in the instant after a submission was acknowledged; one agent ends while there is no daemon."""
    before = {run.job: run for run in stage.runs() if run.job in jobs[:3]}
    last = work_of(stage, "count tests", "count", "tests", tier="critical")
    critical = stage.call("job.submit", **last)["job"]["id"]
    stage.kill()
    stage.say("kill -9, in the instant after one more submission, a critical one, was acknowledged")
    stage.opusctl("list")
    alive = [job for job, run in before.items() if work.process_start(run.pid) == run.born]
    stage.open_gate("dead")
    alone = before[jobs[2]]
    stage.until("one agent ends alone", lambda: work.process_start(alone.pid) != alone.born)
    stage.say("the agents worked on, one of them is done. The daemon is started again")
    stage.restart()
    known = {job["id"]: job for job in stage.call("job.list", limit=1000)["jobs"]}
    again = stage.call("job.submit_batch", jobs=[*specs, last])["jobs"]
    stage.opusctl("status")
    same = [
        run
        for job in jobs[:2]
        if (run := before[job])
        and (known[job]["status"], known[job]["attempts"]) == ("running", 1)
        and work.process_start(run.pid) == run.born
    ]
    stage.open_gate("adopted")

    lost = [job for job in (*jobs, critical) if job not in known]
    stage.promise(
        "kill -9 loses no acknowledged job", not lost, f"lost: {lost}" if lost else f"{len(jobs) + 1} jobs are there"
    )
    stage.promise(
        "a key that is submitted again changes nothing",
        [one["job"]["id"] for one in again] == [*jobs, critical] and not any(one["created"] for one in again),
        f"{len(again)} keys, {sum(one['created'] for one in again)} jobs made anew",
    )
    stage.promise(
        "agents outlive the daemon, and are adopted",
        len(alive) == 3 and len(same) == 2,
        ", ".join(f"job {run.job} is process {run.pid} still, attempt 1" for run in same) or "none was",
    )
    whole(stage, *jobs[:3])


def whole(stage: Stage, index: int, audit: int, alone: int) -> None:
    """What adopted agents, and the one that ended while there was no daemon, have left: output, results, exit codes."""
    stage.call("job.wait", ids=[index, audit, alone], timeout=20)
    evidence, sound = [], True
    for job in (index, alone):
        kept = output_of(stage, job)
        told = ((stage.call("job.get", id=job)["result"] or {}).get("data") or {}).get("sha256")
        dead = [line for line in kept.splitlines() if stage.down[0] < float(line.split()[1]) < stage.down[1]]
        sound = sound and hashlib.sha256(kept).hexdigest() == told and len(dead) > 0
        evidence.append(f"job {job}: {len(kept.splitlines())} lines, {len(dead)} of them without a daemon")
    stage.promise("no output is missing, by its hash", sound, "; ".join(evidence))
    failed, done = (stage.call("job.get", id=job) for job in (audit, alone))
    code = (failed["error"] or {}).get("exit_code")
    stage.promise(
        "exit codes are kept",
        (failed["status"], code, done["status"], done["attempts"]) == ("failed", 42, "completed", 1),
        f"job {audit} ended with {code}; job {alone}, over before the restart, is {done['status']}",
    )


def output_of(stage: Stage, job: int) -> bytes:
    parts, offset = [], 0
    while True:
        page = stage.call("job.logs", id=job, offset=offset, limit=512 * 1024)
        parts.append(page["data"].encode())
        if page["eof"] or page["next_offset"] == offset:
            return b"".join(parts)
        offset = page["next_offset"]


def mend(stage: Stage) -> None:
    """What waits for the failed audit is blocked with a reason, and goes on when the audit is well."""
    stage.say("all is done but what waits for the audit, which found modules that are too long and failed")
    stage.opusctl("why", "publish")
    audit, publish, why = (stage.call("job.get", id=key) for key in ("audit", "publish", "why"))
    stage.promise(
        "what waits for a failed job is blocked, and says why",
        publish["status"] == "blocked" and f"job {audit['id']} " in publish["reason"],
        publish["reason"] or "no reason",
    )
    answer = (why["result"] or {}).get("summary", "").strip()
    stage.promise("what waits for a failure runs then", "longer than 100 lines" in answer, answer or why["status"])
    (stage.scratch / "limit").write_text("100000\n")
    stage.opusctl("retry", "audit")
    code = stage.opusctl("wait", "audit", "publish")
    done = states(stage) == {"completed"}
    words = f"opusctl wait ended with {code}, {'all jobs are completed' if done else 'not all jobs are completed'}"
    stage.promise("after a retry it goes on", code == 0 and done, words)


def collect(stage: Stage) -> proof.Story:
    jobs = {job["id"]: job for job in stage.call("job.list", limit=1000, full=True)["jobs"]}
    events = [event for job in jobs for event in stage.call("job.history", id=job)["events"]]
    told = next(((job["result"] or {}).get("data") or {} for job in jobs.values() if job["key"] == "report"), {})
    lines = sum(work.lines_of(path) for folder in PACKAGES for path in work.sources(str(stage.sources / folder)))
    stage.promise(
        "a job reads the results of those it waits for",
        told.get("lines") == lines and told.get("passed", 0) > 0 and told.get("compiled", 0) > 0,
        f"{told.get('lines')} lines, {told.get('compiled')} files compiled, {told.get('passed')} tests passed",
    )
    return proof.Story(jobs, sorted(events, key=lambda event: event["cursor"]), stage.runs(), stage.down)


def main() -> int:
    if any(name.startswith(OTHERS) for name in os.environ):  # else our daemon takes us for another one's agent
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        os.execve(sys.executable, [sys.executable, *sys.argv], clean)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with scratch_folder(keep="--keep" in sys.argv[1:]) as scratch:
        stage = Stage(scratch)
        try:
            story = tell(stage)
            print("", *proof.chart(story), "", sep="\n")
            stage.promises += proof.judge(story)
        except KeyboardInterrupt:
            stage.promise("the story comes to its end", held=False, evidence="interrupted")
        except Exception as error:  # noqa: BLE001 - whatever broke the story is told, and everything ended
            stage.promise("the story comes to its end", held=False, evidence=f"{type(error).__name__}: {error}")
            print((scratch / "daemon.log").read_text()[-2000:])
        finally:
            status, left = stage.clear()
    gone = status == 0 and left == 0 and not scratch.exists()
    if "--keep" not in sys.argv[1:]:
        stage.promise("the daemon stops in order, nothing is left", gone, f"exit {status}, {left} processes left")
    took = time.monotonic() - stage.begin
    stage.promise("all of it in under a minute", took < 60, f"{took:.1f} s")
    for promise in stage.promises:
        print(f"{'ok    ' if promise.held else 'BROKEN'}  {promise.text}\n            {promise.evidence}")
    broken = sum(not promise.held for promise in stage.promises)
    print(f"\n{len(stage.promises) - broken} promises held, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
