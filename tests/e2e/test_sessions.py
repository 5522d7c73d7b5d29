"""What an agent says in its stream decides: limits, questions, sessions that go on, and what is seen meanwhile."""

import json
import re
import sys
from pathlib import Path

import pytest

AGENT = Path(__file__).with_name("agent.py")


class Scripted:
    """A daemon with the agent `bot`, whose n-th run does the n-th thing of its script."""

    def __init__(self, house, runs):
        self.house = house
        self.runs_file = runs

    def will(self, *script):
        self.runs_file.with_suffix(".script").write_text(json.dumps(script))

    def runs(self):
        return json.loads(self.runs_file.read_text()) if self.runs_file.exists() else []

    def submit(self, prompt="write the parser", **fields):
        return self.house("job.submit", prompt=prompt, cwd=str(self.house.work), **fields)["job"]

    def attempts(self, job):
        return self.house("job.history", id=job["id"])["attempts"]


def config(runs, more=""):
    argv = json.dumps([sys.executable, str(AGENT), str(runs)])
    resume = json.dumps([sys.executable, str(AGENT), str(runs), "--resume", "{session_id}"])
    return f"""
default_agent = "bot"
[agents.bot]
argv = {argv}
resume_argv = {resume}
output = "claude"
retry = {{ strategy = "immediate", max_retries = 3 }}
{more}
"""


@pytest.fixture
def scripted(build, tmp_path):
    def make(more="", rest=""):
        runs = tmp_path / f"runs{len(list(tmp_path.iterdir()))}.json"
        return Scripted(build(config(runs, more) + rest), runs)

    return make


def test_a_rate_limit_costs_no_retry_and_its_own_session_goes_on_when_the_agent_may(scripted):
    bot = scripted()
    bot.will(["limit"], ["ok"])
    job = bot.submit()
    house = bot.house
    house.until(lambda: house.get(job)["attempts"] == 1 and house.get(job)["status"] == "queued")
    waiting = house.get(job)
    assert waiting["reason"].startswith("agent bot cools down after a rate limit")
    assert (waiting["retries"], waiting["session_id"]) == (0, "session-1")
    [agent] = [one for one in house("agent.list")["agents"] if one["name"] == "bot"]
    assert agent["cooling_until"] is not None
    other = bot.submit("another")
    assert house.get(other)["status"] == "queued"
    assert len(bot.runs()) == 1  # nothing goes into the limit
    house("job.cancel", id=other["id"])
    house("queue.resume", agent="bot")
    done = house.ended(job)
    assert (done["status"], done["retries"], done["attempts"]) == ("completed", 0, 2)
    first, second = bot.runs()[:2]
    assert (first["argv"], first["prompt"]) == ([], "write the parser")
    assert second["argv"] == ["--resume", "session-1"]
    assert "rate_limited" in second["prompt"]
    assert second["prompt"].endswith("write the parser")
    assert second["cwd"] == first["cwd"]
    assert [attempt["class"] for attempt in bot.attempts(job)] == ["rate_limited", None]


@pytest.mark.slow
def test_a_limit_ends_at_the_reset_that_the_program_names(scripted):
    bot = scripted()
    bot.will(["limit", 1.0], ["ok"])
    job = bot.submit()
    done = bot.house.ended(job)
    assert (done["status"], done["attempts"]) == ("completed", 2)
    kinds = [event["kind"] for event in bot.house("job.history", id=job["id"])["events"]]
    assert kinds == ["job.submitted", "job.started", "job.queued", "job.started", "job.completed"]


def test_a_cool_down_outlives_the_daemon(scripted):
    bot = scripted()
    bot.will(["limit", 3600], ["ok"])
    job = bot.submit()
    house = bot.house
    house.until(lambda: house.get(job)["attempts"] == 1 and house.get(job)["status"] == "queued")
    until = [one["cooling_until"] for one in house("agent.list")["agents"] if one["name"] == "bot"]
    house.restart()
    assert [one["cooling_until"] for one in house("agent.list")["agents"] if one["name"] == "bot"] == until
    assert house.get(job)["status"] == "queued"
    house("queue.resume", agent="bot")
    assert house.ended(job)["status"] == "completed"
    assert bot.runs()[1]["argv"] == ["--resume", "session-1"]


def test_without_auto_resume_a_person_lets_a_limited_job_go_on(scripted):
    bot = scripted("auto_resume = false")
    bot.will(["limit", 0.2], ["ok"])
    job = bot.submit()
    house = bot.house
    house.until(lambda: house.get(job)["status"] == "held")
    house("job.release", id=job["id"])
    assert house.ended(job)["status"] == "completed"


