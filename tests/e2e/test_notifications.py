"""Notifications of a real daemon: to real programs and real servers, over kill -9 and reloads."""

import base64
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest
from standardwebhooks.webhooks import Webhook

PATIENCE = 10.0
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver:
    """A server on 127.0.0.1: `got` is a queue of (headers, body); `gate` holds its answers back while it is clear."""

    def __init__(self):
        self.got = Queue()
        self.status = 204
        self.gate = threading.Event()
        self.gate.set()
        receiver = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                receiver.got.put((dict(self.headers.items()), body))
                receiver.gate.wait(PATIENCE)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def message(self):
        """The next one, verified as the reference implementation does: (id, JSON)."""
        headers, body = self.got.get(timeout=PATIENCE)
        Webhook(SECRET).verify(body, headers)
        return {name.lower(): value for name, value in headers.items()}["webhook-id"], json.loads(body)

    def close(self):
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def webhook(receiver, *on, name="hook", more=""):
    return (
        f'[[notifications]]\nname = "{name}"\non = {json.dumps(on)}\nurl = "{receiver.url}"\n'
        f'secret = {{ from_env = "HOOK_SECRET" }}\n{more}\n'
    )


def logged(house, words):
    """Until the daemon has logged these."""
    end = time.monotonic() + PATIENCE
    while words not in house.said():
        assert time.monotonic() < end, f"{words} is not in the log"
        time.sleep(0.01)


def test_a_dead_letter_is_told_to_a_program_on_its_stdin_and_to_a_signed_webhook(build, receiver, tmp_path):
    note = tmp_path / "note"
    os.mkfifo(note)
    command = f'[[notifications]]\nname = "desk"\non = ["failed"]\ncommand = ["tee", "{note}"]\n'
    house = build(webhook(receiver, "failed") + command, env={"HOOK_SECRET": SECRET})
    job = house.sh("echo very private; exit 3", title="also private")
    assert house.ended(job)["status"] == "failed"
    _, message = receiver.message()
    assert message["type"] == "job.failed"
    assert message["data"]["job"] == job["id"]
    assert message["data"]["class"] == "agent_error"
    assert "private" not in json.dumps(message)
    assert json.loads(note.read_text()) == message


def test_a_message_that_was_under_way_when_the_daemon_was_killed_is_sent_again_with_the_same_id(build, receiver):
    house = build(webhook(receiver, "failed"), env={"HOOK_SECRET": SECRET})
    receiver.gate.clear()
    house.ended(house.sh("exit 1"))
    first, message = receiver.message()
    house.kill()
    receiver.gate.set()
    house.start()
    assert receiver.message() == (first, message)
    house.ended(house.sh("exit 2"))
    second, _ = receiver.message()
    assert second != first
    assert receiver.got.empty()


def test_what_happened_while_no_daemon_ran_is_told_of_by_the_next(build, receiver):
    house = build(webhook(receiver, "failed", "drained"), env={"HOOK_SECRET": SECRET})
    gate = house.gate()
    job = house.sh(f"{gate.wait}; exit 4")
    house.begun(job)
    house.kill()
    gate.open()
    house.start()
    assert house.ended(job)["status"] == "failed"
    told = [receiver.message()[1] for _ in range(2)]
    assert [message["type"] for message in told] == ["job.failed", "queue.drained"]
    gate.close()


def test_a_job_that_had_to_wait_and_an_interactive_one_that_is_done_are_told_of(build, receiver):
    config = webhook(receiver, "started", "completed", more='waited = 0\ninclude = ["title"]')
    house = build(config, env={"HOOK_SECRET": SECRET})
    house.ended(house.submit("true"))
    assert receiver.message()[1]["type"] == "job.started"
    house.ended(house.submit("true", interactive=True, title="for me"))
    told = [receiver.message()[1] for _ in range(2)]
    assert [message["type"] for message in told] == ["job.started", "job.completed"]
    assert told[1]["data"]["title"] == "for me"
    assert receiver.got.empty()


def test_a_reload_takes_over_new_notifications_and_refuses_bad_ones(build, receiver):
    house = build("", env={"HOOK_SECRET": SECRET})
    house.ended(house.sh("exit 1"))
    house.configure(webhook(receiver, "failed"))
    house("system.reload")
    job = house.ended(house.sh("exit 2"))
    assert receiver.message()[1]["data"]["job"] == job["id"]
    house.configure(webhook(receiver, "failed").replace("127.0.0.1", "192.0.2.1"))
    assert "http goes to this machine alone" in house.refused("system.reload").message
    job = house.ended(house.sh("exit 3"))
    assert receiver.message()[1]["data"]["job"] == job["id"]


def test_a_sink_in_trouble_is_named_and_a_test_says_what_comes_of_it(build, receiver):
    house = build(webhook(receiver, "failed"), env={"HOOK_SECRET": SECRET})
    assert house("notification.test", name="hook") == {"ok": True, "problem": None}
    assert receiver.message()[1]["type"] == "notification.test"
    receiver.status = 410
    house.ended(house.sh("exit 1"))
    receiver.message()
    logged(house, "notification.failed")
    assert house("system.info")["degraded"] == [
        "notification hook: HTTP 410: the receiver is gone; given up until a reload"
    ]
    assert house("system.info")["config"]["notifications"] == ["hook"]
    [one] = house("notification.list")["notifications"]
    assert (one["gone"], one["waiting"], one["to"]) == (True, 1, "webhook")
    assert house.refused("notification.test", name="hock").code == -32001


def test_neither_secret_nor_address_nor_text_of_jobs_is_logged_kept_or_shown(build, receiver):
    config = webhook(receiver, "failed", more='include = ["title"]').replace("/hook", "/T0KEN")
    house = build(config, env={"HOOK_SECRET": SECRET}, arguments=["--log-level", "debug"])
    receiver.status = 500
    house.ended(house.sh("echo PRINTED; exit 1", env={"PLAIN": "VALUE"}, title="TITLE"))
    _, message = receiver.message()
    assert message["data"]["title"] == "TITLE"
    logged(house, "notification.failed")
    shown = json.dumps([house("system.info"), house("notification.list"), house("events.subscribe", since=0)])
    house.kill()
    kept = (house.state / "opusd.db").read_bytes() + (house.state / "opusd.db-wal").read_bytes()
    assert b"outbox:msg_" in kept
    said = house.said()
    assert "TITLE" not in said
    for word in (SECRET, SECRET.removeprefix("whsec_"), "T0KEN"):
        assert word not in said
        assert word not in shown
        assert word.encode() not in kept
