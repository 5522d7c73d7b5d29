"""`opusctl workers start`: real workers with real programs, and what becomes of both."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT

PULL = "[agents.gpu]\nslots = 0\n"


@pytest.fixture
def house(build):
    return build(PULL)


class Ear:
    """A FIFO that a program opens and says `up` into; silent when the last process that has it open is gone."""

    def __init__(self, path):
        os.mkfifo(path)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def hears(self):
        """`up`, or nothing once nobody can say anything any more."""
        assert select.select([self._end], [], [], 20)[0]
        return os.read(self._end, 100)

    def close(self):
        os.close(self._end)


@pytest.fixture
def ear(house):
    ear = Ear(house.work / "alive")
    yield ear
    ear.close()


@contextmanager
def worker(house, *words, script, stdout=subprocess.PIPE, **options):
    """A running `opusctl workers start ... -- sh -c SCRIPT`; what is left of it ends with the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "opusctl", "workers", "start", "--name", "w", *words, "--", "sh", "-c", script],
        env={**house.env, "OPUSD_SOCKET": str(house.socket)}, cwd=house.folder, stdin=subprocess.DEVNULL,
        stdout=stdout, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ended(process):
    """Exit code, stdout, stderr."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def hear(process, words):
    """Until the worker says these words."""
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(words)


def ran(house, *words, script):
    with worker(house, *words, script=script) as process:
        return ended(process)


def work(house, **fields):
    return house("job.submit", **{"prompt": "do it", "agent": "pull", "cwd": str(house.work), **fields})["job"]["id"]


def test_each_job_is_done_once_by_its_program_with_the_job_on_stdin_and_its_result_kept(house):
    jobs = [work(house, payload={"n": n}, env={"WORD": "hello"}) for n in range(6)]
    script = """
        read -r job; n=$(printf '%s' "$job" | sed 's/.*"payload": *{"n": *\\([0-9]*\\)}.*/\\1/')
        [ "$OPUS_JOB_ID" = $((n + 1)) ] && [ "$OPUS_ATTEMPT" = 1 ] && [ -S "$OPUSD_SOCKET" ] || exit 9
        echo "{\\"n\\": $n}" > "$OPUS_RESULT"; echo $OPUS_JOB_ID >> done; echo "$WORD from $(pwd)"
    """
    code, out, err = ran(house, "--count", "2", "--exit-when-idle", script=script)
    assert code == 0, err
    assert sorted(out.splitlines()) == [f"job {number} (do it) completed" for number in jobs]
    assert sorted((house.work / "done").read_text().split()) == [str(number) for number in jobs]
    for n, number in enumerate(jobs):
        job = house.get(number)
        assert job["result"] == {"summary": f"hello from {house.work}", "data": {"n": n}}
    [seen] = house("worker.list")["workers"]
    assert (seen["worker"], seen["completed"], seen["jobs"]) == ("w", 6, [])


def test_the_exit_code_decides_and_the_end_of_the_output_says_why(house):
    number = work(house, max_retries=0)
    code, out, err = ran(house, "--max-jobs", "1", script="echo this and that; echo it broke >&2; exit 3")
    assert (code, out) == (0, f"job {number} (do it) failed: agent_error: exit code 3: it broke\n")
    assert f"job {number} | this and that\n" in err
    error = house.get(number)["error"]
    assert (error["class"], error["message"]) == ("agent_error", "exit code 3: it broke")


def test_a_program_that_cannot_be_started_fails_the_job_and_not_the_worker(house):
    jobs = [work(house, max_retries=0, cwd="/nowhere"), work(house)]
    assert ran(house, "--exit-when-idle", script="true")[0] == 0
    assert [house.get(number)["status"] for number in jobs] == ["failed", "completed"]
    assert "/nowhere" in house.get(jobs[0])["error"]["message"]


@pytest.mark.parametrize(
    "written",
    ["no json", "[" * 2000, '"\\ud800"', "NaN", '{"n": 99999999999999999999999}'],
)
def test_a_result_that_cannot_be_used_is_left_out_and_said(written, house):
    number = work(house, max_retries=0)
    (house.work / "written").write_text(written)
    code, _, err = ran(house, "--max-jobs", "1", "--exit-when-idle", script='cp written "$OPUS_RESULT"; echo done')
    job = house.get(number)
    assert code == 0
    if job["status"] == "completed":
        assert (job["result"]["data"], "$OPUS_RESULT can't be used" in err) == (None, True)
    else:
        assert "its result was refused" in job["error"]["message"]


def test_max_jobs_are_shared_by_all_slots(house):
    for _ in range(5):
        work(house)
    code, out, _ = ran(house, "--count", "3", "--max-jobs", "4", script="true")
    assert (code, len(out.splitlines())) == (0, 4)
    assert house("queue.status")["counts"]["status"]["queued"] == 1


def test_filters_and_quiet_and_json(house):
    work(house)
    bug = work(house, type="bug")
    code, out, err = ran(house, "--type", "bug", "--exit-when-idle", "--json", script="true")
    assert (code, json.loads(out)["id"]) == (0, bug), err
    assert ran(house, "-q", "--exit-when-idle", script="true")[1:] == ("1\n", "")


def test_sigterm_finishes_what_runs_and_takes_no_more(house):
    first, second = work(house), work(house)
    gate = house.gate()
    with worker(house, "--count", "2", script=f'[ "$OPUS_JOB_ID" = 1 ] && {gate.wait}; true') as process:
        house.until(lambda: house.get(second)["status"] == "completed")
        process.send_signal(signal.SIGTERM)
        hear(process, "finishing")
        third = work(house)
        gate.open()
        code, out, _ = ended(process)
    assert (code, out) == (0, f"job {second} (do it) completed\njob {first} (do it) completed\n")
    assert house.get(third)["status"] == "queued"
    gate.close()


def test_a_second_sigterm_stops_what_runs_and_gives_it_back_at_no_cost(house):
    number = work(house)
    with worker(house, script="echo $$ > pid; exec sleep 60") as process:
        hear(process, "attempt 1")
        process.send_signal(signal.SIGINT)
        hear(process, "finishing")
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 130
    job = house.get(number)
    assert (job["status"], job["retries"], job["position"]) == ("queued", 0, 1)


def test_a_cancelled_job_ends_its_program_and_what_that_started(house, ear):
    number = work(house)
    script = "exec 9> alive; (trap '' TERM; echo up >&9; sleep 60) & trap '' HUP; wait"
    with worker(house, "--lease", "2s", "--max-jobs", "1", script=script) as process:
        assert ear.hears() == b"up\n"
        house("job.cancel", id=number)
        house.until(lambda: house.get(number)["status"] == "cancelled")
        code, out, _ = ended(process)
    assert (code, out) == (0, f"job {number} (do it) was cancelled\n")
    assert ear.hears() == b""


def test_a_program_may_ask_and_the_answer_is_in_the_prompt_of_the_next_attempt(house):
    number = work(house, prompt="paint it")
    ask = f"{sys.executable} -m opusctl ask 'Which colour?' -o red"
    script = f'cat > job.$OPUS_ATTEMPT; [ "$OPUS_ATTEMPT" = 1 ] && {ask} && sleep 60; true'
    with worker(house, "--max-jobs", "2", "--lease", "2s", script=script) as process:
        question = house.until(lambda: house.get(number)["question"])
        house("job.answer", id=number, question=question["id"], text="deep red")
        code, out, err = ended(process)
    assert (code, out) == (0, f"job {number} (paint it) completed\n")
    assert f"job {number}: this token is not" in err  # the program is ended when the attempt is over
    told = json.loads((house.work / "job.2").read_text())["prompt"]
    assert "paint it" in told
    assert "deep red" in told
    assert json.loads((house.work / "job.1").read_text())["prompt"] == "paint it"


def test_what_a_program_submits_is_a_child_of_its_job_also_after_a_double_fork(build):
    house = build(PULL + '[agents.pull]\nslots = 0\nmay_submit = ["pull"]\n')
    number = work(house)
    submit = f"{sys.executable} -m opusctl submit --agent pull -p child"
    script = f"""
        [ "$OPUS_JOB_ID" = {number} ] || exit 0
        {submit} --key plain; {submit} --source user --key forged && exit 9
        {submit} --interactive --key human && exit 9
        setsid sh -c '({submit} --key forked > said 2>&1; echo over >> said) &'
        until grep -q over said 2>/dev/null; do sleep 0.05; done
    """
    code, out, err = ran(house, "--count", "2", "--exit-when-idle", script=script)
    assert f"job {number} (do it) completed" in out, err
    assert code == 0
    for key in ("plain", "forked"):
        child = house.get(key)
        assert (child["source"], child["parent"]) == ("agent", number)
    assert len(house("job.list")["jobs"]) == 3


@pytest.mark.slow
def test_a_worker_outlives_a_restart_of_the_daemon_reports_then_and_claims_again(house):
    number = work(house)
    gate = house.gate()
    with worker(house, "--max-jobs", "2", script=f"{gate.wait}; echo done") as process:
        hear(process, "attempt 1")
        house.kill()
        gate.open()
        house.start()
        assert house.ended(number)["attempts"] == 1
        house.restart()
        second = work(house)
        gate.open()
        assert house.ended(second)["status"] == "completed"
        assert ended(process)[0] == 0
    gate.close()


@pytest.mark.slow
def test_a_worker_that_slept_past_its_lease_ends_its_program_and_reports_nothing(house, ear):
    number = work(house)
    with worker(house, "--lease", "1s", "--max-jobs", "1", script="exec 9> alive; echo up >&9; sleep 60") as process:
        assert ear.hears() == b"up\n"
        process.send_signal(signal.SIGSTOP)
        [held] = house("worker.claim", worker="other", wait=10)["claims"]
        process.send_signal(signal.SIGCONT)
        assert ear.hears() == b""
        assert ended(process)[:2] == (0, "")
    assert house.get(number)["worker"] == "other"
    house("worker.complete", id=number, token=held["token"])


@pytest.mark.slow
def test_a_program_ends_before_its_lease_while_the_daemon_is_away(house):
    number = work(house)
    with worker(house, "--max-jobs", "1", "--lease", "2s", script="trap '' TERM; echo $$ > pid; sleep 60") as process:
        hear(process, "attempt 1")
        house.kill()
        hear(process, "could not be reached")
        with suppress(FileNotFoundError):  # it was ended before it said who it is
            pid = int((house.work / "pid").read_text())
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert ended(process)[0] == 0
    house.start()
    house.until(lambda: house.get(number)["status"] == "queued")


def test_what_a_killed_worker_left_running_dies_with_it(house, ear):
    work(house)
    with worker(house, script="exec 9> alive; echo up >&9; exec sleep 60") as process:
        assert ear.hears() == b"up\n"
        process.kill()
    assert ear.hears() == b""


def test_the_worker_of_the_documentation_works(house):
    text = (ROOT / "docs/workers.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    env = {**house.env, "OPUSD_SOCKET": str(house.socket)}
    with subprocess.Popen([sys.executable, "-c", program], env=env) as process:
        try:
            done = house.ended(work(house, type="review"), work(house, type="review"))
            assert [job["result"]["summary"] for job in done] == ["looks good"] * 2
            assert process.poll() is None  # it waits for more
        finally:
            process.kill()


def test_a_worker_whose_output_cannot_be_written_takes_no_more_jobs_and_says_so(house):
    first, second = (house.submit(prompt="x", agent="gpu")["id"] for _ in range(2))
    with Path("/dev/full").open("wb") as full, worker(house, script="exit 0", stdout=full) as process:
        code, _, err = ended(process)
    assert code == 1
    assert err.endswith("opusctl: stdout can't be written: No space left on device\n")
    assert house("job.get", id=first)["status"] == "completed"
    assert house("job.get", id=second)["status"] == "queued"
