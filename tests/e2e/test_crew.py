"""`opusctl workers start`: a crew that runs a program for each job, with real daemons, programs and signals."""

import json
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import json, os, sys
job = json.load(sys.stdin)
print("about to", job["prompt"])
with open(os.environ["OPUS_RESULT"], "w") as file:
    json.dump({"id": job["id"], "cwd": os.getcwd(), "mine": os.environ.get("MINE")}, file)
sys.exit(job["payload"].get("code", 0))
"""


@pytest.fixture
def crew(house):
    """crew(*words, program=...): a crew at work on this daemon."""
    started = []

    def start(*words, program=(sys.executable, "-c", PROGRAM)):
        argv = [
            sys.executable,
            "-m",
            "opusctl",
            "--socket",
            str(house.socket),
            "workers",
            "start",
            *words,
            "--",
            *program,
        ]
        process = subprocess.Popen(
            argv, env=house.env, cwd=house.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    start.house = house
    yield start
    for process in started:
        process.kill()
        process.communicate()


def work(house, **fields):
    return house("job.submit", **{"prompt": "do it", "agent": "pull", "cwd": str(house.work), **fields})["job"]


def begun(house, count=1):
    """Until so many programs have begun: the daemon calls a job running before its worker has heard of it."""
    end = time.monotonic() + 10
    while len(list(house.work.glob("begun-*"))) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def waiting(gate):
    """A program that waits at the gate."""
    return "sh", "-c", f"touch begun-$OPUS_JOB_ID; {gate.wait}"


def said(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_jobs_are_done_with_their_text_folder_and_variables_and_the_exit_code_decides(crew):
    house = crew.house
    good = work(house, env={"MINE": "yes"})
    bad = work(house, payload={"code": 3}, max_retries=0)
    code, out, _ = said(crew("--count", "2", "--exit-when-idle"))
    assert code == 0
    assert sorted(out.splitlines()) == [
        "job 1 (do it) completed",
        "job 2 (do it) failed: agent_error: exited with code 3: about to do it",
    ]
    done = house.get(good)
    assert done["result"] == {
        "summary": "about to do it", "data": {"id": 1, "cwd": str(house.work), "mine": "yes"},
    }  # fmt: skip
    assert house.get(bad)["error"]["class"] == "agent_error"


def test_so_many_jobs_and_no_more(crew):
    for _ in range(5):
        work(crew.house)
    code, out, _ = said(crew("--count", "3", "--max-jobs", "4", "-q"))
    assert (code, len(out.split())) == (0, 4)
    counts = crew.house("queue.status")["counts"]["status"]
    assert counts == {"completed": 4, "queued": 1}


def test_a_crew_takes_only_what_it_was_told_to(crew):
    mine, other = work(crew.house, labels=["for:me"], type="bug"), work(crew.house)
    assert said(crew("--label", "for:me", "--types", "bug,review", "--exit-when-idle"))[0] == 0
    assert [crew.house.get(job)["status"] for job in (mine, other)] == ["completed", "queued"]


def test_a_job_that_is_cancelled_ends_its_program(crew):
    house = crew.house
    process = crew("--lease", "1s", program=("sh", "-c", "echo on; exec sleep 60"))
    job = work(house)
    house.until(lambda: house.get(job)["status"] == "running")
    house("job.cancel", id=job["id"])
    assert house.ended(job)["status"] == "cancelled"
    process.send_signal(signal.SIGTERM)
    assert said(process)[0] == 0


def test_the_first_signal_finishes_what_runs_and_the_second_gives_it_back(crew):
    house = crew.house
    gate = house.gate()
    process = crew("--count", "2", program=waiting(gate))
    one, two = work(house), work(house)
    begun(house, 2)
    process.send_signal(signal.SIGINT)
    late = work(house)
    gate.open()
    house.until(lambda: house("queue.status")["counts"]["status"].get("completed") == 1)
    assert house.get(late)["status"] == "queued"
    process.send_signal(signal.SIGINT)
    code, out, err = said(process)
    assert code == 0
    assert "finishing what runs" in err
    assert "is queued" in out
    left = [job for job in (one, two) if house.get(job)["status"] == "queued"]
    assert len(left) == 1
    assert (house.get(left[0])["position"], house.get(left[0])["retries"]) == (1, 0)


def test_a_crew_outlives_the_daemons_restart_and_keeps_its_jobs(crew):
    house = crew.house
    gate = house.gate()
    process = crew("--lease", "6s", "--max-jobs", "2", program=waiting(gate))
    job = work(house)
    begun(house)
    house.restart()
    gate.open()
    done = house.ended(job)
    assert (done["status"], done["attempts"]) == ("completed", 1)
    second = work(house)  # the crew waits again at the new daemon
    gate.open()
    assert house.ended(second)["status"] == "completed"
    assert said(process)[0] == 0


def test_a_crew_that_slept_past_its_lease_ends_its_program_and_reports_nothing(crew):
    house = crew.house
    process = crew("--lease", "1s", program=("sh", "-c", "echo $$ > pid; exec sleep 60"))
    job = work(house)
    house.until(lambda: house.get(job)["status"] == "running")
    process.send_signal(signal.SIGSTOP)
    [held] = house("worker.claim", worker="other", wait=10)["claims"]
    assert held["attempt"] == 2
    process.send_signal(signal.SIGCONT)
    assert "was lost" in process.stderr.readline() + process.stderr.readline()
    assert house.get(job)["worker"] == "other"
    process.send_signal(signal.SIGTERM)
    assert said(process)[0] == 0
    house("worker.complete", id=job["id"], token=held["token"])


def test_a_program_that_is_not_there_fails_the_job_as_config(crew):
    job = work(crew.house)
    said(crew("--max-jobs", "1", program=("/nowhere/agent",)))
    failed = crew.house.get(job)
    assert (failed["error"]["class"], failed["status"]) == ("config", "failed")
    assert "/nowhere/agent" in failed["error"]["message"]


def test_a_person_is_told_what_is_wrong_with_the_command(crew):
    house = crew.house
    for words, status in (
        (["start"], 2),
        (["start", "--count", "0", "--", "true"], 2),
        (["start", "--max-jobs", "0", "--", "true"], 2),
        (["stop"], 2),
        ([], 0),
    ):
        argv = [sys.executable, "-m", "opusctl", "--socket", str(house.socket), "workers", *words]
        assert subprocess.run(argv, env=house.env, capture_output=True, check=False).returncode == status
    nowhere = [sys.executable, "-m", "opusctl", "--socket", "/nowhere/s", "workers", "start", "--", "true"]
    assert subprocess.run(nowhere, env=house.env, capture_output=True, check=False).returncode == 3
    assert json.dumps(house("worker.list")["workers"]) == "[]"
