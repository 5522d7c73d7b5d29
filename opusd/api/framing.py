"""JSON-RPC 2.0, one JSON text a line, without I/O: bytes in, messages out, and replies to bytes.

The shape is h11's: `receive_data`, then `next_message` until None. Everything that is wrong with a
frame is decided here (contract, section 7) and comes out as a Refused that only needs to be sent;
which methods there are, and which ids are in flight, is not known here.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from opusd.core.errors import InvalidParams, InvalidRequest, OpusError, ParseError

LINE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of one line without its newline, in both directions."""
BATCH_LIMIT: Final = 100
ID_LIMIT: Final = 1000
"""Characters of an id: it comes back in the reply, which has a limit too."""
DEPTH_LIMIT: Final = 128
"""Levels of nesting, far under what the decoder and every later encoder can take."""

Id: TypeAlias = int | str | None


class Request(msgspec.Struct, frozen=True):
    """A call that is to be answered under `id`; null is an id."""

    id: Id
    method: str
    params: dict[str, Any]


class Notification(msgspec.Struct, frozen=True):
    """A call that is never answered, not even with an error."""

    method: str
    params: dict[str, Any]


class Refused(msgspec.Struct, frozen=True):
    """What came is no call; `error` is to be sent under `id`."""

    id: Id
    error: OpusError


class Batch(msgspec.Struct, frozen=True):
    """1 to 100 entries, to be answered by one list, or by nothing when no entry has an answer."""

    entries: list[Request | Notification | Refused]


Message: TypeAlias = Request | Notification | Refused | Batch

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**63 - 1
# Cheap looks at the raw line that say when a walk over what was decoded is worth its time.
_DIGITS_AS_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 19  # once all digits are zeros: a fifth of the time of a regular expression
_NUL: Final = b"\\u0000"


class Framing:
    """The frames of one connection. It buffers one line at most, and of that no more than the limit and one chunk."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0  # bytes known to hold no newline, so that a line in pieces is searched once
        self._ended = False
        self.closed = False

    def receive_data(self, data: bytes) -> None:
        """Take in what was read; after the frame that closes the connection it is dropped."""
        if not self.closed:
            self._buffer += data

    def receive_eof(self) -> None:
        """No more will come: what is left is a line, too."""
        self._ended = True

    def next_message(self) -> Message | None:
        """The next message, or None until more has come. After a line over the limit: Refused, and `closed` is true."""
        while (line := self._next_line()) is not None:
            if len(line) > self._limit:
                return self._close()
            message = parse(line)
            if message is not None:
                return message
        if len(self._buffer) > self._limit:
            return self._close()
        return None

    def _next_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            if not (self._ended and self._buffer):
                self._scanned = len(self._buffer)
                return None
            end = len(self._buffer)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line

    def _close(self) -> Refused:
        self.closed = True
        self._buffer = bytearray()
        self._scanned = 0
        return Refused(None, InvalidRequest(f"a line is over {self._limit} bytes; the connection is closed"))


_decode = msgspec.json.Decoder().decode


def parse(line: bytes) -> Message | None:
    """The message that a line is; None when it is to be ignored (a reply, a batch of replies)."""
    try:
        value = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Refused(None, ParseError(f"this line is not JSON: {error}"))
    except RecursionError:
        return Refused(None, _too_deep())
    if line.count(b"{") + line.count(b"[") > DEPTH_LIMIT and _deeper_than(value, DEPTH_LIMIT):
        return Refused(None, _too_deep())
    suspect = _NUL in line or _LONG_NUMBER in line.translate(_DIGITS_AS_ZERO)
    if not isinstance(value, list):
        return _classify(value, suspect)
    if not value:
        return Refused(None, InvalidRequest("a batch has at least one entry"))
    if len(value) > BATCH_LIMIT:
        return Refused(None, InvalidRequest(f"a batch has at most {BATCH_LIMIT} entries, not {len(value)}"))
    entries = [entry for item in value if (entry := _classify(item, suspect)) is not None]
    return Batch(entries) if entries else None


def _classify(value: Any, suspect: bool) -> Request | Notification | Refused | None:
    """What one object is; `suspect` asks for a look at every value of its parameters."""
    if not isinstance(value, dict):
        return Refused(None, InvalidRequest("a request is an object"))
    if "method" not in value and ("result" in value or "error" in value):
        return None
    call = value.get("id")
    if not _is_id(call):
        return Refused(
            None, InvalidRequest(f"an id is a string of {ID_LIMIT} characters at most, an integer of 64 bits or null")
        )
    if value.get("jsonrpc") != "2.0":
        return Refused(call, InvalidRequest('"jsonrpc" must be "2.0"'))
    method = value.get("method")
    if not isinstance(method, str):
        return Refused(call, InvalidRequest('"method" must be a string'))
    params = value.get("params", {})
    if not isinstance(params, dict):
        error: OpusError = InvalidRequest("params are an object: every parameter has a name")
    elif suspect and (found := _refused_value(params, "$")) is not None:
        path = found[0][:500]
        error = InvalidParams(f"{found[1]} - at `{path}`", path=path)
    elif "id" in value:
        return Request(call, method, params)
    else:
        return Notification(method, params)
    return Refused(call, error) if "id" in value else None


def _is_id(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and _MIN_INT <= value <= _MAX_INT
    return value is None or (isinstance(value, str) and len(value) <= ID_LIMIT)


def _too_deep() -> ParseError:
    return ParseError(f"this line nests deeper than {DEPTH_LIMIT} levels")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, dict | list) for item in level)


def _refused_value(value: Any, path: str) -> tuple[str, str] | None:
    """Where the first NUL or integer past 64 bits is, and which; recursion is bounded by DEPTH_LIMIT."""
    match value:
        case str() if "\0" in value:
            return path, "a NUL character is refused"
        case int() if not _MIN_INT <= value <= _MAX_INT:
            return path, "an integer past 2^63 is refused"
        case dict():
            for name, item in value.items():
                if "\0" in name:
                    return path, "a NUL character in a name is refused"
                if (found := _refused_value(item, f"{path}.{name}")) is not None:
                    return found
        case list():
            for index, item in enumerate(value):
                if (found := _refused_value(item, f"{path}[{index}]")) is not None:
                    return found
        case _:
            pass
    return None


class _Reply(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    id: Id
    result: Any


class _ErrorObject(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: dict[str, object]


class _ErrorReply(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    id: Id
    error: _ErrorObject


class _Call(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    method: str
    params: Any
    id: Id | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode


def encode_result(call: Id, result: object) -> bytes:
    """The line of an answer, without its newline."""
    return _encode(_Reply(call, result))


def encode_error(call: Id, error: OpusError) -> bytes:
    """The line of a refusal, without its newline."""
    return _encode(_ErrorReply(call, _ErrorObject(error.code, error.message, error.as_data())))


def encode_call(method: str, params: object, call: Id | msgspec.UnsetType = msgspec.UNSET) -> bytes:
    """The line of a request, or without `call` of a notification; without its newline."""
    return _encode(_Call(method, params, call))


def encode_batch(replies: list[bytes]) -> bytes:
    """The line that answers a batch."""
    return b"[" + b",".join(replies) + b"]"
