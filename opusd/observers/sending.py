"""One try to bring a message to its sink, and what came of it: a program with it on stdin, or a signed webhook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from opusd.agents.environment import resolve_env
from opusd.core.errors import InvalidParams
from opusd.observers.messages import text_of
from opusd.observers.program import run_program
from opusd.observers.webhook import Poster, SecretError, key_of, signed

if TYPE_CHECKING:
    from collections.abc import Callable

    from opusd.clock import Clock
    from opusd.config.notifications import Sink
    from opusd.observers.outbox import Entry

WEBHOOK_SECONDS: Final = 15.0
COMMAND_SECONDS: Final = 30.0
LONGEST_REST: Final = 86_400.0
"""A receiver that asks for more patience than a day is tried after a day."""


class Sent(msgspec.Struct, frozen=True):
    """`message` says why not, without the address. `gone`: never again; `rest`: seconds that the receiver asks for."""

    ok: bool
    message: str = ""
    gone: bool = False
    rest: float = 0.0


class Sender:
    """`environ` is the daemon's; secrets are read from it, or from their files, at each try."""

    def __init__(self, environ: Mapping[str, str], clock: Clock, log: Callable[..., None]) -> None:
        self._environ = environ
        self._clock = clock
        self._log = log
        self._poster = Poster()

    async def send(self, sink: Sink, entry: Entry) -> Sent:
        return await (self._run(sink, entry) if sink.url is None else self._post(sink, sink.url, entry))

    async def _run(self, sink: Sink, entry: Entry) -> Sent:
        words = {"{text}": text_of(entry.body), "{type}": entry.kind}
        argv = [words.get(argument, argument) for argument in sink.command]
        problem, output = await run_program(argv, entry.body.encode(), self._environ, COMMAND_SECONDS)
        if output:
            self._log("notification.output", level="debug", sink=sink.name, output=output)
        return Sent(ok=not problem, message=problem)

    async def _post(self, sink: Sink, url: str, entry: Entry) -> Sent:
        try:
            key = key_of(resolve_env({"secret": sink.secret}, self._environ)["secret"])
        except (InvalidParams, SecretError) as error:
            return Sent(ok=False, message=str(error))
        body = entry.body.encode()
        headers = signed(entry.id, self._clock.now() // 1_000_000, body, key)
        answer = await self._poster.post(url, headers, body, WEBHOOK_SECONDS)
        if answer.status is None:
            return Sent(ok=False, message=answer.problem)
        if 200 <= answer.status < 300:
            return Sent(ok=True)
        if answer.status == 410:
            return Sent(ok=False, message="HTTP 410: the receiver is gone", gone=True)
        rest = answer.rest(self._clock.now() / 1e6) if answer.status in (429, 503) else 0.0
        redirect = ", a redirect, which is not followed" if 300 <= answer.status < 400 else ""
        return Sent(ok=False, message=f"HTTP {answer.status}{redirect}", rest=min(rest, LONGEST_REST))
