"""One POST as Standard Webhooks has it, and the status of its answer.

A few lines of HTTP/1.1 over asyncio's streams, for there is nothing else to it: no redirect is followed, no proxy
asked, no body read, and one bound holds for all of it, from the name's lookup to the last header, with no thread that
may hang. TLS is verified as the machine says. http goes to a loopback address alone, whatever the name resolves to.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from opusd import __version__

_PREFIX: Final = "whsec_"
_MOST_HEADERS: Final = 32 << 10
_MOST_INTERIM: Final = 5


class SecretError(Exception):
    """The signing secret is none; the message does not hold it."""


class Answer(msgspec.Struct, frozen=True):
    """`status` None: there was no answer, and `problem` says why, without the address."""

    status: int | None
    problem: str = ""
    retry_after: str = ""

    def rest(self, now: float) -> float:
        """The seconds of Retry-After, which is a number or a date; 0 for anything else."""
        if self.retry_after.isascii() and self.retry_after.isdecimal():
            return float(self.retry_after[:12])
        try:
            return max(0.0, parsedate_to_datetime(self.retry_after).timestamp() - now)
        except (ValueError, TypeError, OverflowError):
            return 0.0


def key_of(secret: str) -> bytes:
    """The bytes of `whsec_<base64>`: 24 to 64 of them."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not key or not secret.startswith(_PREFIX):
        raise SecretError("secret: whsec_ and base64 are expected")
    if not 24 <= len(key) <= 64:
        raise SecretError(f"secret: 24 to 64 bytes in base64 are expected, not {len(key)}")
    return key


def signed(message: str, seconds: int, body: bytes, key: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks: id, time of this try, and the signature over both and the body."""
    content = b".".join([message.encode(), str(seconds).encode(), body])
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {"webhook-id": message, "webhook-timestamp": str(seconds), "webhook-signature": f"v1,{signature}"}


class Poster:
    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    async def post(self, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Answer:
        """What the receiver answers within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(urlsplit(url), headers, body)
        except TimeoutError:
            return Answer(None, f"no answer within {seconds:g} s")
        except ssl.SSLCertVerificationError as error:
            return Answer(None, f"its certificate is refused: {error.verify_message}")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return Answer(None, "what it answers is not HTTP")
        except OSError as error:
            return Answer(None, _reason(error))

    async def _exchange(self, url: SplitResult, headers: dict[str, str], body: bytes) -> Answer:
        host = url.hostname or ""
        tls: ssl.SSLContext | None = None
        place = host
        if url.scheme == "http":
            place = await _loopback(host, url.port or 80)
        else:
            tls = self._context = self._context or ssl.create_default_context()
        reader, writer = await asyncio.open_connection(
            place,
            url.port or (80 if tls is None else 443),
            ssl=tls,
            server_hostname=None if tls is None else host,
            limit=_MOST_HEADERS,
        )
        try:
            writer.write(_head(url, headers, len(body)) + body)
            await writer.drain()
            for _ in range(_MOST_INTERIM):
                answer = _parsed(await reader.readuntil(b"\r\n\r\n"))
                if answer.status is None or answer.status >= 200:
                    return answer
            raise ValueError("interim answers without end")
        finally:
            writer.transport.abort()  # of what else it may send, nothing is wanted


def _reason(error: OSError) -> str:
    """In the system's words: asyncio's own hold the address."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or "it can't be reached"


async def _loopback(host: str, port: int) -> str:
    """An address of the host; OSError unless all that it has are this machine's own."""
    addresses = [str(place[0]) for *_, place in await _lookup(host, port)]
    if not addresses or not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise OSError(0, "its name does not lead to this machine, and http goes nowhere else")
    return addresses[0]


async def _lookup(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _head(url: SplitResult, headers: dict[str, str], length: int) -> bytes:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    fields = {
        "Host": url.netloc,
        "User-Agent": f"opusd/{__version__}",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        "Connection": "close",
        **headers,
    }
    return "\r\n".join(
        [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    ).encode()


def _parsed(head: bytes) -> Answer:
    """ValueError for what is no status line."""
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith("HTTP/1.") or not (rest[:3].isascii() and rest[:3].isdecimal() and len(rest) >= 3):
        raise ValueError("no status line")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(rest[:3]), retry_after=fields.get("retry-after", ""))
