"""What may happen to a job of an agent, each as a story on a daemon of its own; a story gives the cell of the table.

A cell says what was seen, and a story fails where opusd did not keep its word. What a program simply can't do is seen,
too: aider has no sessions, and so begins anew; who has no tool to ask with asks nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from opusd.agents.traces import read_claim
from opusd.core.times import from_rfc3339, to_rfc3339
from tests.agents_real import programs
from tests.agents_real.model_api import QUESTION, ModelApi
from tests.config.example import section
from tests.e2e.conftest import ROOT, House

PATIENCE = 300.0
TICKET = "ticket 4711"
PROMPT = f"Handle empty input in parser.py ({TICKET})"
MADE = "made_by_agent.txt"


class Story:
    """One program, one scenario: a daemon with the program's section of config.example.toml, and its model API."""

    def __init__(self, program, name, folder):
        self.program = program
        self.name = name
        self.folder = folder
        self.worked = False
        self.api = ModelApi()
        self.house = House(
            Path(tempfile.mkdtemp(prefix="opusd-", dir="/var/tmp")),
            config=section(program.name),
            env=programs.environment(folder, self.api.port),
        )
        self.house.env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'clients'}"
        programs.furnish(self.house.work, self.api.port)
        self.project = programs.project(self.house.work)

    def __enter__(self):
        self.house.start()
        return self

    def __exit__(self, *_):
        self.api.close()
        try:
            self.house.clean_up()
        finally:
            self._keep_streams()
            shutil.rmtree(self.house.folder, ignore_errors=True)

    def _keep_streams(self):
        """What each attempt printed, with the names of home and project as in tests/data/agent-streams."""
        renamed = {str(self.project): "/home/user/project", str(self.house.work): "/home/user"}
        renamed |= {name.replace("/", "-"): new.replace("/", "-") for name, new in renamed.items()}
        for log in sorted(self.house.state.glob("runs/*/*/output.log")):
            text = log.read_text(errors="replace")
            for name, new in renamed.items():
                text = text.replace(name, new)
            programs.write(self.folder / "streams" / self.program.name / f"{self.name}.{log.parent.name}", text)

    # --- what a story does ------------------------------------------------------------------------

    def submit(self, **fields):
        self.job = self.house("job.submit", agent=self.program.name, prompt=PROMPT, cwd=str(self.project), **fields)
        self.job = self.job["job"]

    def look(self):
        self.job = self.house.get(self.job["id"])
        return self.job

    def attempts(self):
        return self.house("job.history", id=self.job["id"])["attempts"]

    def until(self, *statuses):
        self.house.until(lambda: self.look()["status"] in statuses, PATIENCE)

    def until_over(self):
        self.until("completed", "failed")

    def until_the_first_attempt_is_over(self):
        self.house.until(lambda: self.attempts()[:1] and self.attempts()[0]["ended_at"], PATIENCE)

    def work_until(self, act):
        """A command first, where the program runs commands, and then this act."""
        self.worked = self.program.tools
        self.api.play(*(("shell", act) if self.worked else (act,)))
        self.submit()
        assert self.api.wait_for(act, PATIENCE), f"no request came that is to {act}\n{self.house.said()}"

    def kill_the_program(self):
        """SIGKILL to the agent and all that it started."""
        claim = read_claim(self.house.state / "runs" / str(self.job["id"]) / "1")
        doomed = [claim.agent[0]]
        for pid in doomed:
            doomed += self.house.children(pid)
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def opusctl(self, *words):
        done = subprocess.run(
            [sys.executable, "-m", "opusctl", "--socket", str(self.house.socket), *words],
            env=self.house.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    # --- what was seen ----------------------------------------------------------------------------

    def told(self):
        """The conversation that the model was last asked to go on with: the one with the most of our words in it."""
        return max(self.api.asked("say"), key=lambda body: body.count(TICKET), default="")

    def again(self):
        """How the second attempt went on: in the same session, which is in the conversation and in the attempts."""
        first, second = self.attempts()
        if first["session_id"] is None and second["session_id"] is None:
            assert self.told().count(TICKET) == 1, self.told()[-2000:]
            return "begun anew in the same folder"
        assert first["session_id"] == second["session_id"], (first, second)
        assert self.told().count(TICKET) > 1, self.told()[-2000:]
        return "session resumed"

    def holds(self, status, attempts, retries=0):
        job = self.look()
        seen = (job["status"], job["attempts"], job["retries"])
        assert seen == (status, attempts, retries), (seen, job["reason"], job["error"], self.house.logs(job)[-2000:])
        assert not self.worked or (self.project / MADE).exists()

    def tokens(self):
        usage = self.look()["usage"] or {}
        counted = f"{usage['input_tokens']} tokens in, {usage['output_tokens']} out" if usage else "tokens not told"
        cost = usage.get("cost_usd")
        return counted + (f", ${cost:.4f}" if cost else "")


def ok(story):
    """it does its work"""
    story.work_until("say")
    story.until_over()
    story.holds("completed", 1)
    return f"completed, 1 attempt; {story.tokens()}"


def limited(story):
    """its provider refuses for now (429), then answers"""
    story.api.play("limited")
    story.submit()
    story.until_the_first_attempt_is_over()
    first = story.attempts()[0]
    assert first["class"] == "rate_limited", first
    event = next(
        event for event in story.house("job.history", id=story.job["id"])["events"]
        if event["kind"] == "job.queued" and event["detail"].get("rate_limited")
    )  # fmt: skip
    named = event["detail"]["until"] < _later(event["time"], 30)
    story.api.play("say")
    story.until_over()
    story.holds("completed", 2)
    waited = "cooled down until the reset that it named" if named else "cooled down a minute, for it named no reset"
    return f"{waited}; {story.again()}, completed, 2 attempts, no retry spent"


def refused(story):
    """its key is refused (401)"""
    story.api.play("refused")
    story.submit()
    story.until_over()
    story.holds("failed", 1)
    assert story.job["error"]["class"] == "auth", story.job["error"]
    return "failed as auth, 1 attempt, not retried"


def overloaded(story):
    """its provider is overloaded (529, 503), then answers"""
    story.api.play("overloaded")
    story.submit()
    story.until_the_first_attempt_is_over()
    first = story.attempts()[0]
    assert first["class"] == "agent_error", first
    assert "overload" in first["message"].lower(), first
    story.api.play("say")
    story.until_over()
    story.holds("completed", 2, retries=1)
    return f"retried; {story.again()}, completed, 2 attempts"


def killed(story):
    """it is killed in the middle (SIGKILL)"""
    story.work_until("hang")
    story.kill_the_program()
    story.until_the_first_attempt_is_over()
    first = story.attempts()[0]
    assert first["signal"] == signal.SIGKILL, first
    story.api.play("say")
    story.until_over()
    story.holds("completed", 2, retries=1)
    if story.program.tools:
        assert MADE in story.told(), story.told()[-2000:]
    return f"retried; {story.again()}, completed, 2 attempts"


def restarted(story):
    """the daemon is killed in the middle (kill -9)"""
    story.work_until("hang")
    story.house.kill()
    story.house.start()
    assert story.look()["status"] == "running", story.job
    story.api.release()
    story.until_over()
    story.holds("completed", 1)
    return "adopted, completed once, 1 attempt"


def asks(story):
    """it has a question"""
    story.api.play("ask", "say")
    story.submit()
    story.until("needs_input", "completed", "failed")
    if story.look()["status"] != "needs_input":
        story.holds("completed", 1)
        return f"can't ask: {_why_it_could_not_ask(story)}"
    question = story.job["question"]
    assert question["text"] == QUESTION["question"], question
    assert question["options"] == [option["label"] for option in QUESTION["options"]], question
    story.api.play("say")
    story.opusctl("answer", str(story.job["id"]), "9090")
    story.until_over()
    story.holds("completed", 2)
    assert "9090\\n\\nGo on" in story.told(), story.told()[-2000:]
    assert TICKET in story.told()
    first, second = story.attempts()
    assert first["session_id"] == second["session_id"], (first, second)
    return "needs input; answered with opusctl answer, session resumed with it, completed, 2 attempts"


def _why_it_could_not_ask(story):
    """In the words of the program, or of what it offered to its model."""
    tools = _tools(story.api.asked("ask") or story.api.asked("say"))
    if not tools:
        return "it gives its model no tools"
    asking = next((name for name in ("AskUserQuestion", "request_user_input", "question") if name in tools), None)
    if asking is None:
        return "among the tools it gives its model none asks"
    answer = next(
        item["output"] for item in json.loads(story.told())["input"] if item.get("type") == "function_call_output"
    )
    return f"it answers its model “{answer}”"


def _tools(bodies):
    return {
        tool.get("name") or (tool.get("function") or {}).get("name")
        for body in bodies for tool in json.loads(body).get("tools") or ()
    }  # fmt: skip


def _later(time, seconds):
    return to_rfc3339(from_rfc3339(time) + seconds * 1_000_000)


SCENARIOS = (ok, limited, refused, overloaded, killed, restarted, asks)
