"""Spreads calls over the workers of one host, whatever connections they come in on.

The kernel gives each connection to one worker, so a client with one connection would keep one
core busy. Here the worker that a call reaches looks at the load board (`mesh.load_board`) and
either runs the call itself or passes it, as bytes, to the worker with the least to do, over a
unix socket. A call is passed on at most once.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from mesh.channel import channel_options, connect
from mesh.errors import STATUS_DETAILS_KEY
from mesh.handlers import Context, Handler, ServiceTable
from mesh.load_board import LoadBoard

PASSED_ON_KEY = "plexus-passed-on"
"""Marks a call that another worker has passed on."""

_EXEMPT_PREFIXES = ("/grpc.",)
_RESERVED_PREFIXES = (":", "grpc-", "te", "content-type", "user-agent")


class Spread:
    """One worker's view of all: gives calls to itself and to the others."""

    def __init__(
        self,
        board: LoadBoard,
        me: int,
        folder: Path,
        *,
        max_message_bytes: int,
        mesh_token: str = "",
    ) -> None:
        """`folder` holds the workers' sockets and is nobody else's."""
        self.board = board
        self.me = me
        self._folder = folder
        self._max_message_bytes = max_message_bytes
        self._mesh_token = mesh_token
        self._raw: dict[tuple[int, str], grpc.aio.Channel] = {}
        self._speaking: dict[tuple[int, str], grpc.aio.Channel] = {}

    def socket(self, component: str, worker: int | None = None) -> str:
        """Return where a worker serves a component to the others."""
        return f"unix:{self._folder}/{component}-{self.me if worker is None else worker}.sock"

    def handler(self, component: str, table: ServiceTable) -> grpc.GenericRpcHandler:
        """Return the table in the form that a server takes, with calls spread."""
        return _SpreadHandler(self, component, table)

    def channel(self, component: str, local: grpc.aio.Channel) -> grpc.aio.Channel:
        """Return a channel whose calls are spread: for other edges of this process."""
        return cast("grpc.aio.Channel", _SpreadChannel(self, component, local))

    def raw_channel(self, component: str, worker: int) -> grpc.aio.Channel:
        """Return the channel that passes calls on to another worker as they are."""
        key = (worker, component)
        if key not in self._raw:
            # The client retries, or this worker serves the call itself; both would be too much.
            options = dict(channel_options(self._max_message_bytes))
            del options["grpc.service_config"]
            options["grpc.enable_retries"] = 0
            self._raw[key] = grpc.aio.insecure_channel(
                self.socket(component, worker), options=list(options.items())
            )
        return self._raw[key]

    def speaking_channel(self, component: str, worker: int) -> grpc.aio.Channel:
        """Return the channel for calls of this process's own, which says who calls."""
        key = (worker, component)
        if key not in self._speaking:
            self._speaking[key] = connect(
                self.socket(component, worker),
                max_message_bytes=self._max_message_bytes,
                mesh_token=self._mesh_token,
            )
        return self._speaking[key]

    async def close(self) -> None:
        """Close the channels to the others."""
        for channel in (*self._raw.values(), *self._speaking.values()):
            await channel.close()


class _SpreadHandler(grpc.GenericRpcHandler):
    def __init__(self, spread: Spread, component: str, table: ServiceTable) -> None:
        self._spread = spread
        self._component = component
        self._table = table
        self._plain = table.as_generic_handler()
        self._methods: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        handler = self._table.find(path)
        if (
            handler is None
            or path.startswith(_EXEMPT_PREFIXES)
            or _is_passed_on(handler_call_details)
        ):
            return self._plain.service(handler_call_details)
        if handler.method.request_streaming:
            return self._plain.service(handler_call_details)
        if path not in self._methods:
            self._methods[path] = self._make(handler)
        return self._methods[path]

    def _make(self, handler: Handler) -> Any:
        if handler.method.response_streaming:
            stream: Any = _Stream(self._spread, self._component, handler)
            return cast("Any", grpc.unary_stream_rpc_method_handler)(stream.run)
        unary: Any = _Unary(self._spread, self._component, handler)
        return cast("Any", grpc.unary_unary_rpc_method_handler)(unary.run)


def _is_passed_on(details: Any) -> bool:
    return any(key == PASSED_ON_KEY for key, _ in details.invocation_metadata or ())


