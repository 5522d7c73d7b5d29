"""Webhooks against real servers on this machine, good and bad; signatures against the reference implementation."""

import asyncio
import base64
import json
import socket
import ssl
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from opusd.clock import SystemClock
from opusd.config.notifications import Sink
from opusd.observers import sending
from opusd.observers.outbox import Entry
from opusd.observers.sending import Sender, Sent
from opusd.observers.webhook import Answer, Poster, SecretError, key_of, signed

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

TLS = Path(__file__).parents[1] / "data" / "tls"
CLOCK = SystemClock()
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
BODY = json.dumps({"type": "job.failed", "timestamp": "2026-01-01T00:00:00.000000Z", "data": {"text": "ü"}})
ENTRY = Entry("msg_1", 1, "hook", "job.failed", BODY, 0)


class Server(ThreadingHTTPServer):
    """Answers every request with `status` and `headers`; `got` is a queue of (path, headers, body)."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, status=200, headers=(), *, tls=False):
        self.got = Queue()
        self.status, self.headers = status, dict(headers)
        super().__init__(("127.0.0.1", 0), Answering)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://localhost:{self.server_port}/hook?a=b"

    def handle_error(self, request, client_address):
        """A client that hangs up is what some of these tests are about."""


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.got.put((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving(*args, **fields):
    with Server(*args, **fields) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def saying(*parts, then=None):
    """The URL of a server that sends these bytes after the request's first, waits for `then`, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as ear:

        def serve():
            connection, _ = ear.accept()
            with connection:
                connection.recv(1 << 16)
                try:
                    for part in parts:
                        connection.sendall(part)
                    if then is not None:
                        then.wait(10)
                except OSError:
                    pass  # it heard enough

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{ear.getsockname()[1]}/"
        finally:
            if then is not None:
                then.set()
            thread.join()


async def send(url, *, secret=None, environ=None):
    sink = Sink(name="hook", on=frozenset(["failed"]), url=url, secret=secret or {"from_env": "SECRET"})
    sender = Sender({"SECRET": SECRET} if environ is None else environ, SystemClock(), lambda *_, **__: None)
    async with asyncio.timeout(10):
        return await sender.send(sink, ENTRY)


async def post(url, seconds=5.0):
    async with asyncio.timeout(10):
        return await Poster().post(url, {}, b"{}", seconds)


# --- the request ----------------------------------------------------------------------------------


async def test_the_reference_implementation_accepts_what_is_sent():
    with serving() as server:
        assert await send(server.url) == Sent(ok=True)
        path, headers, body = server.got.get(timeout=5)
    assert path == "/hook?a=b"
    assert Webhook(SECRET).verify(body, headers) == json.loads(BODY)
    assert (headers["webhook-id"], headers["content-type"]) == ("msg_1", "application/json")
    assert headers["host"] == f"localhost:{server.server_port}"
    assert abs(int(headers["webhook-timestamp"]) - CLOCK.now() / 1e6) < 60
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    for secret, changed in ((other, body), (SECRET, body + " ")):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(changed, headers)


async def test_a_signature_is_that_of_the_specification():
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', key_of(secret))
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_secret_is_read_from_its_file_at_each_try(tmp_path):
    file = tmp_path / "secret"
    where = {"from_file": str(file)}
    with serving() as server:
        sent = await send(server.url, secret=where)
        assert (sent.ok, "No such file" in sent.message) == (False, True)
        file.write_text(SECRET + "\n")
        assert await send(server.url, secret=where) == Sent(ok=True)


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "nothing", base64.b64encode(KEY).decode(), "whsec_!!!!", "whsec_" + "A" * 4, "whsec_" + "A" * 200],
)
async def test_a_secret_that_is_none_is_no_end_and_never_shown(secret):
    sent = await send("http://127.0.0.1:9/", environ={"SECRET": secret})
    assert not sent.ok
    assert sent.message.startswith("secret: ")
    assert secret in {"", "whsec_"} or secret not in sent.message
    with pytest.raises(SecretError):
        key_of(secret)


async def test_a_variable_that_is_not_there_is_named():
    assert "no SECRET" in (await send("http://127.0.0.1:9/", environ={})).message


