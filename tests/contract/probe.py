"""A component whose handlers are made by the test, served in process or over the wire."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from mesh.channel import connect
from mesh.handlers import Context, ServiceTable
from mesh.server import ComponentServer
from mesh.settings import MeshSettings, Secret

SERVICE = "plexus.probe.v1.ProbeService"
TENANT = (("plexus-tenant", "acme"),)
TIMEOUT_S = 20.0
"""Given to every call, and to every wait of a test: what takes longer has failed."""
SETTINGS: dict[str, Any] = {
    "tenants": ("acme", "globex"),
    "mesh_token": Secret("mesh-token"),
    "drain_hold_s": 0.0,
    "drain_grace_s": 0.0,
}

T = TypeVar("T")
Handler = Callable[[Any, Context], Awaitable[Any]]
Serve = Callable[..., Awaitable["Peer"]]


def text(value: object) -> StringValue:
    return StringValue(value=str(value))


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for what must happen; fail instead of hanging when it does not."""
    async with asyncio.timeout(TIMEOUT_S):
        return await awaitable


@dataclass
class Probe:
    """A component with one method per kind of RPC, those that the test gave."""

    handlers: dict[str, Handler]
    name: str = "probe"
    ready: bool = True
    closed_count: int = field(default=0)

    def register(self, table: ServiceTable) -> None:
        makers: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler,
            "ServerStream": grpc.unary_stream_rpc_method_handler,
            "ClientStream": grpc.stream_unary_rpc_method_handler,
            "Bidi": grpc.stream_stream_rpc_method_handler,
        }
        methods = {
            name: makers[name](handler, StringValue.FromString, StringValue.SerializeToString)
            for name, handler in self.handlers.items()
        }
        table.add_registered_method_handlers(SERVICE, methods)

    async def start(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        self.closed_count += 1

    def readiness(self) -> bool:
        return self.ready


class Stub:
    """The four methods over one channel, with a tenant and a timeout unless the test says else."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.unary = _method(channel.unary_unary, "Unary")
        self.server_stream = _method(channel.unary_stream, "ServerStream")
        self.client_stream = _method(channel.stream_unary, "ClientStream")
        self.bidi = _method(channel.stream_stream, "Bidi")


def _method(make: Any, name: str) -> Callable[..., Any]:
    method = cast(
        "Callable[..., Any]",
        make(
            f"/{SERVICE}/{name}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        ),
    )

    def call(*requests: object, **options: object) -> Any:
        return method(*requests, **{"metadata": TENANT, "timeout": TIMEOUT_S, **options})

    return call


@dataclass
class Peer:
    """A served probe and a channel to it."""

    probe: Probe
    server: ComponentServer
    channel: grpc.aio.Channel
    stub: Stub
    plain: grpc.aio.Channel
    """As probes and foreign clients connect: without our options and interceptors."""

    async def close(self) -> None:
        await self.server.drain()
        await self.channel.close()
        await self.plain.close()


async def serve_probe(transport: str, settings: MeshSettings, handlers: dict[str, Handler]) -> Peer:
    """Serve the handlers and connect to them over `transport`."""
    probe = Probe(handlers)
    server = ComponentServer(probe, settings)
    await server.start()
    if transport == "inprocess":
        return Peer(probe, server, server.channel, Stub(server.channel), server.channel)
    address = f"127.0.0.1:{await server.listen(0)}"
    channel = connect(
        address,
        max_message_bytes=settings.max_message_bytes,
        mesh_token=settings.mesh_token,
    )
    return Peer(probe, server, channel, Stub(channel), grpc.aio.insecure_channel(address))
