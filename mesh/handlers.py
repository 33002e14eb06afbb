"""One table of RPC handlers, wrapped once, served over the wire and in process alike.

`ServiceTable` stands where generated `add_XServicer_to_server` functions expect a
server. Every handler takes the same shape, `async (request, context)`: a unary one
returns its response, a streaming one writes with `context.write` and returns None.
Interceptors therefore need to know nothing of the four kinds of RPC, and are folded
around each handler at registration rather than at every call.
"""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

import grpc
import grpc.aio

from mesh.errors import Unimplemented

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of an RPC before any call: its path `/package.Service/Name` and kind."""

    path: str
    request_streaming: bool
    response_streaming: bool


@dataclass(frozen=True, slots=True)
class Handler:
    """A wrapped handler with its serialisers."""

    method: Method
    behavior: Behavior
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]


class Interceptor(Protocol):
    """Wraps a handler's behavior; called once per method, at registration."""

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        """Return the behavior to run instead; it must be a coroutine function."""
        ...


class ServiceTable:
    """The methods of one server, by path."""

    def __init__(self, interceptors: Sequence[Interceptor] = ()) -> None:
        self._interceptors = tuple(interceptors)
        self._handlers: dict[str, Handler] = {}
        self._services: list[str] = []

    @property
    def service_names(self) -> tuple[str, ...]:
        """The fully qualified services added, in order."""
        return tuple(self._services)

    def find(self, path: str) -> Handler | None:
        """Return the handler of `/package.Service/Name`."""
        return self._handlers.get(path)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[object]) -> None:
        """Ignore the form that carries no method names; generated code offers both."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, object]
    ) -> None:
        """Add a service; generated code calls this."""
        self._services.append(service_name)
        for name, rpc in method_handlers.items():
            handler = self._wrap(f"/{service_name}/{name}", rpc)
            self._handlers[handler.method.path] = handler

    def as_generic_handler(self) -> grpc.GenericRpcHandler:
        """Return the table in the form that a grpc.aio server takes."""
        return _TableHandler({path: _to_grpc(h) for path, h in self._handlers.items()})

    def _wrap(self, path: str, rpc: Any) -> Handler:
        method = Method(path, bool(rpc.request_streaming), bool(rpc.response_streaming))
        target = rpc.stream_stream or rpc.stream_unary or rpc.unary_stream or rpc.unary_unary
        behavior = _as_coroutine(target)
        for interceptor in reversed(self._interceptors):
            behavior = interceptor.intercept(method, behavior)
        return Handler(method, behavior, rpc.request_deserializer, rpc.response_serializer)


def _as_coroutine(target: Callable[..., Any]) -> Behavior:
    """Give foreign async-generator handlers (reflection) the one shape that we use."""
    if inspect.iscoroutinefunction(target):
        return cast("Behavior", target)
    if target.__module__.endswith("_pb2_grpc"):
        # A servicer left this RPC to its generated base.
        return _not_served
    if not inspect.isasyncgenfunction(target):
        # grpc.aio would run a plain function in a thread pool, silently.
        raise TypeError(f"{target!r} must be a coroutine function")

    async def write_all(request: Any, context: Context) -> None:
        async with aclosing(cast("AsyncGenerator[Any, None]", target(request, context))) as items:
            async for item in items:
                await context.write(item)

    return write_all


async def _not_served(request: Any, context: Context) -> NoReturn:
    raise Unimplemented("this RPC is in the contract and not served here")


class _TableHandler(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, Any]) -> None:
        self._methods = methods

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


def _to_grpc(handler: Handler) -> Any:
    kind = (handler.method.request_streaming, handler.method.response_streaming)
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[kind]
    return cast("Any", make)(handler.behavior, handler.deserialize, handler.serialize)