# --- the answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_taken(status):
    with serving(status) as server:
        assert (await send(server.url)).ok


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(status):
    with serving() as other, serving(status, {"Location": other.url}) as server:
        sent = await send(server.url)
        assert (sent.ok, sent.message) == (False, f"HTTP {status}, a redirect, which is not followed")
        with pytest.raises(Empty):
            other.got.get_nowait()


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_other_answers_are_failures(status):
    with serving(status) as server:
        assert await send(server.url) == Sent(ok=False, message=f"HTTP {status}")


async def test_410_says_that_the_receiver_is_gone():
    with serving(410) as server:
        assert (await send(server.url)).gone


@pytest.mark.parametrize(
    ("status", "given", "rest"),
    [
        (429, "120", 120.0),
        (503, "7", 7.0),
        (503, "999999999", sending.LONGEST_REST),
        (500, "120", 0.0),
        (429, "soon", 0),
    ],
)
async def test_retry_after_is_honoured_within_a_day_where_it_has_a_meaning(status, given, rest):
    with serving(status, {"Retry-After": given}) as server:
        assert (await send(server.url)).rest == rest


async def test_retry_after_may_be_a_date():
    now = CLOCK.now() / 1e6
    assert 58 <= Answer(503, retry_after=formatdate(now + 60, usegmt=True)).rest(now) <= 60
    assert Answer(503, retry_after=formatdate(now - 60, usegmt=True)).rest(now) == 0.0
    assert Answer(503, retry_after="9" * 500).rest(now) > 1e9


async def test_interim_answers_are_passed_over():
    with saying(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n") as url:
        assert (await post(url)).status == 204


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200", b"HTTP/1.1 100 C\r\n\r\n" * 9,
     b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 100_000],
)  # fmt: skip
async def test_what_is_not_http_or_without_end_is_a_failure(answer):
    with saying(answer) as url:
        found = await post(url)
    assert found.status is None
    assert found.problem in {"what it answers is not HTTP", "Connection reset by peer"}


async def test_a_body_without_end_is_not_read():
    over = threading.Event()
    with saying(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (1 << 16), then=over) as url:
        assert (await post(url)).status == 200


async def test_a_server_that_never_answers_is_given_up_after_the_bound():
    over = threading.Event()
    with saying(then=over) as url:
        assert (await post(url, 0.1)).problem == "no answer within 0.1 s"


async def test_a_server_that_answers_by_drops_is_given_up_after_the_same_bound():
    over = threading.Event()
    with saying(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", then=over) as url:
        assert (await post(url, 0.2)).status is None


async def test_nobody_there_says_so_without_the_address():
    with socket.create_server(("127.0.0.1", 0)) as ear:
        url = f"http://127.0.0.1:{ear.getsockname()[1]}/private"
    found = await post(url)
    assert found.status is None
    assert "refused" in found.problem
    assert "private" not in found.problem


# --- where it goes --------------------------------------------------------------------------------


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_said():
    with serving(tls=True) as server:
        sent = await send(server.url)
        assert sent.message.startswith("its certificate is refused: self")
        with pytest.raises(Empty):
            server.got.get_nowait()


async def test_a_certificate_that_the_machine_trusts_is_taken_for_its_own_name_alone(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "cert.pem"))
    with serving(tls=True) as server:
        assert await send(server.url) == Sent(ok=True)
        assert "certificate is refused" in (await send(server.url.replace("localhost", "[::ffff:127.0.0.1]"))).message


async def test_http_goes_nowhere_when_its_name_leads_off_this_machine(monkeypatch):
    asked = []

    async def lead_astray(host, port):
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port)),
        ]

    with serving() as server:
        monkeypatch.setattr("opusd.observers.webhook._lookup", lead_astray)
        sent = await send(server.url)
        assert "does not lead to this machine" in sent.message
        with pytest.raises(Empty):
            server.got.get_nowait()
    assert asked == ["localhost"]


async def test_no_proxy_of_the_environment_is_asked(monkeypatch):
    with serving(418) as proxy, serving() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert (await send(server.url)).ok
