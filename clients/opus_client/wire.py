"""What both clients share: where the socket is, what a line says, and what is raised. It does no I/O."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from opusd.api.framing import LINE_LIMIT, encode_call
from opusd.api.method import Method

R = TypeVar("R")

UNSUBSCRIBE: Final = "events.unsubscribe"
SUBSCRIBE: Final = "events.subscribe"


class RpcError(Exception):
    """The daemon refused: `code` as in the contract, `message` for people, `data["code"]` the stable word."""

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class ConnectionLost(ConnectionError):
    """The daemon went away; what was asked may have been done. A submit with a key can be repeated."""


class Lagged(Exception):
    """The subscription has ended, for events were not taken fast enough. Subscribe again since `cursor`."""

    def __init__(self, cursor: int) -> None:
        super().__init__(f"events were not taken fast enough; subscribe again since {cursor}")
        self.cursor = cursor


class Incoming(msgspec.Struct):
    """A line from the daemon: a reply (`result` or `error`) or a notification (`method`)."""

    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | None = None
    method: str | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)

    def value(self) -> Any:
        """The result as plain dicts and lists, or RpcError."""
        return msgspec.json.decode(self.raw())

    def raw(self) -> msgspec.Raw:
        if self.error is not None:
            raise RpcError(self.error["code"], self.error["message"], self.error.get("data") or {})
        return self.result


decode = msgspec.json.Decoder(Incoming).decode


def typed(method: Method[Any, R], result: msgspec.Raw) -> R:
    """The result as the method declares it; fields that this version does not know are ignored."""
    kind: Any = method.result
    if method.group_result is not None and b'"jobs"' in bytes(memoryview(result)[:10]):
        kind = method.group_result
    decoded: R = msgspec.json.decode(result, type=kind)
    return decoded


def encode(method: str, params: object, call: int | None) -> bytes:
    """The line of a call, or with None of a notification; ValueError when it is longer than the daemon takes."""
    line = encode_call(method, params, msgspec.UNSET if call is None else call)
    if len(line) > LINE_LIMIT:
        raise ValueError(f"this call has {len(line)} bytes; the daemon takes {LINE_LIMIT}")
    return line + b"\n"


def socket_path(given: str | Path | None = None) -> Path:
    """What was given, else $OPUSD_SOCKET, else the runtime directory's, else the one under ~/.local/state."""
    if given or os.environ.get("OPUSD_SOCKET"):
        return Path(given or os.environ["OPUSD_SOCKET"])
    if os.environ.get("XDG_RUNTIME_DIR"):
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "opusd/opusd.sock"
    return Path("~/.local/state/opusd/opusd.sock").expanduser()