def test_fresh_begins_a_new_session_and_a_plain_retry_goes_on(scripted):
    bot = scripted("max_retries = 0")
    bot.will(["fail"], ["fail"], ["ok"])
    job = bot.submit()
    house = bot.house
    assert house.ended(job)["status"] == "failed"
    house("job.retry", ids=[job["id"]])
    assert house.ended(job)["session_id"] == "session-1"
    house("job.retry", ids=[job["id"]], fresh=True)
    done = house.ended(job)
    assert (done["status"], done["session_id"]) == ("completed", "session-3")
    assert [run["argv"] for run in bot.runs()] == [[], ["--resume", "session-1"], []]
    assert bot.runs()[2]["prompt"] == "write the parser"
    assert done["usage"] == {"input_tokens": 30, "output_tokens": 15, "cached_tokens": 0, "cost_usd": 0.75}


def test_what_a_refused_key_failed_at_is_not_tried_again(scripted):
    bot = scripted()
    bot.will(["auth"], ["ok"])
    done = bot.house.ended(bot.submit())
    assert (done["status"], done["error"]["class"], done["attempts"]) == ("failed", "auth", 1)


def test_a_question_frees_the_slot_and_its_answer_goes_into_the_session(scripted):
    bot = scripted("slots = 1")
    bot.will(["ask", "Which database?", "PostgreSQL", "SQLite"], ["ok"], ["ok"])
    job = bot.submit()
    house = bot.house
    house.until(lambda: house.get(job)["status"] == "needs_input")
    asking = house.get(job)
    assert asking["question"] == {"id": 1, "text": "Which database?", "options": ["PostgreSQL", "SQLite"]}
    assert "Which database?" in asking["reason"]
    assert house.ended(bot.submit("another"))["status"] == "completed"  # the slot is free
    refused = house.refused("job.answer", id=job["id"], question=2, text="SQLite")
    assert refused.data["code"] == "conflict"
    house.restart()
    answered = house("job.answer", id=job["id"], question=1, text="SQLite")
    assert (answered["tier"], answered["priority"], answered["question"]) == ("critical", "normal", None)
    done = house.ended(job)
    assert (done["status"], done["attempts"]) == ("completed", 2)
    last = bot.runs()[-1]
    assert last["argv"] == ["--resume", "session-1"]
    assert "> Which database?" in last["prompt"]
    assert "SQLite" in last["prompt"]
    assert house.refused("job.answer", id=job["id"], question=1, text="again").data["code"] == "conflict"


def test_a_question_that_nobody_answers_ends_the_job_and_its_reason_says_so(scripted):
    bot = scripted(rest='[defaults]\nanswer_in = "300ms"\n')
    bot.will(["ask", "Which database?"], ["ok"])
    house = bot.house
    gone = house.ended(bot.submit(expires_in="1h"))
    asked = [event for event in house("job.history", id=gone["id"])["events"] if event["kind"] == "job.asked"]
    assert (gone["status"], gone["attempts"], len(asked)) == ("expired", 1, 1)
    assert re.fullmatch(r"nobody answered its question by [-0-9T:.]+Z: Which database\?", gone["reason"])
    (constraint,) = house("job.why", id=gone["id"])["constraints"]
    assert (constraint["kind"], constraint["detail"]) == ("expired", gone["reason"])
    house("job.retry", ids=[gone["id"]])
    assert (house.ended(gone)["status"], house.get(gone)["question"]) == ("completed", None)


def test_an_answer_must_say_something(scripted):
    bot = scripted()
    bot.will(["ask", "Which?"])
    job = bot.submit()
    house = bot.house
    house.until(lambda: house.get(job)["status"] == "needs_input")
    for text in ("", "  \n", "a\0b", "x" * 70_000):
        assert house.refused("job.answer", id=job["id"], question=1, text=text).data["path"] == "$.text"
    assert house.get(job)["status"] == "needs_input"


@pytest.mark.slow
def test_progress_session_and_usage_are_seen_while_it_runs_also_by_the_next_daemon(scripted):
    bot = scripted()
    gate = bot.house.gate()
    bot.will(["work", str(gate)])
    job = bot.submit()
    house = bot.house

    def seen():
        found = house.get(job)
        return found if found["progress"] and found["usage"] else None

    for _ in range(2):
        running = house.until(seen)
        assert running["progress"] == {"fraction": 0.5, "message": "b"}
        assert running["session_id"] == "session-1"
        assert running["usage"]["input_tokens"] == 7
        house.restart()
    gate.open()
    done = house.ended(job)
    assert (done["status"], done["attempts"]) == ("completed", 1)
    assert done["usage"]["cost_usd"] == 0.25


def test_a_stream_without_its_final_event_is_no_success_though_the_exit_code_is_0(build, tmp_path):
    house = build('default_agent = "bot"\n[agents.bot]\nargv = ["echo", "{}"]\noutput = "claude"\nmax_retries = 0\n')
    done = house.ended(house("job.submit", prompt="x", cwd=str(tmp_path))["job"])
    assert (done["status"], done["error"]["class"]) == ("failed", "agent_error")
    assert "without a result" in done["error"]["message"]
