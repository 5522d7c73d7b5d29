"""Silence: an attempt that says nothing for too long is ended; output, a heartbeat or its children keep it alive."""

import sys

import pytest

AGENT = '[agents.bot]\nargv = ["sh"]\nmax_retries = 0\nstall_after = "{after}"\n{more}'


@pytest.fixture
def stalling(build):
    return lambda after="2s", more="": build('default_agent = "bot"\n' + AGENT.format(after=after, more=more))


def submit(house, script, **fields):
    return house("job.submit", prompt=script, cwd=str(house.work), **fields)["job"]


def test_an_attempt_that_says_nothing_is_stalled(stalling):
    house = stalling()
    done = house.ended(submit(house, "echo begins; exec sleep 100"))
    assert (done["status"], done["error"]["class"]) == ("failed", "stalled")
    assert "neither output nor a heartbeat" in done["error"]["message"]


def test_one_that_goes_on_printing_is_not(stalling):
    house = stalling()
    done = house.ended(submit(house, "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"))
    assert done["status"] == "completed"


def test_what_is_no_progress_keeps_nothing_alive(stalling):
    house = stalling(more="progress_pattern = '^step'\n")
    done = house.ended(submit(house, "while echo waiting; do sleep 0.1; done"))
    assert done["error"]["class"] == "stalled"
    done = house.ended(submit(house, "for i in 1 2 3 4 5 6; do echo step $i; sleep 0.5; done"))
    assert done["status"] == "completed"


def test_a_heartbeat_keeps_a_silent_one_alive(stalling):
    house = stalling()
    beat = f"{sys.executable} -m opusctl progress 50% >/dev/null 2>&1"
    done = house.ended(submit(house, f"for i in 1 2 3 4 5; do sleep 0.5; {beat}; done"))
    assert done["status"] == "completed"


def test_silence_is_counted_anew_when_the_daemon_comes_back(stalling):
    house = stalling("1s")
    job = submit(house, "exec sleep 100")
    house.begun(job)
    house.restart()
    assert house.get(job)["status"] == "running"
    assert house.ended(job)["error"]["class"] == "stalled"


def test_an_agent_that_waits_for_its_children_may_be_silent(build):
    house = build(
        'default_agent = "bot"\nmax_concurrent = 1\n[agents.bot]\nargv = ["sh"]\nstall_after = "1s"\n'
        'max_retries = 0\nmay_submit = ["bot", "exec"]\n'
    )
    script = f"{sys.executable} -m opusctl submit --wait -q -- sleep 2.5"
    done = house.ended(submit(house, script))
    assert done["status"] == "completed", done["error"]
