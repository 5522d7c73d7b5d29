"""Where the output goes is a full disk, or nowhere at all."""

from __future__ import annotations

import pytest

FULL = "opusctl: stdout can't be written: No space left on device\n"


@pytest.fixture
def redirected(spawn):
    """Run opusctl as the shell starts it with this behind the command: its exit code, stdout and stderr."""

    def run(redirections: str, *words: str) -> tuple[int, str, str]:
        process = spawn(*words, under=("sh", "-c", f'exec "$@" {redirections}', "sh"))
        out, err = process.communicate(timeout=20)
        return process.returncode, out.decode(), err.decode()

    return run


@pytest.fixture
def stocked(daemon, job, status, info):
    daemon.answers |= {
        "job.list": {"jobs": [job(n) for n in range(1, 4)], "next_cursor": None},
        "job.get": job(5, prompt="x" * 100_000),
        "job.history": {"events": [], "attempts": [], "chain": []},
        "job.logs": {"data": "out\n", "offset": 0, "next_offset": 4, "dropped": 0, "eof": True},
        "job.submit": {"job": job(7), "created": True},
        "job.submit_batch": {"jobs": [{"job": job(n), "created": True} for n in (7, 8)]},
    }
    return daemon


@pytest.mark.parametrize(
    "words",
    ["list", "list --json", "list -q", "list --all", "show 5 --full", "show 5 --json", "why 5", "logs 5 --attempt 1",
     "--help", "help list", "submit --help", "--version"],
)  # fmt: skip
def test_output_that_cannot_be_written_is_one_line_and_a_failure(words, redirected, stocked):
    stocked.answers["job.why"] = {"runnable": True, "constraints": []}
    assert redirected(">/dev/full", *words.split()) == (1, "", FULL)


@pytest.mark.parametrize("options", ["", "-q", "--json", "--wait", "-q --wait"])
def test_a_submit_whose_id_cannot_be_written_says_that_the_job_is_entered(options, redirected, stocked):
    code, _, err = redirected(">/dev/full", "submit", *options.split(), "-p", "x")
    assert (code, err) == (1, FULL + "  job 7 is submitted all the same\n")
    assert not stocked.sent("job.wait")


def test_a_batch_whose_ids_cannot_be_written_says_which_jobs_are_entered(redirected, stocked, tmp_path):
    (tmp_path / "jobs").write_text('[{"prompt": "a"}, {"prompt": "b"}]')
    code, _, err = redirected(">/dev/full", "submit", "--file", str(tmp_path / "jobs"))
    assert (code, err) == (1, FULL + "  2 jobs are submitted all the same: 7 to 8\n")


def test_a_refusal_that_cannot_be_written_as_json_is_said_in_words(redirected, stocked, refusal):
    def refuse(params):
        raise refusal(-32001, "not_found", "there is no job 9")

    stocked.answers["job.get"] = refuse
    assert redirected(">/dev/full", "logs", "9", "--json") == (4, "", "opusctl: there is no job 9\n")


def test_talk_that_cannot_be_written_changes_nothing(redirected, stocked):
    assert redirected("2>/dev/full", "submit", "-p", "x") == (0, "7\n", "")
    assert redirected("2>/dev/full", "list", "--frob") == (2, "", "")
    assert redirected(">/dev/full 2>/dev/full", "list") == (1, "", "")


@pytest.mark.parametrize(
    "words", ["list", "list --json", "show 5", "logs 5", "submit -q -p x", "--help", "list --help"]
)
def test_a_closed_stdout_is_as_one_that_nobody_reads(words, redirected, stocked):
    stocked.answers["job.get"] |= {"attempts": 1}
    code, _, err = redirected(">&-", *words.split())
    assert (code, err) == (0, "")


def test_a_closed_stderr_changes_nothing(redirected, stocked):
    assert redirected("2>&-", "submit", "-p", "x") == (0, "7\n", "")
    assert redirected("2>&-", "list", "--frob") == (2, "", "")
    assert redirected("<&- >&- 2>&-", "list") == (0, "", "")


def test_a_closed_stdin_has_nothing_in_it(redirected, stocked):
    code, _, err = redirected("<&-", "submit", "--file", "-")
    assert (code, err) == (2, "opusctl: no jobs in -\n")
