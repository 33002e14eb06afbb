"""gRPC between components that share a process: same stubs, handlers and rules, no socket.

A message is still encoded and decoded: it costs 0.4 to 2.3 µs for typical messages
(docs/decisions/0002), and buys what sharing objects would lose: neither side can change
what the other holds, size limits hold, and flow control counts real bytes.

A handler runs in a task of its own with an empty context, as on the wire. What the
client sees (result, status, deadline, cancellation) is decided by whichever happens
first, so a handler that ignores cancellation cannot hold its caller.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Sequence
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from mesh.clock import SYSTEM_CLOCK
from mesh.handlers import Handler, ServiceTable
from mesh.outgoing import outgoing

PEER = "inprocess:"
STREAM_WINDOW_BYTES = 65_536
"""How much a stream holds for a reader that does not read, as an HTTP/2 window would."""
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024

Metadata = tuple[tuple[str, str | bytes], ...]
_OK = grpc.StatusCode.OK


class _Aborted(Exception):
    """Ends a handler that called `abort`; never leaves this module."""


class _Pipe:
    """A byte-bounded queue of encoded messages, for one writer and one reader."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def put(self, item: bytes) -> None:
        """Append once there is room; an item larger than the window passes alone."""
        while self._size >= STREAM_WINDOW_BYTES and not self._closed:
            self._writable.clear()
            await self._writable.wait()
        if not self._closed:
            self._items.append(item)
            self._size += len(item)
            self._readable.set()

    async def get(self) -> bytes | None:
        """Return the next item; None after the last."""
        while not self._items:
            if self._closed:
                return None
            self._readable.clear()
            await self._readable.wait()
        item = self._items.popleft()
        self._size -= len(item)
        if self._size < STREAM_WINDOW_BYTES:
            self._writable.set()
        return item

    def close(self, *, discard: bool = False) -> None:
        """No more items; with `discard` also forget those not read."""
        self._closed = True
        if discard:
            self._items.clear()
            self._size = 0
        self._readable.set()
        self._writable.set()


class _Exchange:
    """The state that the two ends of one call share."""

    def __init__(
        self, handler: Handler | None, metadata: Metadata, timeout_s: float | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.handler = handler
        self.metadata = metadata
        self.deadline_s = None if timeout_s is None else SYSTEM_CLOCK.monotonic_s() + timeout_s
        self.requests = _Pipe()
        self.responses = _Pipe()
        self.initial_metadata: asyncio.Future[Metadata] = loop.create_future()
        self.trailing_metadata: Metadata = ()
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.locally_cancelled = False
        self.ended = asyncio.Event()
        self.done_callbacks: list[Callable[[], None]] = []
        self.task: asyncio.Task[None] | None = None
        self.feeder: asyncio.Task[None] | None = None
        self._timer = (
            None if timeout_s is None else loop.call_later(max(timeout_s, 0), self._expire)
        )

    def end(self, code: grpc.StatusCode, details: str = "", trailers: Metadata = ()) -> None:
        """Decide the status; the first to call wins."""
        if self.code is not None:
            return
        self.code, self.details, self.trailing_metadata = code, details, trailers
        if self._timer is not None:
            self._timer.cancel()
        if not self.initial_metadata.done():
            self.initial_metadata.set_result(())
        self.responses.close(discard=code is not _OK and self.locally_cancelled)
        self.requests.close(discard=True)
        if self.feeder is not None:
            self.feeder.cancel()
        self.ended.set()
        for callback in self.done_callbacks:
            callback()

    def stop(self, code: grpc.StatusCode, details: str) -> bool:
        """End the call from outside the handler and cancel the handler."""
        if self.code is not None:
            return False
        self.end(code, details)
        if self.task is not None:
            self.task.cancel(details)
        return True

    def cancel(self, details: str = "Locally cancelled by application!") -> bool:
        """Cancel for the client."""
        if self.code is None:
            self.locally_cancelled = True
        return self.stop(grpc.StatusCode.CANCELLED, details)

    def _expire(self) -> None:
        self.stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def time_remaining(self) -> float | None:
        if self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - SYSTEM_CLOCK.monotonic_s())


