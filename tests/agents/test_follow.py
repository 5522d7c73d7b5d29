"""Following outputs: what is heard while they grow, and what is judged when they are over."""

from __future__ import annotations

import asyncio
import re

import pytest

from opusd.agents.adapters.base import Observation, Progress, Session, Verdict
from opusd.agents.adapters.claude import Claude
from opusd.agents.adapters.text import Text
from opusd.agents.follow import Follower, Listening
from opusd.agents.spec import Chunk, Exit
from opusd.core.retry import FailureClass

KEY = (7, 2)
WELL = Exit(kind="exit", code=0)
INIT = '{"type":"system","subtype":"init","session_id":"s1"}\n'
RESULT = '{"type":"result","is_error":false,"result":"done","session_id":"s1"}\n'


class Output:
    """A log that the test writes, read as the pool reads it: what there is, else a wait for more or the end."""

    def __init__(self) -> None:
        self.data = b""
        self.over = False
        self.reads = 0
        self.dropped = 0
        self._changed = asyncio.Event()

    def write(self, text: str) -> None:
        self.data += text.encode()
        self._changed.set()

    def close(self) -> None:
        self.over = True
        self._changed.set()

    async def read(self, job: int, attempt: int, offset: int, limit: int, wait_s: float) -> Chunk:
        assert (job, attempt) == KEY
        self.reads += 1
        while offset >= len(self.data) and not self.over:
            self._changed.clear()
            await self._changed.wait()
        part = self.data[offset : offset + limit]
        dropped, self.dropped = self.dropped, 0
        end = offset + len(part)
        return Chunk(
            data=part.decode("utf-8", "replace"),
            offset=offset,
            next_offset=end,
            dropped=dropped,
            eof=self.over and end >= len(self.data),
        )


class Ear:
    def __init__(self, output: Output) -> None:
        self.seen: list[Observation] = []
        self.active: list[bool] = []
        self.log: list[str] = []
        self._heard = asyncio.Event()
        self.follower = Follower(output.read, self.hear, lambda event, **_: self.log.append(event))

    def hear(self, key: tuple[int, int], seen: list[Observation], active: bool) -> None:
        assert key == KEY
        self.seen += seen
        self.active.append(active)
        self._heard.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.active) < count:
                self._heard.clear()
                await self._heard.wait()

    async def verdict(self, listening: Listening, how: Exit = WELL, tail: str = "") -> Verdict:
        async with asyncio.timeout(10):
            return await self.follower.verdict(KEY, listening, how, 0, tail)


async def test_what_is_printed_is_heard_while_it_runs_and_judged_at_the_end() -> None:
    output = Output()
    ear, listening = Ear(output), Listening(Claude())
    ear.follower.follow(KEY, listening)
    output.write(INIT)
    await ear.until(1)
    assert ear.seen == [Session("s1")]
    output.write(RESULT)
    output.close()
    verdict = await ear.verdict(listening)
    assert (verdict.failure, verdict.summary, verdict.session_id) == (None, "done", "s1")


async def test_an_attempt_that_ended_unheard_is_read_from_its_beginning() -> None:
    output = Output()
    output.write(INIT + RESULT)
    output.close()
    ear = Ear(output)
    assert (await ear.verdict(Listening(Claude()))).summary == "done"
    assert ear.seen[0] == Session("s1")


async def test_following_twice_is_following_once() -> None:
    output = Output()
    ear, listening = Ear(output), Listening(Claude())
    ear.follower.follow(KEY, listening)
    ear.follower.follow(KEY, Listening(Claude()))
    output.write(INIT + RESULT)
    output.close()
    assert (await ear.verdict(Listening(Claude()))).summary == "done"  # the first one's adapter heard it
    assert ear.seen.count(Session("s1")) == 1


async def test_lost_bytes_are_told_to_the_adapter_so_that_half_an_event_is_none() -> None:
    output = Output()
    ear, listening = Ear(output), Listening(Claude())
    ear.follower.follow(KEY, listening)
    output.write('{"type":"result","is_error":true,')
    await ear.until(1)
    output.dropped = 4096
    output.write(RESULT)
    output.close()
    assert (await ear.verdict(listening)).failure is None


@pytest.mark.parametrize(("text", "active"), [("step 1\n", True), ("waiting\n", False), ("12%\rstep 2\r", True)])
async def test_only_lines_that_match_are_a_sign_of_progress(text: str, active: bool) -> None:
    output = Output()
    ear = Ear(output)
    ear.follower.follow(KEY, Listening(Text(), re.compile("^step")))
    output.write(text)
    await ear.until(1)
    assert ear.active == [active]
    ear.follower.close()


async def test_all_lines_of_a_piece_are_looked_at_though_the_first_matches() -> None:
    output = Output()
    ear = Ear(output)
    ear.follower.follow(KEY, Listening(Text(), re.compile("^step")))
    output.write("step 1\nste")
    await ear.until(1)
    output.write("p 2\n")
    await ear.until(2)
    assert ear.active == [True, True]
    ear.follower.close()


async def test_an_adapter_with_a_fault_loses_no_job() -> None:
    class Broken(Text):
        def feed(self, text: str) -> list[Observation]:
            raise ZeroDivisionError

    for how, failure in ((WELL, FailureClass.AGENT_ERROR), (Exit(kind="lost", message="gone"), FailureClass.LOST)):
        output = Output()
        output.write("x")
        output.close()
        ear = Ear(output)
        verdict = await ear.verdict(Listening(Broken()), how, "the tail")
        assert (verdict.failure, verdict.summary) == (failure, "the tail")
        assert "its output can't be read" in verdict.message
        assert ear.log == ["output.unreadable"]


async def test_much_output_is_read_off_the_loop_and_all_of_it() -> None:
    output = Output()
    line = '{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","input":{"command":"ls"}}]}}\n'
    output.write(line * 20_000)
    output.close()
    ear = Ear(output)
    await ear.verdict(Listening(Claude()))
    assert ear.seen == [Progress("Bash: ls")] * 20_000


async def test_who_is_forgotten_is_heard_no_more() -> None:
    output = Output()
    ear = Ear(output)
    ear.follower.follow(KEY, Listening(Text()))
    ear.follower.forget(KEY)
    output.write("x")
    output.close()
    verdict = await ear.verdict(Listening(Text()), tail="x")  # which begins anew
    assert (verdict.failure, ear.active) == (None, [True])
