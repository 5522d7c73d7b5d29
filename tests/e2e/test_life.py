"""One job from its submission to its end, as a client sees it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_a_job_runs_and_gives_its_output_and_its_exit_code(commons):
    job = commons.sh("echo hello; pwd")
    assert (job["status"], job["agent"], job["source"], job["title"]) == (
        "queued",
        "exec",
        "user",
        "sh -c echo hello; pwd",
    )
    done = commons.ended(job)
    assert (done["status"], done["attempts"], done["error"]) == ("completed", 1, None)
    assert done["result"] == {"summary": f"hello\n{commons.work}", "data": None}
    assert commons.logs(job) == f"hello\n{commons.work}\n"
    history = commons("job.history", id=job["id"])
    assert [event["kind"] for event in history["events"]] == ["job.submitted", "job.started", "job.completed"]
    assert [event["actor"] for event in history["events"]] == [f"user:{os.getuid()}", "scheduler", "scheduler"]
    (attempt,) = history["attempts"]
    assert (attempt["attempt"], attempt["exit_code"], attempt["class"]) == (1, 0, None)
    assert attempt["log_bytes"] == len(f"hello\n{commons.work}\n")


def test_what_the_agent_writes_to_opus_result_is_the_results_data(commons):
    job = commons.sh("""echo '{"answer": [1, 2.5, "drei"]}' > "$OPUS_RESULT"; echo done""")
    assert commons.ended(job)["result"] == {"summary": "done", "data": {"answer": [1, 2.5, "drei"]}}


def test_a_result_that_is_no_json_is_ignored_and_the_event_says_so(commons):
    job = commons.sh("echo nonsense > $OPUS_RESULT")
    assert commons.ended(job)["result"]["data"] is None
    last = commons("job.history", id=job["id"])["events"][-1]
    assert last["kind"] == "job.completed"
    assert "result_ignored" in last["detail"]


def test_a_failing_command_fails_with_its_exit_code(commons):
    done = commons.ended(commons.sh("echo oh no; exit 3"))
    assert done["status"] == "failed"
    assert (done["error"]["class"], done["error"]["exit_code"], done["error"]["signal"]) == ("agent_error", 3, None)
    assert "3" in done["reason"]


def test_exit_code_137_is_not_taken_for_a_signal_nor_a_signal_for_an_exit_code(commons):
    code, killed = commons.ended(commons.sh("exit 137"), commons.sh("kill -KILL $$"))
    assert (code["error"]["exit_code"], code["error"]["signal"]) == (137, None)
    assert (killed["error"]["exit_code"], killed["error"]["signal"]) == (None, 9)


def test_a_job_past_its_timeout_is_ended_while_it_is_running(commons):
    job = commons.sh("sleep 60", timeout=0.3)
    done = commons.ended(job)
    assert (done["status"], done["error"]["class"]) == ("failed", "timeout")
    kinds = [event["to"] for event in commons("job.history", id=job["id"])["events"]]
    assert "cancelling" not in kinds


def test_a_job_that_is_retried_runs_again_after_its_backoff(commons):
    job = commons.sh("test $OPUS_ATTEMPT = 3 && echo third", retry={"strategy": "immediate"}, max_retries=4)
    done = commons.ended(job)
    assert (done["status"], done["attempts"], done["retries"]) == ("completed", 3, 2)
    attempts = commons("job.history", id=job["id"])["attempts"]
    assert [attempt["class"] for attempt in attempts] == ["agent_error", "agent_error", None]


def test_a_job_that_backs_off_says_so_and_a_person_sends_it_on_at_once(commons):
    job = commons.sh("test $OPUS_ATTEMPT = 2", retry={"strategy": "linear", "base": "1h", "cap": "2h"}, max_retries=1)
    backing = commons.until(lambda: (one := commons.get(job))["status"] == "retrying" and one)
    assert "retry 1 of 1" in backing["reason"]
    assert backing["due_at"] is not None
    (again,) = commons("job.retry", ids=[job["id"]])["jobs"]
    assert again["status"] == "queued"
    assert (done := commons.ended(job))["status"] == "completed"
    assert done["retries"] == 0


def test_a_cancelled_tree_of_grandchildren_that_ignore_term_is_gone_after_the_grace(commons):
    program = """
import os, signal, sys, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(1, b"%d\\n" % os.getpid())
                time.sleep(600)
        time.sleep(600)
os.write(1, b"%d\\n" % os.getpid())
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
    job = commons.python(program)
    commons.begun(job)
    seen = ""
    while seen.count("\n") < 10:
        chunk = commons("job.logs", id=job["id"], offset=len(seen), wait=10)
        seen += chunk["data"]
    pids = [int(line) for line in seen.split()]
    answer = commons("job.cancel", id=job["id"], grace=30, reason="enough")
    assert answer["status"] == "cancelling"
    assert commons("job.cancel", id=job["id"], grace=60)["version"] == answer["version"]  # it can't be lengthened
    started = time.monotonic()
    commons("job.cancel", id=job["id"], grace=0.2)
    done = commons.ended(job)
    assert (done["status"], done["error"]["class"]) == ("cancelled", "cancelled")
    assert time.monotonic() - started < 10
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    events = commons("job.history", id=job["id"])["events"]
    assert [event["kind"] for event in events][-3:] == ["job.cancelling", "job.cancelling", "job.cancelled"]
    assert events[-1]["actor"] == f"user:{os.getuid()}"
    assert events[-1]["detail"]["reason"] == "enough"


