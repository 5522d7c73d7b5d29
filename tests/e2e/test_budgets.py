"""Budgets with agents that say what they use: a person is asked, a day is over, and both survive kill -9."""

import pytest

from tests.e2e.test_sessions import Scripted, config

USED = 10
"""Tokens that the agent's `work` says it used before it waits at the gate."""


@pytest.fixture
def budgeted(build, tmp_path):
    def make(budget, more=""):
        runs = tmp_path / "runs.json"
        return Scripted(build(config(runs, more) + f"[agents.bot.budget]\n{budget}\n"), runs)

    return make


def question_of(house, job):
    house.until(lambda: house.get(job)["status"] == "needs_input")
    return house.get(job)["question"]


def budget_events(house, job):
    events = house("job.history", id=job["id"])["events"]
    return [event["detail"] for event in events if "budget" in (event["detail"] or {})]


def test_a_job_that_used_up_its_budget_asks_and_goes_on_in_its_session_with_as_much_again(budgeted):
    bot = budgeted(f"job_tokens = {USED}")
    house = bot.house
    gate = house.gate()
    bot.will(["work", str(gate)], ["ok"])
    job = bot.submit()
    question = question_of(house, job)
    assert question["text"].startswith(f"budget job_tokens: this job has used {USED} tokens of {USED} tokens")
    assert question["options"] == ["continue", "stop"]
    assert budget_events(house, job) == [
        {"budget": "job_tokens", "used": USED, "limit": USED},
        {"asking": 1, "budget": "job_tokens"},
    ]
    assert house.get(job)["usage"]["input_tokens"] == 7
    house.restart()
    house("job.answer", id=job["id"], question=question["id"], text="continue")
    done = house.ended(job)
    assert (done["status"], done["attempts"], done["retries"]) == ("completed", 2, 0)
    assert bot.runs()[1]["argv"] == ["--resume", "session-1"]
    assert done["usage"]["input_tokens"] == 17


def test_a_person_who_says_stop_cancels_the_job(budgeted):
    bot = budgeted(f"job_tokens = {USED}")
    bot.will(["work", str(bot.house.gate())])
    job = bot.submit()
    question = question_of(bot.house, job)
    bot.house("job.answer", id=job["id"], question=question["id"], text="stop")
    assert bot.house.get(job)["status"] == "cancelled"


def test_a_days_budget_ends_what_runs_and_holds_the_agent_until_midnight(budgeted):
    bot = budgeted(f"day_tokens = {2 * USED}", 'timezone = "Europe/Berlin"')
    house = bot.house
    gate = house.gate()
    bot.will(["work", str(gate)])
    jobs = [bot.submit(), bot.submit()]
    for job in jobs:
        assert question_of(house, job)["text"].startswith("budget day_tokens: agent bot has used 20 tokens today")
    waiting = bot.submit()
    house.restart()
    constraint, *_ = house("job.why", id=waiting["id"])["constraints"]
    assert (constraint["kind"], constraint["detail"]) == (
        "budget", "agent bot has used 20 tokens today and its day_tokens is 20 tokens",
    )  # fmt: skip
    assert constraint["until"] is not None
    assert house("queue.capacity", agent="bot")["state"] == "busy"
    assert house.ended(house.submit("true"))["status"] == "completed"
    assert [house.get(job)["attempts"] for job in (*jobs, waiting)] == [1, 1, 0]
    assert house("system.info")["config"]["budgets"] == {"bot": {"day_tokens": 20}}


def test_a_result_that_comes_with_the_last_of_the_budget_is_kept(budgeted):
    bot = budgeted("job_tokens = 15\njob_cost_usd = 0.25")
    bot.will(["ok"])
    job = bot.submit()
    done = bot.house.ended(job)
    assert (done["status"], done["result"]["summary"]) == ("completed", "done")


def test_a_budget_that_the_output_does_not_measure_is_refused_when_it_is_read(build):
    house = build(
        '[agents.bot]\nargv = ["cat"]\noutput = "codex"\n[agents.bot.budget]\nday_cost_usd = 3\n', start=False
    )
    status, said = house.refuse()
    assert status == 78
    assert 'agents.bot.budget.day_cost_usd: output = "codex" does not tell its cost; claude, opencode, aider do' in said
    house.configure('[agents.bot]\nargv = ["cat"]\noutput = "codex"\n[agents.bot.budget]\nday_tokens = 3\n')
    house.start()
    house.configure("[agents.exec.budget]\njob_tokens = 3\n")
    assert "does not tell its tokens" in house.refused("system.reload").message
