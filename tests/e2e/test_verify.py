"""`verify` decides whether a success is one."""

AGENT = """
default_agent = "a"
[agents.a]
argv = ["sh", "-c", "cat; echo done"]
retry = "none"
verify = ["test", "-e", "made"]
memory_max = "256MiB"
nice = 7
"""


def test_a_verification_that_fails_makes_the_attempt_verify_failed_and_says_why(commons):
    job = commons.sh("echo agent", verify=["sh", "-c", "echo 2 failed; exit 1"])
    failed = commons.ended(job)
    assert (failed["status"], failed["verify"]) == ("failed", ["sh", "-c", "echo 2 failed; exit 1"])
    assert failed["error"] == {
        "class": "verify_failed", "message": "verify: sh exited with code 1", "exit_code": 0, "signal": None,
    }  # fmt: skip
    assert failed["verify_output"] == "2 failed\n"
    assert failed["result"]["summary"] == "agent"
    assert commons.logs(job) == "agent\n"
    assert commons.logs(job, offset=6) == "--- verify: sh -c echo 2 failed; exit 1 ---\n2 failed\n"


def test_a_verification_that_is_content_completes_the_job(commons):
    job = commons.sh("echo x > made", verify=["test", "-e", "made"])
    done = commons.ended(job)
    assert (done["status"], done["error"], done["verify_output"]) == ("completed", None, None)


def test_a_retry_that_mends_it_takes_the_old_output_away(commons):
    job = commons.sh("echo x >> tried", verify=["sh", "-c", "echo tries; test $(wc -l < tried) = 2"], retry="fast")
    done = commons.ended(job)
    assert (done["status"], done["attempts"], done["verify_output"]) == ("completed", 2, None)
    first = commons("job.history", id=job["id"])["attempts"][0]
    assert (first["class"], first["message"]) == ("verify_failed", "verify: sh exited with code 1")


def test_the_retry_of_a_prompt_is_told_what_the_verification_said(build):
    house = build(
        'default_agent = "a"\n[agents.a]\nargv = ["cat"]\nretry = { strategy = "immediate", max_retries = 1 }\n'
        'verify = ["sh", "-c", "echo 2 tests failed; exit 1"]\n'
    )
    job = house.ended(house.submit(prompt="mend it"))
    assert job["attempts"] == 2
    assert "2 tests failed" not in house.logs(job, attempt=1)
    told = house.logs(job, attempt=2)
    assert told.startswith("mend it\n\n")
    assert told.endswith("> 2 tests failed")


def test_a_cancel_reaches_a_verification(commons):
    job = commons.sh("true", verify=["sh", "-c", "echo verifying; sleep 600"])
    commons.output(job, "verifying")
    commons("job.cancel", id=job["id"])
    assert commons.ended(job)["status"] == "cancelled"


def test_a_timeout_counts_both(commons):
    job = commons.sh("true", verify=["sleep", "600"], timeout=0.3)
    assert commons.ended(job)["error"]["class"] == "timeout"


def test_a_daemon_that_is_killed_meanwhile_changes_nothing(house):
    gate = house.gate()
    job = house.sh("true", verify=["sh", "-c", f"echo verifying; {gate.wait}; exit 1"])
    house.output(job, "verifying")
    house.kill()
    gate.open()
    house.start()
    failed = house.ended(job)
    assert (failed["attempts"], failed["error"]["class"]) == (1, "verify_failed")


def test_an_agents_verify_memory_and_nice_are_its_jobs_and_a_job_may_refuse_to_be_verified(build):
    house = build(AGENT)
    verified = house.submit(prompt="x")
    refused = house.submit(prompt="x", verify=[])
    looks = house.submit(prompt="x", verify=["sh", "-c", "nice; ulimit -d; exit 1"])
    assert (verified["verify"], refused["verify"]) == (["test", "-e", "made"], None)
    failed, done, looked = house.ended(verified, refused, looks)
    assert failed["error"]["message"] == "verify: test exited with code 1"
    assert done["status"] == "completed"
    assert looked["verify_output"].split()[0] == "7"


def test_a_verify_without_a_program_is_refused_by_its_field(commons):
    error = commons.refused("job.submit", command=["true"], verify=[""])
    assert error.data["path"] == "$.verify"
    assert "names a program first" in str(error)
