"""Claude Code, Codex, OpenCode and aider under opusd, as config.example.toml has them, printing what they really print.

The programs are stand-ins that replay tests/data/agent-streams; `make agents-real` runs the same stories with the real
ones.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.config.example import READY, section

REPLAY = Path(__file__).with_name("replay.py")
STREAMS = Path(__file__).parents[1] / "data" / "agent-streams"
DONE = "The feature is done: parser.py now handles empty input."
PROMPT = "Handle empty input in parser.py"


class Ways(NamedTuple):
    """How a program shows what happens to it: captures and exit codes; and how a session is named to it, if any."""

    limited: tuple[str, int]
    refused: tuple[str, int]
    overloaded: tuple[str, int]
    ok: str = "ok.jsonl"
    killed: str = "killed.jsonl"
    resumed: str = "killed_resumed.jsonl"
    session: str = ""
    resume: tuple[str, ...] = ()


WAYS = {
    "claude": Ways(
        limited=("subscription_limit.jsonl", 1),
        refused=("auth_error.jsonl", 1),
        overloaded=("overloaded.jsonl", 1),
        session=r'"session_id":"([^"]+)"',
        resume=("--resume", "{session}"),
    ),
    "codex": Ways(
        limited=("rate_limit.jsonl", 1),
        refused=("auth_error.jsonl", 1),
        overloaded=("overloaded.jsonl", 1),
        session=r'"thread_id":"([^"]+)"',
        resume=("resume", "{session}", "-"),
    ),
    "opencode": Ways(
        limited=("rate_limit.jsonl", 1),
        refused=("auth_error.jsonl", 1),
        overloaded=("overloaded.jsonl", 1),
        resumed="resumed.jsonl",
        session=r'"sessionID":"([^"]+)"',
        resume=("--session", "{session}"),
    ),
    "aider": Ways(
        limited=("rate_limit.txt", 0),
        refused=("auth_error.txt", 0),
        overloaded=("overloaded.txt", 0),
        ok="ok.txt",
        killed="killed.txt",
        resumed="ok.txt",
    ),
}


class Replayed:
    """A daemon and its one agent, whose n-th run does the n-th thing that it was told to."""

    def __init__(self, build, folder, name):
        self.name = name
        self.ways = WAYS[name]
        self.place = folder / name
        self.place.write_text(f'#!/bin/sh\nexec {sys.executable} {REPLAY} "$0" "$@"\n')
        self.place.chmod(0o755)
        at_once = 'retry = { strategy = "immediate", max_retries = 3 }\n'
        self.house = build(section(name) + at_once, env={"PATH": f"{folder}:{os.environ['PATH']}"})

    def will(self, *runs):
        """Each a capture, its exit code, and what else the replay knows: `gate`, `held`."""
        plan = [{"stream": f"{self.name}/{stream}", "code": code, **more} for stream, code, more in runs]
        self.place.with_suffix(".plan").write_text(json.dumps(plan))

    def runs(self):
        return json.loads(self.place.with_suffix(".runs").read_text())

    def submit(self):
        return self.house("job.submit", agent=self.name, prompt=PROMPT, cwd=str(self.house.work))["job"]

    def session_of(self, stream):
        """The session in a capture; None: the program has none."""
        if not self.ways.session:
            return None
        found = re.search(self.ways.session, (STREAMS / self.name / stream).read_text())
        return found[1]

    def went_on(self, session, why):
        """The second run took up this session in the same folder, told why; or began anew, where there is none."""
        first, second = self.runs()
        assert second["cwd"] == first["cwd"] == str(self.house.work)
        assert first["prompt"] == PROMPT
        if session is None:
            assert (second["argv"], second["prompt"]) == (first["argv"], PROMPT)
            return
        words = [word.format(session=session) for word in self.ways.resume]
        assert second["argv"][-len(words) :] == words
        assert session not in first["argv"]
        assert why in second["prompt"]
        assert second["prompt"].endswith(PROMPT)

    def classes(self, job):
        return [attempt["class"] for attempt in self.house("job.history", id=job["id"])["attempts"]]


@pytest.fixture(params=READY)
def program(request, build, tmp_path):
    return Replayed(build, tmp_path, request.param)


def test_a_job_is_done_as_its_program_tells(program):
    ways = program.ways
    program.will((ways.ok, 0, {}))
    done = program.house.ended(program.submit())
    assert (done["status"], done["attempts"], done["result"]["summary"]) == ("completed", 1, DONE)
    assert done["usage"]["input_tokens"] > 0
    assert done["session_id"] == program.session_of(ways.ok)
    [run] = program.runs()
    assert (run["prompt"], run["cwd"]) == (PROMPT, str(program.house.work))


def test_a_rate_limit_cools_the_agent_down_and_the_session_goes_on_at_no_cost(program):
    ways, house = program.ways, program.house
    program.will((*ways.limited, {}), (ways.ok, 0, {}))
    job = program.submit()
    house.until(lambda: house.get(job)["attempts"] == 1 and house.get(job)["status"] == "queued")
    assert house.get(job)["reason"].startswith(f"agent {program.name} cools down after a rate limit")
    house("queue.resume", agent=program.name)
    done = house.ended(job)
    assert (done["status"], done["attempts"], done["retries"]) == ("completed", 2, 0)
    assert program.classes(job) == ["rate_limited", None]
    program.went_on(program.session_of(ways.limited[0]), "rate_limited")


def test_a_refused_key_is_not_tried_again(program):
    program.will((*program.ways.refused, {}))
    done = program.house.ended(program.submit())
    assert (done["status"], done["error"]["class"], done["attempts"]) == ("failed", "auth", 1)


def test_an_overloaded_provider_is_tried_again(program):
    ways = program.ways
    program.will((*ways.overloaded, {}), (ways.ok, 0, {}))
    job = program.submit()
    done = program.house.ended(job)
    assert (done["status"], done["attempts"], done["retries"]) == ("completed", 2, 1)
    assert program.classes(job) == ["agent_error", None]
    program.went_on(program.session_of(ways.overloaded[0]), "agent_error: ")


def test_a_program_that_is_killed_in_the_middle_is_tried_again_where_it_stood(program):
    ways, house = program.ways, program.house
    last = (STREAMS / program.name / ways.killed).read_text().splitlines()[-1]
    program.will((ways.killed, 0, {"gate": str(house.gate())}), (ways.resumed, 0, {}))
    job = program.submit()
    house.output(job, last[-40:])
    os.kill(program.runs()[0]["pid"], signal.SIGKILL)
    done = house.ended(job)
    assert (done["status"], done["attempts"], done["retries"]) == ("completed", 2, 1)
    assert program.classes(job) == ["agent_error", None]
    session = program.session_of(ways.killed)
    program.went_on(session, "SIGKILL")
    assert done["session_id"] == session


def test_a_daemon_that_is_killed_in_the_middle_adopts_the_program_which_finishes_once(program):
    ways, house = program.ways, program.house
    gate = house.gate()
    begin = (STREAMS / program.name / ways.ok).read_text().splitlines()[0]
    program.will((ways.ok, 0, {"held": 1, "gate": str(gate)}))
    job = program.submit()
    house.output(job, begin[-40:])
    house.restart()
    assert house.get(job)["status"] == "running"
    gate.open()
    done = house.ended(job)
    assert (done["status"], done["attempts"], done["result"]["summary"]) == ("completed", 1, DONE)
    assert done["session_id"] == program.session_of(ways.ok)
    assert done["usage"]["input_tokens"] > 0
    assert len(program.runs()) == 1


def test_what_claude_asks_is_answered_in_its_session(build, tmp_path):
    claude = Replayed(build, tmp_path, "claude")
    house = claude.house
    claude.will(("asked.jsonl", 0, {}), ("answered.jsonl", 0, {}))
    job = claude.submit()
    house.until(lambda: house.get(job)["status"] == "needs_input")
    asked = {"id": 1, "text": "Which port should the service use?", "options": ["8080", "9090"]}
    assert house.get(job)["question"] == asked
    house("job.answer", id=job["id"], question=1, text="9090")
    done = house.ended(job)
    assert (done["status"], done["attempts"], done["retries"]) == ("completed", 2, 0)
    session = claude.session_of("asked.jsonl")
    assert done["session_id"] == session
    second = claude.runs()[1]
    assert second["argv"][-2:] == ["--resume", session]
    assert "> Which port should the service use?\n\n9090" in second["prompt"]
