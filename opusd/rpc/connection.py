"""One connection: bytes to calls, calls to tasks, and replies to bytes, within bounds on both sides.

Calls are started in the order sent and answered in any. A call that changes something is never cut
short, not even by the connection's end; one that waits is cancelled by `$/cancelRequest` and by that end.
What the methods do is not known here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from opusd.api.framing import (
    Batch,
    Framing,
    Id,
    Notification,
    Refused,
    Request,
    encode_error,
    encode_result,
)
from opusd.api.results import Subscription
from opusd.core.access import Caller
from opusd.core.errors import (
    InternalError,
    InvalidRequest,
    MethodNotFound,
    OpusError,
    QuotaExceeded,
    RequestCancelled,
    ShuttingDown,
)
from opusd.rpc.bindings import decode_params
from opusd.rpc.calls import Call, Common, Gathering, fitting
from opusd.rpc.hangup import Watch, is_gone
from opusd.rpc.outflow import Outflow
from opusd.rpc.session import Session
from opusd.rpc.subscriptions import EventSink, Outlet

OnError = Callable[[BaseException, str], None]
_CANCEL: Final = "$/cancelRequest"


class Connection(asyncio.Protocol):
    """`identify` looks at the peer and raises OpusError to turn it away; `lower` is what a token does to a caller."""

    def __init__(
        self,
        common: Common,
        *,
        identify: Callable[[socket.socket], Caller],
        lower: Callable[[Caller, str], Caller],
        on_error: OnError,
        on_begin: Callable[[Connection], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self.admitted = False
        self._bindings, self._turnstile, self._exit, self._subscriptions, bounds = common
        self._bounds = bounds
        self._identify = identify
        self._lower = lower
        self._on_error = on_error
        self._on_begin = on_begin
        self._on_end = on_end
        self._framing = Framing(bounds.line)
        self._calls: dict[Id, Call] = {}  # those with an id, for `$/cancelRequest` and for ids used twice
        self._running: set[Call] = set()
        self._waiting = 0
        self._in_line = 0  # of its calls, at the turnstile
        self._reading = True
        self._eof = False
        self._stopping = False
        self._lingering: asyncio.TimerHandle | None = None
        self._hangup: Watch | None = None
        self._ended: asyncio.Future[None]
        self._idle = asyncio.Event()
        self._idle.set()
        self._taking = asyncio.Event()  # the client takes what is sent
        self._taking.set()

    # ---------------------------------------------------------------------- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but ancestry
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._transport = transport
        self._outflow = Outflow(
            transport, self._loop, most=self._bounds.unsent, stall=self._bounds.stall, full=self._full
        )
        self._outlet = Outlet(self._write, self._outflow.unsent)
        self._session = Session(Caller(agent=True), self._lower)
        self._on_begin(self)
        try:
            # A duplicate, for a loop's own object need not be a real socket.
            with socket.fromfd(transport.get_extra_info("socket").fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                self._session.caller = self._identify(peer)
            self.admitted = True
        except OpusError as error:
            self._refuse_all(error)
        except OSError as error:
            self._on_error(error, "connect")
            self._refuse_all(InternalError("who is calling could not be found out"))

    def data_received(self, data: bytes) -> None:
        self._framing.receive_data(data)
        self._pump()

    def eof_received(self) -> bool:
        """The client shut down its writing side, or is gone altogether: only the first still gets replies."""
        self._framing.receive_eof()
        self._eof = True
        fd = self._transport.get_extra_info("socket").fileno()
        if is_gone(fd):
            return False
        self._hangup = Watch(self._loop, fd, self._transport.abort)
        self._pump()
        return True

    def pause_writing(self) -> None:
        """The outflow knows; nothing else is done before `bounds.unsent`, which it sees."""

    def resume_writing(self) -> None:
        self._exit.enter(self._write_on, 1)

    def _write_on(self) -> None:
        self._outflow.flush()
        self._outlet.wake()
        if not self._outflow.waits:
            self._taking.set()
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.gone = True
        self._framing.closed = True
        self._outflow.close()
        if self._lingering is not None:
            self._lingering.cancel()
        if self._hangup is not None:
            self._hangup.close()
        for sink in list(self._session.sinks.values()):
            sink.close()
        self._outlet.close()
        self._taking.set()
        for call in list(self._running):
            if call.task is not None and not call.lasts:
                call.task.cancel()
        if not self._ended.done():
            self._ended.set_result(None)
        self._on_end(self)

    # ------------------------------------------------------------------------------- calls come in

    def _pump(self) -> None:
        """Start what has come, as far as the bounds allow; then reading goes on or rests."""
        while self._may_read():
            message = self._framing.next_message()
            if message is None:
                self._close_when_done()
                break
            self._take(message)
        self._set_reading(self._may_read())

    def _may_read(self) -> bool:
        return (
            not self._stopping
            and not self._session.gone
            and len(self._running) - self._waiting < self._bounds.calls
            and self._outflow.unsent() <= self._bounds.unsent
        )

    def _set_reading(self, reading: bool) -> None:
        if reading != self._reading and not self._eof and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _take(self, message: Request | Notification | Refused | Batch) -> None:
        if not isinstance(message, Batch):
            self._start(message, None)
            return
        gathering = Gathering(self._bounds.line)
        for entry in message.entries:
            self._start(entry, gathering)
        self._end_part(gathering)

    def _start(self, message: Request | Notification | Refused, reply_to: Gathering | None) -> None:
        match message:
            case Refused():
                self._answer(message.id, encode_error(message.id, message.error), reply_to)
                return
            case Notification(method=method, params=params) if method == _CANCEL:
                self._cancel(params.get("id"))
                return
            case Request(id=call_id) if call_id is not None and call_id in self._calls:
                error: OpusError = InvalidRequest(f"the id {call_id!r} is in flight on this connection")
                self._answer(None, encode_error(None, error), reply_to)
                return
            case _:
                pass
        binding = self._bindings.get(message.method)
        if binding is None:
            error = MethodNotFound(f"there is no method {message.method[:200]!r}; rpc.discover lists them")
        elif binding.method.waits and self._waiting >= self._bounds.waiting:
            error = QuotaExceeded(
                f"{self._waiting} calls wait on this connection already",
                quota="waiting_calls",
                limit=self._bounds.waiting,
                retry_after=None,
            )
        else:
            self._run(Call(message, binding, reply_to))
            return
        if isinstance(message, Request):
            self._answer(message.id, encode_error(message.id, error), reply_to)

    def _run(self, call: Call) -> None:
        if not call.notified and call.id is not None:
            self._calls[call.id] = call
        if call.reply_to is not None:
            call.reply_to.open += 1
        self._waiting += call.binding.method.waits
        self._running.add(call)
        self._idle.clear()
        if call.weight or self._in_line:  # what comes behind a change may look at it
            self._in_line += 1
            self._turnstile.enter(partial(self._let_through, call), call.weight)
        else:
            self._begin(call)

    def _let_through(self, call: Call) -> None:
        self._in_line -= 1
        self._begin(call)

    def _begin(self, call: Call) -> None:
        call.task = self._loop.create_task(self._perform(call))
        call.task.add_done_callback(lambda _: self._end(call))
        if call.cancelled or (self._session.gone and not call.lasts) or (self._stopping and call.binding.method.waits):
            call.task.cancel()

    def _cancel(self, call_id: Any) -> None:
        call = self._calls.get(call_id) if isinstance(call_id, str | int) else None
        if call is not None and call.binding.method.waits:
            call.cancelled = True
            if call.task is not None:
                call.task.cancel()

    # ----------------------------------------------------------------------------- and are answered

    async def _perform(self, call: Call) -> None:
        method = call.binding.method
        sink: EventSink | None = None
        told = True
        try:
            # Calls of one packet are read together, but what the first sends may be too much already.
            # Waiting here keeps their order: whoever came first is woken first and waits again first.
            while not self._taking.is_set():
                await self._taking.wait()
            params = decode_params(call.params, method.params)
            if call.binding.pushes:
                sink = self._new_sink()
                result = await call.binding.call(self._session, params, sink)
            else:
                result = await call.binding.call(self._session, params)
            reply = encode_result(call.id, result)
            if len(reply) > self._bounds.line or call.reply_to is not None:
                reply, told = fitting(call, result, reply, self._bounds.line)
        except OpusError as error:
            reply = encode_error(call.id, error)
            result = None
        if not (self._reply(call, reply) and told) and result is not None and call.binding.unanswered is not None:
            call.binding.unanswered(result)
        if sink is not None:
            if isinstance(result, Subscription) and not call.notified:
                sink.open(result.cursor)
            else:
                sink.close()

    def _new_sink(self) -> EventSink:
        number = next(self._subscriptions)
        self._session.sinks[number] = sink = EventSink(number, self._outlet, self._forget)
        return sink

    def _forget(self, subscription: int) -> None:
        """A subscription has ended; it may have been what kept a half-closed connection open."""
        self._session.sinks.pop(subscription, None)
        if self._eof:
            self._loop.call_soon(self._pump)

    def _reply(self, call: Call, reply: bytes) -> bool:
        """At the very end of its task: its id may be used again as soon as the client has this.

        False when it goes nowhere.
        """
        call.answered = True
        if self._calls.get(call.id) is call:
            del self._calls[call.id]
        return not call.notified and self._answer(call.id, reply, call.reply_to)

    def _answer(self, call_id: Id, reply: bytes, reply_to: Gathering | None) -> bool:
        if reply_to is None:
            return self._write(reply, b"\n")
        reply_to.add(call_id, reply)
        return not self._session.gone

    def _end(self, call: Call) -> None:
        """Its task is over, one way or the other: it may have been cancelled before it began."""
        assert call.task is not None
        if not call.answered:
            failure = None if call.task.cancelled() else call.task.exception()
            if failure is not None:
                self._on_error(failure, call.binding.method.name)
            self._reply(call, encode_error(call.id, self._ending(call, failure)))
        call.task = None  # it keeps how it was cancelled, and with that this call: no cycle is left behind
        self._running.discard(call)
        self._waiting -= call.binding.method.waits
        if call.reply_to is not None:
            self._end_part(call.reply_to)
        if not self._running:
            self._idle.set()
        self._pump()

    def _ending(self, call: Call, failure: BaseException | None) -> OpusError:
        if failure is not None:
            return InternalError(f"{call.binding.method.name} failed inside the daemon; its log says how")
        if call.cancelled:
            return RequestCancelled("cancelled, as asked")
        return ShuttingDown("the daemon is shutting down")

    def _end_part(self, gathering: Gathering) -> None:
        if (whole := gathering.done()) is not None:
            self._write(whole, b"\n")

    def _write(self, *pieces: bytes) -> bool:
        """A reply or an event; what stands alone leaves at once. False when nobody is there to read it."""
        if self._session.gone or self._lingering is not None or self._transport.is_closing():
            return False
        size = sum(map(len, pieces))
        self._outlet.note(size)
        self._outflow.write(pieces, size, alone=len(self._running) <= 1)
        return not self._transport.is_closing()

    def _full(self) -> None:
        self._taking.clear()
        self._set_reading(False)

    # --------------------------------------------------------------------------------------- the end

    def _refuse_all(self, error: OpusError) -> None:
        self._framing.closed = True
        self._write(encode_error(None, error), b"\n")
        self._linger()

    def _close_when_done(self) -> None:
        """After a half-close, or a line over the limit: all that was sent is answered first."""
        subscribed = self._session.sinks and not self._framing.closed
        if not self._running and not subscribed:
            if self._eof:
                self._outflow.flush(all_of_it=True)
                self._transport.close()
            elif self._framing.closed:
                self._linger()

    def _linger(self) -> None:
        """Close our side and drop what still comes: a client that is cut off while it sends never reads why."""
        if self._lingering is None and not self._session.gone:
            self._outflow.flush(all_of_it=True)
            self._lingering = self._loop.call_later(self._bounds.linger, self._transport.abort)
            self._transport.write_eof()

    async def shut(self) -> None:
        """Read no more, end the calls that wait, let the others' replies out, and close. When cancelled: `abort`."""
        self._stopping = True
        self._set_reading(False)
        for call in list(self._running):
            if call.binding.method.waits and call.task is not None:
                call.task.cancel()
        await self._idle.wait()
        self._outflow.flush(all_of_it=True)
        self._transport.close()
        await asyncio.shield(self._ended)

    async def ended(self) -> None:
        """Until the transport is closed."""
        await asyncio.shield(self._ended)

    def abort(self) -> None:
        """Close now; what is unsent is lost."""
        self._transport.abort()