class _Context(grpc.aio.ServicerContext[Any, Any]):
    """The handler's end of a call."""

    def __init__(self, exchange: _Exchange, handler: Handler) -> None:
        self._exchange = exchange
        self._handler = handler
        self._code = _OK
        self._details = ""
        self._trailers: Metadata = ()

    async def read(self) -> Any:
        data = await self._exchange.requests.get()
        return grpc.aio.EOF if data is None else self._handler.deserialize(data)

    async def write(self, message: Any) -> None:
        await self.send_initial_metadata(())
        await self._exchange.responses.put(self._handler.serialize(message))

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        if not self._exchange.initial_metadata.done():
            self._exchange.initial_metadata.set_result(tuple(initial_metadata))

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        self._code, self._details = code, details
        self._trailers = tuple(trailing_metadata) or self._trailers
        raise _Aborted

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
            if self._code is _OK and not self._handler.method.response_streaming:
                await self.write(response)
        except _Aborted:
            pass
        except asyncio.CancelledError:
            exchange.end(grpc.StatusCode.CANCELLED, "the handler was cancelled")
            raise
        except Exception as error:
            # The wire would send the exception's text; no caller of ours relies on it.
            self._code, self._details = grpc.StatusCode.UNKNOWN, type(error).__name__
        exchange.end(self._code, self._details, self._trailers)

    async def requests(self) -> AsyncIterator[Any]:
        """Iterate over the client's messages."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


class _Call:
    """The client's end of a call; serves all four kinds."""

    def __init__(
        self, exchange: _Exchange, deserialize: Callable[[bytes], Any], limit: int
    ) -> None:
        self._exchange = exchange
        self._deserialize = deserialize
        self._limit = limit

    def __del__(self) -> None:
        if self._exchange.code is None:
            self._exchange.cancel("Cancelled upon garbage collection!")

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
        return grpc.aio.Metadata(*await asyncio.shield(self._exchange.initial_metadata))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._exchange.ended.wait()
        return grpc.aio.Metadata(*self._exchange.trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        await self._exchange.ended.wait()
        return cast("grpc.StatusCode", self._exchange.code)

    async def details(self) -> str:
        await self._exchange.ended.wait()
        return self._exchange.details

    async def wait_for_connection(self) -> None:
        """There is no connection to wait for."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        message = await self.read()
        await self._finish()
        return message

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        try:
            data = await self._exchange.responses.get()
            if data is None:
                await self._finish()
                return grpc.aio.EOF
        except asyncio.CancelledError:
            self._exchange.cancel()
            raise
        if len(data) > self._limit:
            self._exchange.stop(grpc.StatusCode.RESOURCE_EXHAUSTED, _too_large(data, self._limit))
            await self._finish()
        return self._deserialize(data)

    async def _finish(self) -> None:
        """Wait for the status; raise unless it is OK."""
        exchange = self._exchange
        try:
            await exchange.ended.wait()
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        if exchange.locally_cancelled:
            raise asyncio.CancelledError
        if exchange.code is not _OK:
            raise grpc.aio.AioRpcError(
                cast("grpc.StatusCode", exchange.code),
                grpc.aio.Metadata(*exchange.initial_metadata.result()),
                grpc.aio.Metadata(*exchange.trailing_metadata),
                details=exchange.details,
            )


class _StreamingCall(_Call):
    """A call whose client may write."""

    def __init__(
        self,
        exchange: _Exchange,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        limit: int,
    ) -> None:
        super().__init__(exchange, deserialize, limit)
        self._serialize = serialize

    async def write(self, request: Any) -> None:
        if self.done():
            await self._finish()
            raise asyncio.InvalidStateError("RPC already finished.")
        await self._exchange.requests.put(self._serialize(request))

    async def done_writing(self) -> None:
        self._exchange.requests.close()


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
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> _Call:
        sent, timeout_s = outgoing(self._path, tuple(metadata or ()), timeout)
        handler = self._channel.table.find(self._path)
        exchange = _Exchange(handler, sent, timeout_s)
        limit = self._channel.max_message_bytes
        if self._request_streaming:
            call = _StreamingCall(exchange, self._serialize, self._deserialize, limit)
            if request is not None:
                exchange.feeder = asyncio.ensure_future(_feed(call, exchange, request))
        else:
            call = _Call(exchange, self._deserialize, limit)
        self._start(exchange, handler, request, limit)
        return call

    def _start(
        self, exchange: _Exchange, handler: Handler | None, request: Any, limit: int
    ) -> None:
        if handler is None:
            exchange.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        if self._channel.closed:
            exchange.end(grpc.StatusCode.UNAVAILABLE, "the in-process server has stopped")
            return
        context = _Context(exchange, handler)
        if self._request_streaming:
            arrived: Any = context.requests()
        else:
            data = self._serialize(request)
            if len(data) > limit:
                exchange.end(grpc.StatusCode.RESOURCE_EXHAUSTED, _too_large(data, limit))
                return
            arrived = handler.deserialize(data)
        exchange.task = self._channel.spawn(context.run(arrived))


async def _feed(call: _StreamingCall, exchange: _Exchange, requests: Any) -> None:
    """Send what an iterator of requests yields."""
    if isinstance(requests, AsyncIterable):
        async for request in cast("AsyncIterable[Any]", requests):
            await exchange.requests.put(call._serialize(request))  # pyright: ignore[reportPrivateUsage]
    else:
        for request in cast("Iterable[Any]", requests):
            await exchange.requests.put(call._serialize(request))  # pyright: ignore[reportPrivateUsage]
    exchange.requests.close()


def _too_large(data: bytes, limit: int) -> str:
    return f"Received message larger than max ({len(data)} vs. {limit})"


class InProcessChannel(grpc.aio.Channel):
    """A channel to a `ServiceTable` in this process; give it to any generated stub."""

    def __init__(
        self, table: ServiceTable, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    ) -> None:
        self.table = table
        self.max_message_bytes = max_message_bytes
        self.closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Any) -> asyncio.Task[None]:
        """Run a handler in a task that this channel owns."""
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
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
        """Refuse new calls, give running ones `grace` seconds, then cancel them and wait."""
        self.closed = True
        if self._tasks and grace:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

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