class _Method:
    """One method: requests and responses are bytes here."""

    def __init__(self, spread: Spread, component: str, handler: Handler) -> None:
        self._spread = spread
        self._board = spread.board
        self._component = component
        self._handler = handler
        self._calls: dict[int, Callable[..., Any]] = {}

    async def run(self, request: bytes, context: Context) -> Any:
        """Serve the call where there is the least to do."""
        me = self._spread.me
        works = self._board.pick(me)
        if works != me:
            self._board.add(me, works, 1)
            try:
                return await self._pass_on(works, request, context)
            except grpc.aio.AioRpcError as error:
                if not _never_began(error):
                    await _abort_as(error, context)
            finally:
                self._board.add(me, works, -1)
        # Here, or here after all: the other has just ended.
        self._board.add(me, me, 1)
        try:
            return await self._serve(request, context)
        finally:
            self._board.add(me, me, -1)

    async def _pass_on(self, works: int, request: bytes, context: Context) -> Any:
        raise NotImplementedError

    async def _serve(self, request: bytes, context: Context) -> Any:
        raise NotImplementedError

    def _call(self, works: int, request: bytes, context: Context) -> Any:
        if works not in self._calls:
            self._calls[works] = self._bind(self._spread.raw_channel(self._component, works))
        left_s: Any = context.time_remaining()
        return self._calls[works](request, timeout=left_s, metadata=_forwarded(context))

    def _bind(self, channel: grpc.aio.Channel) -> Callable[..., Any]:
        raise NotImplementedError

    async def _read(self, request: bytes, context: Context) -> Any:
        try:
            return self._handler.deserialize(request)
        except Exception:
            # As gRPC itself says it.
            await context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


class _Unary(_Method):
    def _bind(self, channel: grpc.aio.Channel) -> Callable[..., Any]:
        return cast("Any", channel).unary_unary(self._handler.method.path)

    async def _pass_on(self, works: int, request: bytes, context: Context) -> Any:
        call = self._call(works, request, context)
        response = await call
        context.set_trailing_metadata(tuple(await call.trailing_metadata() or ()))
        return response

    async def _serve(self, request: bytes, context: Context) -> Any:
        message = await self._read(request, context)
        return self._handler.serialize(await self._handler.behavior(message, context))


class _Stream(_Method):
    def _bind(self, channel: grpc.aio.Channel) -> Callable[..., Any]:
        return cast("Any", channel).unary_stream(self._handler.method.path)

    async def _pass_on(self, works: int, request: bytes, context: Context) -> None:
        call = self._call(works, request, context)
        begun = False
        try:
            async for message in call:
                begun = True
                await context.write(message)
        except grpc.aio.AioRpcError as error:
            if begun:
                await _abort_as(error, context)
            raise
        finally:
            call.cancel()
        context.set_trailing_metadata(tuple(await call.trailing_metadata() or ()))

    async def _serve(self, request: bytes, context: Context) -> None:
        message = await self._read(request, context)
        writer: Any = _Serialising(context, self._handler.serialize)
        await self._handler.behavior(message, writer)


class _Serialising:
    """A call's context whose `write` takes messages, over one that takes bytes."""

    def __init__(self, context: Context, serialize: Callable[[Any], bytes]) -> None:
        self._context = context
        self._serialize = serialize

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._context.write(self._serialize(message))


async def _abort_as(error: grpc.aio.AioRpcError, context: Context) -> None:
    trailers = tuple(error.trailing_metadata() or ())
    await context.abort(error.code(), error.details() or "", trailers)


def _never_began(error: grpc.aio.AioRpcError) -> bool:
    """Whether it was the connection that failed, before anything was answered."""
    trailers = tuple(error.trailing_metadata() or ())
    said = any(key == STATUS_DETAILS_KEY for key, _ in trailers)
    return error.code() is grpc.StatusCode.UNAVAILABLE and not said


def _forwarded(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    pairs: Any = context.invocation_metadata() or ()
    kept = [pair for pair in pairs if not pair[0].startswith(_RESERVED_PREFIXES)]
    return (*((key, value) for key, value in kept), (PASSED_ON_KEY, "1"))


class _SpreadChannel:
    """Gives each call to this process or to another worker; stubs take it for a channel."""

    def __init__(self, spread: Spread, component: str, local: grpc.aio.Channel) -> None:
        self._spread = spread
        self._component = component
        self._local = local

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._spreading(lambda channel: channel.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._spreading(lambda channel: channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._local.stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._local.stream_stream(method, *args, **kwargs)

    def _spreading(self, bind: Callable[[grpc.aio.Channel], Callable[..., Any]]) -> Any:
        spread, calls = self._spread, dict[int, Callable[..., Any]]()

        def call(request: Any, *, metadata: Any = None, **options: Any) -> Any:
            works = spread.board.pick(spread.me)
            if works not in calls:
                there = works != spread.me
                channel = spread.speaking_channel(self._component, works) if there else self._local
                calls[works] = bind(channel)
            if works != spread.me:
                metadata = (*(metadata or ()), (PASSED_ON_KEY, "1"))
            made = calls[works](request, metadata=metadata, **options)
            spread.board.add(spread.me, works, 1)
            made.add_done_callback(partial(_done, spread, works))
            return made

        return call


def _done(spread: Spread, works: int, _: object) -> None:
    spread.board.add(spread.me, works, -1)
