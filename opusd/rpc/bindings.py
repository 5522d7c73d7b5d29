"""Which coroutine answers which method: what the Commands object offers of the table, and nothing else.

A command is `async def job_submit(self, session, params: JobSubmit) -> Submitted`: the method's name with
an underscore, the decoded parameters, the result or an OpusError. Replies are encoded by the connection.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from opusd.api.method import PROTOCOL, Method
from opusd.api.methods import METHODS
from opusd.api.openrpc import document
from opusd.api.params import EventsUnsubscribe, JobSubmitBatch, RpcDiscover, SystemHello, SystemPing
from opusd.api.results import Done, Hello
from opusd.core.errors import Conflict, InvalidParams, NotFound
from opusd.rpc.session import Session

Call: TypeAlias = Callable[[Session, Any], Awaitable[Any]]


class Commands(Protocol):
    """What answers: any object with a coroutine for each method it offers, named as `Method.verb` says.

    `events_subscribe(session, params, sink)` takes the sink of `opusd.rpc.subscriptions` as well.
    A command that hands something out may come with `VERB_unanswered(result)`: nobody was there to read it.
    One whose result must not get lost may come with `VERB_shorter(result)`: the same in a reply that is never too long.
    Calls of one connection are started in the order sent; a command that decides holds
    `session.turn` while it does, so that they take effect in that order.
    """


class Binding(msgspec.Struct, frozen=True):
    """One method with what answers it; `pushes` says that it wants a sink for events, too.

    `unanswered` is told of a result whose reply could not be written, or was too long; `shorter` is asked for less of
    one that no line holds.
    """

    method: Method[Any, Any]
    call: Callable[..., Awaitable[Any]]
    pushes: bool = False
    unanswered: Callable[[Any], None] | None = None
    shorter: Callable[[Any], Any] | None = None


_PLACE: Final = re.compile(r" - at `(.*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*?)`")
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_ENTRY: Final = re.compile(r"\$\.jobs\[(\d+)\]")
_WORD: Final = re.compile(r"Invalid enum value '(.*)'", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*?)`")


def decode_params(params: dict[str, Any], kind: type[Any]) -> Any:
    """The struct of the parameters; InvalidParams names the field that is wrong in `data.path`."""
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        message = str(error)
    place = _PLACE.search(message)
    path = place[1] if place is not None else "$"
    if "[...]" in path:
        path = _with_key(params, kind, path)
    text = message[: place.start()] if place is not None else message
    text, path = text[:500], path[:500]
    if (unknown := _UNKNOWN.match(text)) is not None:
        name = unknown[1][:200]
        near = difflib.get_close_matches(name, _names(kind), 1) if path == "$" else []
        text = f"unknown parameter {name!r}" + (f": did you mean {near[0]!r}?" if near else "")
        path = f"{path}.{name}"
    elif (missing := _MISSING.match(text)) is not None:
        text = f"the parameter {missing[1]!r} is missing"
        path = f"{path}.{missing[1]}"
    elif (word := _WORD.match(text)) is not None and (words := _words(kind, path)):
        near = difflib.get_close_matches(word[1], words, 1)
        text = (
            f"unknown word {word[1]!r}: did you mean {near[0]!r}?"
            if near
            else f"{word[1]!r} is not one of {', '.join(words)}"
        )
    entry = _ENTRY.match(path) if kind is JobSubmitBatch else None
    raise InvalidParams(f"{text} - at `{path}`", path=path, **({"index": int(entry[1])} if entry is not None else {}))


def _with_key(params: dict[str, Any], kind: type[Any], path: str) -> str:
    """The path of an error with the object's key where msgspec has `[...]`: that of the first wrong value."""
    before, _, after = path.partition("[...]")
    steps = [int(index) if index else name for name, index in _STEP.findall(before)]
    found: Any = params
    for step in steps:
        found = found[step]
    keys = list(found)

    def wrong(some: list[str]) -> bool:
        part: Any = {key: found[key] for key in some}
        for step in reversed(steps):
            part = {step: part} if isinstance(step, str) else [part]
        try:
            msgspec.convert(part, kind)
        except msgspec.ValidationError as error:
            return "[...]" in str(error)
        return False

    while len(keys) > 1:  # by halves, for an object may be large
        first = keys[: len(keys) // 2]
        keys = first if wrong(first) else keys[len(keys) // 2 :]
    return f"{before}.{keys[0][:200]}{after}"


def _words(kind: type[Any], path: str) -> list[str]:
    """Those that may stand at this place, where it is one for words."""
    found = [msgspec.inspect.type_info(kind)]
    for name, _ in _STEP.findall(path):
        found = [inner for one in found for inner in _inside(one, name)]
    return sorted(str(word) for one in found if isinstance(one, msgspec.inspect.LiteralType) for word in one.values)


def _inside(found: msgspec.inspect.Type, name: str) -> list[msgspec.inspect.Type]:
    """What the field of this name may be, or without a name an entry of the list; of a union each by itself."""
    inner: list[msgspec.inspect.Type] = []
    if isinstance(found, msgspec.inspect.StructType):
        inner = [field.type for field in found.fields if field.encode_name == name]
    elif isinstance(found, msgspec.inspect.DictType) and name:
        inner = [found.value_type]
    elif isinstance(found, msgspec.inspect.ListType) and not name:
        inner = [found.item_type]
    return [each for one in inner for each in (one.types if isinstance(one, msgspec.inspect.UnionType) else (one,))]


def _names(kind: type[Any]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


class Protocols:
    """The methods about the connection itself: `system.hello`, `system.ping`, `rpc.discover`, unsubscribing."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.bindings: dict[str, Binding] = {}

    async def system_hello(self, session: Session, params: SystemHello) -> Hello:
        if not params.protocol_min <= PROTOCOL <= params.protocol_max:
            raise Conflict(
                f"this daemon speaks protocol {PROTOCOL}, not {params.protocol_min} to {params.protocol_max}",
                protocol=PROTOCOL,
            )
        if params.token is not None:
            session.show_token(params.token)
        return Hello(protocol=PROTOCOL, version=self._version, capabilities=list(self.bindings))

    async def system_ping(self, session: Session, params: SystemPing) -> Done:
        return Done()

    async def rpc_discover(self, session: Session, params: RpcDiscover) -> dict[str, Any]:
        return document([binding.method for binding in self.bindings.values()], self._version)

    async def events_unsubscribe(self, session: Session, params: EventsUnsubscribe) -> Done:
        sink = session.sinks.get(params.subscription)
        if sink is None:
            raise NotFound(f"this connection has no subscription {params.subscription}")
        sink.close()
        return Done()


def bind(commands: Commands, version: str) -> dict[str, Binding]:
    """Every method that `commands` offers, or else this module, by name, in the order of the table."""
    own = Protocols(version)
    for method in METHODS.values():
        call = getattr(commands, method.verb, None) or getattr(own, method.verb, None)
        if call is not None:
            unanswered = getattr(commands, f"{method.verb}_unanswered", None)
            pushes = method.name == "events.subscribe"
            shorter = getattr(commands, f"{method.verb}_shorter", None)
            own.bindings[method.name] = Binding(method, call, pushes=pushes, unanswered=unanswered, shorter=shorter)
    return own.bindings
