"""gRPC between components that share a process: same stubs, handlers and rules, no socket.

A message is still encoded and decoded: it costs 0.4 to 2.3 µs for typical messages
(docs/decisions/0002), and buys what sharing objects would lose: neither side can change
what the other holds, size limits hold, and flow control counts real bytes.

A handler runs in a task of its own with an empty context, as on the wire. What the
client sees (result, status, deadline, cancellation) is decided by whichever happens
first, so a handler that ignores cancellation cannot hold its caller.
"""

import asyncio
import contextlib
import contextvars
import re
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from mesh.exchange import Exchange, Metadata, too_large
from mesh.handlers import Handler, ServiceTable
from mesh.logs import Log
from mesh.outgoing import outgoing

PEER = "inprocess:"
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
CANCEL_WAIT_S = 5.0
"""How long `close` waits for handlers that it has cancelled."""

_FINISHED = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
_STOPPED = "the in-process server has stopped"
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")

log = Log("inprocess")


class _Aborted(grpc.aio.AbortError):
    """Ends a handler that called `abort`; never leaves this module."""


class _Gone(grpc.aio.InternalError):
    """Ends a handler that writes to a call that is over, as the wire's failed batches do."""


class _Context(grpc.aio.ServicerContext[Any, Any]):
    """The handler's end of a call."""

    def __init__(self, exchange: Exchange, handler: Handler) -> None:
        self._exchange = exchange
        self._handler = handler
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailers: Metadata = ()
        self._aborted: _Aborted | None = None

    async def read(self) -> Any:
        data = await self._exchange.requests.get()
        return grpc.aio.EOF if data is None else self._handler.deserialize(data)

    async def write(self, message: Any) -> None:
        if self._aborted is not None:
            raise self._aborted
        exchange = self._exchange
        data = self._handler.serialize(message)
        if len(data) > exchange.limit:
            exchange.end(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(data, exchange.limit))
        exchange.begin(())
        if not await exchange.responses.put(data):
            raise _Gone("the call is over")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        if self._exchange.initial_metadata is not None:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._exchange.begin(tuple(initial_metadata))

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        self._code, self._details = code, details
        self._trailers = tuple(trailing_metadata) or self._trailers
        self._aborted = _Aborted("Locally aborted.")
        raise self._aborted

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self._trailers

    def invocation_metadata(self) -> Any:
        return self._exchange.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """There is nothing to compress."""

    def disable_next_message_compression(self) -> None:
        """There is nothing to compress."""

    def peer(self) -> str:
        return PEER

    def peer_identities(self) -> Iterable[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        return {}

    def time_remaining(self) -> Any:
        return self._exchange.time_remaining()

    def cancelled(self) -> bool:
        return self._exchange.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._exchange.code is not None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.done_callbacks.append(lambda: callback(self))

    async def run(self, request: Any) -> None:
        """Run the handler to its end and report its status."""
        exchange = self._exchange
        try:
            response = await self._handler.behavior(request, self)
            if self._code is grpc.StatusCode.OK and not self._handler.method.response_streaming:
                await self.write(response)
        except (_Aborted, _Gone):
            pass
        except asyncio.CancelledError:
            exchange.end(grpc.StatusCode.CANCELLED, "the handler was cancelled")
            raise
        except Exception as error:
            # The wire would send the exception's text; no caller of ours relies on it.
            log.fault("fault", error, method=self._handler.method.path)
            self._code, self._details = grpc.StatusCode.UNKNOWN, type(error).__name__
        exchange.end(self._code, self._details, self._trailers)

    async def requests(self) -> AsyncIterator[Any]:
        """Iterate over the client's messages."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


class _Call:
    """The client's end of a call; serves all four kinds."""

    def __init__(self, exchange: Exchange, deserialize: Callable[[bytes], Any]) -> None:
        self._exchange = exchange
        self._deserialize = deserialize
        self._message: Any = None

    def __del__(self) -> None:
        exchange = self._exchange
        if exchange.code is None:
            # The collector may run in any thread, and when the loop is gone.
            with contextlib.suppress(RuntimeError):
                exchange.loop.call_soon_threadsafe(
                    exchange.cancel, "Cancelled upon garbage collection!"
                )

    def cancelled(self) -> bool:
        return self._exchange.locally_cancelled

    def done(self) -> bool:
        return self._exchange.code is not None

    def time_remaining(self) -> float | None:
        return self._exchange.time_remaining()

    def cancel(self) -> bool:
        return self._exchange.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.done():
            callback(self)
        else:
            self._exchange.done_callbacks.append(lambda: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*await self._exchange.begun())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._exchange.ended()
        return grpc.aio.Metadata(*self._exchange.trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        await self._exchange.ended()
        return cast("grpc.StatusCode", self._exchange.code)

    async def details(self) -> str:
        await self._exchange.ended()
        return self._exchange.details

    async def wait_for_connection(self) -> None:
        """There is no connection to wait for."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        message = await self.read()
        if message is not grpc.aio.EOF:
            self._message = message
        await self._finish()
        return self._message

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        try:
            data = await self._exchange.responses.get()
        except asyncio.CancelledError:
            self._exchange.cancel()
            raise
        if data is None:
            await self._finish()
            return grpc.aio.EOF
        return self._deserialize(data)

    async def _finish(self) -> None:
        """Wait for the status; raise unless it is grpc.StatusCode.OK."""
        exchange = self._exchange
        try:
            await exchange.ended()
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        if exchange.locally_cancelled:
            raise asyncio.CancelledError
        if exchange.code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                cast("grpc.StatusCode", exchange.code),
                grpc.aio.Metadata(*(exchange.initial_metadata or ())),
                grpc.aio.Metadata(*exchange.trailing_metadata),
                details=exchange.details,
            )


class _StreamingCall(_Call):
    """A call whose client may write."""

    def __init__(
        self,
        exchange: Exchange,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        *,
        fed: bool,
    ) -> None:
        super().__init__(exchange, deserialize)
        self._serialize = serialize
        self._fed = fed

    async def write(self, request: Any) -> None:
        self._check_style()
        if self.done():
            raise asyncio.InvalidStateError(_FINISHED)
        if self._exchange.requests.closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        if not await self._exchange.send(self._serialize(request)):
            raise asyncio.InvalidStateError(_FINISHED)

    async def done_writing(self) -> None:
        self._check_style()
        self._exchange.requests.close()

    def _check_style(self) -> None:
        if self._fed:
            raise grpc.aio.UsageError("this call sends what its iterator yields")


class _MultiCallable:
    """What `channel.unary_unary(...)` and its kin return."""

    def __init__(
        self,
        channel: "InProcessChannel",
        path: str,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        *,
        request_streaming: bool,
    ) -> None:
        self._channel = channel
        self._path = path
        self._serialize = serialize
        self._deserialize = deserialize
        self._request_streaming = request_streaming

    def __call__(
        self,
        request: Any = None,
        *,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> _Call:
        requests = request if request_iterator is None else request_iterator
        given = tuple(metadata or ())
        _check_metadata(given)
        sent, timeout_s = outgoing(self._path, given, timeout)
        exchange = Exchange(sent, timeout_s, self._channel.max_message_bytes)
        handler = self._accept(exchange, timeout_s)
        if not self._request_streaming:
            if handler is not None:
                self._start(exchange, handler, request)
            return _Call(exchange, self._deserialize)
        fed = requests is not None
        if handler is not None:
            context = _Context(exchange, handler)
            self._channel.spawn(exchange, context.run(context.requests()))
            if fed:
                self._channel.feed(exchange, _feed(exchange, self._serialize, requests))
        return _StreamingCall(exchange, self._serialize, self._deserialize, fed=fed)

    def _accept(self, exchange: Exchange, timeout_s: float) -> Handler | None:
        """Return the handler, or end the call."""
        handler = self._channel.table.find(self._path)
        if self._channel.closed:
            exchange.end(grpc.StatusCode.UNAVAILABLE, _STOPPED)
        elif timeout_s <= 0:
            exchange.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        elif handler is None:
            exchange.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        else:
            return handler
        return None

    def _start(self, exchange: Exchange, handler: Handler, request: Any) -> None:
        data = self._serialize(request)
        if len(data) > exchange.limit:
            exchange.end(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(data, exchange.limit))
            return
        context = _Context(exchange, handler)
        self._channel.spawn(exchange, context.run(handler.deserialize(data)))


async def _feed(exchange: Exchange, serialize: Callable[[Any], bytes], requests: Any) -> None:
    """Send what an iterator of requests yields; an iterator that fails cancels the call."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in cast("AsyncIterable[Any]", requests):
                if not await exchange.send(serialize(request)):
                    return
        else:
            for request in cast("Iterable[Any]", requests):
                if not await exchange.send(serialize(request)):
                    return
    except Exception as error:
        log.fault("the iterator of requests failed", error)
        exchange.cancel()
    else:
        exchange.requests.close()


def _check_metadata(metadata: Metadata) -> None:
    """Refuse here what the wire would refuse, so that no caller works in one topology only."""
    for key, value in metadata:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        legal = isinstance(value, bytes) if key.endswith("-bin") else text.isascii()
        if not (_METADATA_KEY.fullmatch(key) and legal):
            raise grpc.aio.InternalError(f"illegal metadata: {key}")


class InProcessChannel(grpc.aio.Channel):
    """A channel to a `ServiceTable` in this process; give it to any generated stub."""

    def __init__(
        self, table: ServiceTable, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    ) -> None:
        self.table = table
        self.max_message_bytes = max_message_bytes
        self.closed = False
        self._running: dict[asyncio.Task[None], Exchange] = {}

    def spawn(self, exchange: Exchange, handling: Coroutine[Any, Any, None]) -> None:
        """Run a handler in a task that this channel owns, with a context of its own."""
        loop = exchange.loop
        exchange.task = self._own(
            exchange, loop.create_task(handling, context=contextvars.Context())
        )

    def feed(self, exchange: Exchange, feeding: Coroutine[Any, Any, None]) -> None:
        """Run a feeder in a task that this channel owns, in the caller's context."""
        exchange.feeder = self._own(exchange, exchange.loop.create_task(feeding))

    def _own(self, exchange: Exchange, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._running[task] = exchange
        task.add_done_callback(self._running.pop)
        return task

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        return _MultiCallable(
            self, method, request_serializer, response_deserializer, request_streaming=False
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        return self.unary_unary(method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        return _MultiCallable(
            self, method, request_serializer, response_deserializer, request_streaming=True
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        return self.stream_unary(method, request_serializer, response_deserializer)

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones `grace` seconds, then end them as unavailable.

        Handlers that ignore their cancellation are waited for no longer than CANCEL_WAIT_S.
        """
        self.closed = True
        if self._running and grace:
            await asyncio.wait(self._running, timeout=grace)
        for exchange in list(self._running.values()):
            exchange.stop(grpc.StatusCode.UNAVAILABLE, _STOPPED)
        if self._running:
            _, ignoring = await asyncio.wait(self._running, timeout=CANCEL_WAIT_S)
            if ignoring:
                log.warning("handlers ignore their cancellation", count=len(ignoring))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.SHUTDOWN if self.closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await asyncio.get_running_loop().create_future()

    async def channel_ready(self) -> None:
        """Ready from the start."""

    async def __aenter__(self) -> "InProcessChannel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
