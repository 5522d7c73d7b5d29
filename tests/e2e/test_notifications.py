"""Notifications of a real daemon: to real programs and real servers, over kill -9 and reloads."""

import base64
import json
import os
import threading
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
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

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
