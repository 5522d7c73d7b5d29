from __future__ import annotations

import json
import signal

import pytest


@pytest.fixture
def writing(daemon, job):
    """A daemon with the output of job 5, which is over; its holes are given as ranges."""

    def make(output: bytes, hole: range | None = None, status="completed"):
        def logs(params):
            start = params.get("offset", 0)
            dropped = 0
            if hole is not None and start in hole:
                dropped = hole.stop - start
            begin = start + dropped
            data = output[begin : begin + params["limit"]]
            if hole is not None and begin < hole.start:
                data = data[: hole.start - begin]
            end = begin + len(data)
            # latin-1 keeps one character a byte, so that the test's offsets stay simple
            text = data.decode("ascii")
            return {"data": text, "offset": begin, "next_offset": end, "dropped": dropped, "eof": end >= len(output)}

        attempt = {"attempt": 1, "agent": "exec", "started_at": "2025-11-24T09:00:00.000000Z", "log_bytes": len(output)}
        daemon.answers |= {
            "job.get": job(5, status),
            "job.logs": logs,
            "job.history": {"events": [], "attempts": [attempt], "chain": [5]},
        }
        return daemon

    return make


def test_output_that_is_piped_is_raw(opusctl, writing):
    writing(b"a\x1b[31mred\r\n\x07\tend")
    ran = opusctl("logs", "5")
    assert (ran.code, ran.out, ran.err) == (0, "a\x1b[31mred\r\n\x07\tend", "")


def test_output_on_a_terminal_cannot_act_on_it(on_terminal, writing):
    writing(b"a\x1b[31mred\r\n50%\r100%\n\x07\tend")
    assert on_terminal("logs", "5").out == "a\\x1b[31mred\n50%\n100%\n\\x07\tend\n"


def test_bytes_that_were_no_text_stay_what_the_daemon_made_of_them(opusctl, daemon, job):
    daemon.answers |= {
        "job.get": job(5, "completed"),
        "job.logs": {"data": "a\ufffdé", "offset": 0, "next_offset": 4, "dropped": 0, "eof": True},
    }
    assert opusctl("logs", "5").out == "a\ufffdé"


def test_a_gap_is_noted_on_stderr(opusctl, writing):
    writing(b"head" + bytes(5000) + b"tail", hole=range(4, 5004))
    ran = opusctl("logs", "5")
    assert ran.out == "headtail"
    assert "[4.9 KiB of output are not kept]" in ran.err


def test_the_last_bytes_or_lines(opusctl, writing):
    writing(b"".join(b"line %d\n" % n for n in range(100_000)))
    assert opusctl("logs", "5", "-n", "2").out == "line 99998\nline 99999\n"
    assert opusctl("logs", "5", "--tail", "5").out == "9999\n"
    assert opusctl("logs", "5", "-n", "99999").out.startswith("line 1\nline 2\n")
    assert len(opusctl("logs", "5", "-n", "200000").out.splitlines()) == 100_000
    assert opusctl("logs", "5", "-n", "0").out == ""


def test_a_job_that_was_not_started_has_no_output_and_says_why(opusctl, daemon, job):
    daemon.answers["job.get"] = job(5)
    ran = opusctl("logs", "5")
    assert (ran.code, ran.out) == (0, "")
    assert "was not started yet: waits for a slot" in ran.err


def test_one_attempt_can_be_asked_for(opusctl, writing):
    daemon = writing(b"x\n")
    assert opusctl("logs", "5", "--attempt", "1").out == "x\n"
    assert daemon.sent("job.logs")[0]["attempt"] == 1


def test_follow_of_a_finished_job_prints_it_and_ends(opusctl, writing):
    daemon = writing(b"x\n")
    daemon.answers["events.subscribe"] = {"subscription": 1, "cursor": 1}
    ran = opusctl("logs", "-f", "5")
    assert (ran.code, ran.out, ran.err) == (0, "x\n", "job 5 completed\n")


@pytest.mark.parametrize("words", [["logs", "-f", "5"], ["wait", "5"]])
def test_ctrl_c_detaches_and_says_how_to_come_back(words, spawn, daemon, job):
    import threading

    over = threading.Event()

    def forever(params):
        over.wait(20)
        return {"jobs": [], "done": True}

    daemon.answers |= {
        "job.get": job(5),
        "events.subscribe": {"subscription": 1, "cursor": 1},
        "job.wait": forever,
    }
    process = spawn(*words)
    daemon.wait_for("job.get", 2) if words[0] == "logs" else daemon_waits(daemon)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        over.set()
    assert process.returncode == 130
    assert b"detached" in err
    assert f"opusctl {' '.join(words)}".encode() in err
    assert b"Traceback" not in err
    assert not {"job.cancel"} & {method for method, _ in daemon.calls}


def daemon_waits(daemon):
    with daemon.called:
        assert daemon.called.wait_for(lambda: "job.wait" in daemon.under_way, timeout=10)


def test_output_that_the_agent_began_anew_is_read_from_its_start(opusctl, daemon, job):
    daemon.answers |= {
        "events.subscribe": {"subscription": 1, "cursor": 1},
        "job.get": lambda _: job(5, "running" if len(daemon.sent("job.logs")) < 2 else "completed"),
        "job.logs": [
            {"data": "long old text\n", "offset": 0, "next_offset": 14, "dropped": 0, "eof": False},
            {"data": "new\n", "offset": 0, "next_offset": 4, "dropped": 0, "eof": True},
        ],
    }
    ran = opusctl("logs", "-f", "5")
    assert ran.out == "long old text\nnew\n"
    assert "began its output anew" in ran.err


def test_an_attempt_whose_output_is_not_there_yet_is_not_skipped(opusctl, daemon, job, refusal):
    def not_yet(params):
        raise refusal(-32001, "not_found", "no output")

    event = {
        "cursor": 2,
        "time": "2025-11-24T09:00:00.000000Z",
        "kind": "job.completed",
        "job": 5,
        "actor": "scheduler",
    }
    daemon.notify_after["events.subscribe"] = [{"method": "event", "params": {"subscription": 1, "event": event}}]
    daemon.answers |= {
        "events.subscribe": {"subscription": 1, "cursor": 1},
        "job.get": lambda _: job(5, "running" if len(daemon.sent("job.logs")) < 2 else "completed"),
        "job.logs": [not_yet, {"data": "x\n", "offset": 0, "next_offset": 2, "dropped": 0, "eof": True}],
    }
    assert opusctl("logs", "-f", "5").out == "x\n"


def test_events_that_lag_and_a_daemon_that_restarts_leave_no_gap(spawn, daemon):
    def event(cursor):
        told = {
            "cursor": cursor,
            "time": "2025-11-24T09:00:00.000000Z",
            "kind": "job.started",
            "job": 5,
            "actor": "scheduler",
        }
        return {"method": "event", "params": {"subscription": 1, "event": told}}

    batches = {
        7: [event(8), {"method": "event.lagged", "params": {"subscription": 1, "cursor": 8}}],
        8: [event(9)],
        9: [event(10)],
    }

    def subscribe(params):
        daemon.notify_after["events.subscribe"] = batches.get(params["since"], [])
        return {"subscription": 1, "cursor": params["since"]}

    daemon.answers["events.subscribe"] = subscribe
    process = spawn("events", "-f", "--since", "7", "--json")
    lines = [process.stdout.readline() for _ in range(2)]
    daemon.drop_connections()
    lines.append(process.stdout.readline())
    assert [json.loads(line)["cursor"] for line in lines] == [8, 9, 10]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"opusctl events -f --since 10" in err