def test_an_agent_that_ends_well_when_it_is_cancelled_is_cancelled_all_the_same(commons):
    job = commons.sh("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    commons.output(job, "ready")
    commons("job.cancel", id=job["id"])
    assert commons.ended(job)["status"] == "cancelled"


def test_cancelling_what_does_not_run_is_over_at_once_and_done_twice_changes_nothing(commons):
    job = commons.submit("true", held=True)
    gone = commons("job.cancel", id=job["id"])
    assert gone["status"] == "cancelled"
    assert commons("job.cancel", id=job["id"])["version"] == gone["version"]
    assert commons.refused("job.hold", id=job["id"]).data["code"] == "conflict"


def test_what_has_completed_can_neither_be_cancelled_nor_held_nor_released_nor_retried(commons):
    job = commons.ended(commons.submit("true"))
    for method in ("job.cancel", "job.hold", "job.release"):
        assert commons.refused(method, id=job["id"]).code == -32002
    assert commons.refused("job.retry", ids=[job["id"]]).code == -32002
    assert commons.get(job)["version"] == job["version"]


def test_hold_with_stop_ends_the_attempt_at_no_cost_and_release_runs_it_again(commons):
    gate = commons.gate("stopped")
    job = commons.sh(f"echo begun; {gate.wait}", max_retries=0)
    commons.output(job, "begun")
    assert commons.refused("job.hold", id=job["id"]).code == -32002
    stopping = commons("job.hold", id=job["id"], stop=True)
    assert stopping["status"] == "cancelling"
    held = commons.until(lambda: (one := commons.get(job))["status"] == "held" and one)
    assert (held["retries"], held["held"], held["queued_at"]) == (0, True, None)
    assert held["reason"]
    assert commons("job.hold", id=job["id"])["version"] == held["version"]
    commons("job.release", id=job["id"])
    gate.open()
    assert (done := commons.ended(job))["status"] == "completed"
    assert done["attempts"] == 2
    gate.close()


def test_a_cancelled_job_is_retried_by_a_person_with_its_id_and_key(commons):
    job = commons.submit("true", held=True, key="again-please")
    commons("job.cancel", id="again-please")
    (again,) = commons("job.retry", ids=["again-please"])["jobs"]
    assert again["id"] == job["id"]
    assert commons.ended(job)["status"] == "completed"


def test_progress_is_shown_while_it_runs_and_gone_afterwards(commons):
    gate = commons.gate("progress")
    beat = (
        "import json, os, socket; s = socket.socket(socket.AF_UNIX); s.connect(os.environ['OPUSD_SOCKET'])\n"
        "call = dict(jsonrpc='2.0', id=1, method='worker.heartbeat', params=dict(id=int(os.environ['OPUS_JOB_ID']),"
        " token=os.environ['OPUS_TOKEN'], progress=dict(fraction=0.5, message='half')))\n"
        "s.sendall(json.dumps(call).encode() + b'\\n'); print(s.recv(10000), flush=True)\n"
        f"open({str(gate)!r}).readline()"
    )
    job = commons.python(beat)
    commons.output(job, "cancel")
    assert commons.get(job)["progress"] == {"fraction": 0.5, "message": "half"}
    assert commons("queue.status")["running"][0]["progress"]["message"] == "half"
    gate.open()
    assert commons.ended(job)["progress"] is None
    gate.close()


def test_a_wrong_token_reports_nothing(commons):
    job = commons.submit("sleep", "60")
    commons.begun(job)
    assert commons.refused("worker.heartbeat", id=job["id"], token="0" * 32).code == -32007


def test_output_is_read_by_offset_and_its_end_is_told(commons):
    job = commons.sh("printf 'abc\\303\\244def'")
    commons.ended(job)
    first = commons("job.logs", id=job["id"], limit=4)
    assert (first["data"], first["next_offset"], first["eof"]) == ("abc", 3, False)
    rest = commons("job.logs", id=job["id"], offset=3)
    assert (rest["data"], rest["offset"], rest["next_offset"], rest["eof"]) == ("ädef", 3, 8, True)
    assert commons.refused("job.logs", id=job["id"], attempt=2).code == -32001


def test_reading_the_output_of_a_job_that_waits_its_turn_waits_until_there_is_some(commons):
    job = commons.submit("echo", "at last", held=True)
    at_once = commons("job.logs", id=job["id"])
    assert (at_once["data"], at_once["eof"]) == ("", False)
    started = time.monotonic()
    assert commons("job.logs", id=job["id"], wait=0.3)["data"] == ""
    assert time.monotonic() - started >= 0.25
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(commons.client().call, "job.logs", id=job["id"], wait=10)
        commons("job.release", id=job["id"])
        assert reading.result(10)["data"] == "at last\n"


def test_opusctl_submits_waits_and_shows(commons):
    def opusctl(*words):
        return subprocess.run(
            [sys.executable, "-m", "opusctl", "--socket", str(commons.socket), *words],
            env=commons.env, cwd=commons.work, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    ran = opusctl("submit", "--wait", "-q", "--", "sh", "-c", "exit 4")
    assert ran.returncode == 1, ran.stderr
    shown = opusctl("show", ran.stdout.split()[0])
    assert shown.returncode == 0, shown.stderr
    assert "failed" in shown.stdout
    followed = opusctl("submit", "--follow", "--", "echo", "some output")
    assert followed.returncode == 0, followed.stderr
    assert "some output" in followed.stdout


def test_sigint_to_the_daemon_is_a_clean_end(build):
    house = build()
    assert house.kill(signal.SIGINT) == 0
