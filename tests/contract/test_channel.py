"""The client's side of the wire: its four interceptors, its retries, its patience."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, cast

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from mesh.call import Identity, current_call, outgoing_call
from mesh.channel import connect
from mesh.errors import FailedPrecondition, Unauthenticated, Unavailable, from_rpc_error
from mesh.handlers import Context
from mesh.server import ComponentServer
from mesh.settings import KeySettings, MeshSettings
from tests.contract.probe import SERVICE, SETTINGS, TENANT, Handler, Probe, Serve, Stub, soon, text


@pytest.fixture
def transport() -> str:
    return "wire"


async def who(request: Any, context: Context) -> Any:
    call = current_call()
    return text(f"{call.identity.tenant}/{call.identity.principal}/{call.request_id}")


async def who_streamed(request: Any, context: Context) -> None:
    await context.write(await who(request, context))


async def test_each_kind_of_call_carries_the_callers_context(serve: Serve) -> None:
    peer = await serve(Unary=who, ServerStream=who_streamed, ClientStream=who, Bidi=who_streamed)
    stub = peer.stub
    with outgoing_call(Identity("globex", "key:ana"), request_id="r-1", timeout_s=10):
        got = [
            await stub.unary(text(""), metadata=()),
            await stub.server_stream(text(""), metadata=()).read(),
            await stub.client_stream([], metadata=()),
            await stub.bidi([], metadata=()).read(),
        ]
    assert [m.value for m in got] == ["globex/key:ana/r-1"] * 4


async def test_the_mesh_token_opens_a_mesh_with_keys(serve: Serve) -> None:
    keys = {"laptop": KeySettings(sha256="0" * 64, tenant="acme")}
    peer = await serve({"auth": "keys", "keys": keys}, Unary=who)
    with outgoing_call(Identity("acme", "key:ana"), request_id="r-2"):
        assert (await peer.stub.unary(text(""), metadata=())).value == "acme/key:ana/r-2"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.stub.unary(text(""), metadata=TENANT)
    assert isinstance(from_rpc_error(caught.value), Unauthenticated)


async def test_a_handlers_own_cancellation_is_attempted_once(serve: Serve) -> None:
    attempts: list[int] = []

    async def handler(request: Any, context: Context) -> Any:
        attempts.append(1)
        raise asyncio.CancelledError

    peer = await serve(Unary=handler)
    assert await soon(peer.stub.unary(text("")).code()) is grpc.StatusCode.CANCELLED
    assert attempts == [1]


async def test_no_call_is_lost_when_one_of_two_servers_drains() -> None:
    settings = replace(MeshSettings(**SETTINGS), drain_grace_s=60.0)
    both = asyncio.Event()
    answered: set[int] = set()

    def answering(number: int) -> Handler:
        async def answer(request: Any, context: Context) -> Any:
            answered.add(number)
            if len(answered) == 2:
                both.set()
            return request

        return answer

    servers = [ComponentServer(Probe({"Unary": answering(n)}), settings) for n in range(2)]
    for server in servers:
        await server.start()
    ports = [await server.listen(0) for server in servers]
    channel = connect("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports))
    stub, drained = Stub(channel), asyncio.Event()
    codes: list[grpc.StatusCode] = []

    async def call_on() -> None:
        while not drained.is_set():
            codes.append(await soon(stub.unary(text("")).code()))

    callers = [asyncio.create_task(call_on()) for _ in range(20)]
    try:
        await soon(both.wait())
        await soon(servers[0].drain())
    finally:
        drained.set()
        await asyncio.wait(callers)
        await channel.close()
        for server in servers:
            await server.drain()
    assert set(codes) == {grpc.StatusCode.OK}


@pytest.mark.parametrize("retry_after_s", [None, 0.01])
@pytest.mark.parametrize("kind", ["unary", "server_stream", "client_stream", "bidi"])
async def test_what_a_handler_calls_unavailable_is_attempted_once(
    serve: Serve, kind: str, retry_after_s: float | None
) -> None:
    attempts: list[str] = []

    async def handler(request: Any, context: Context) -> Any:
        attempts.append(kind)
        raise Unavailable("not today", retry_after_s=retry_after_s)

    peer = await serve(Unary=handler, ServerStream=handler, ClientStream=handler, Bidi=handler)
    stub = peer.stub
    call = {
        "unary": lambda: stub.unary(text("")),
        "server_stream": lambda: stub.server_stream(text("")).read(),
        "client_stream": lambda: stub.client_stream([]),
        "bidi": lambda: stub.bidi([]).read(),
    }[kind]()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon(call)
    assert isinstance(from_rpc_error(caught.value), Unavailable)
    assert attempts == [kind]


class Foreign(grpc.GenericRpcHandler):
    """A server without our interceptors, which refuses its first calls without push-back."""

    def __init__(self, refuse: int) -> None:
        self.attempts = 0
        self._refuse = refuse

    def service(self, handler_call_details: Any) -> Any:
        if not handler_call_details.method.startswith(f"/{SERVICE}/"):
            return None

        async def handler(request: bytes, context: Context) -> bytes:
            self.attempts += 1
            if self.attempts <= self._refuse:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            return request

        return cast("Any", grpc.unary_unary_rpc_method_handler(handler))


@pytest.fixture(params=["no health service", "the usual health service"])
async def foreign(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[Foreign, Stub]]:
    handler = Foreign(refuse=2)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    if request.param == "the usual health service":
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = connect(f"127.0.0.1:{port}")
    yield handler, Stub(channel)
    await channel.close()
    await server.stop(0)


async def test_the_policy_retries_what_does_not_push_back(foreign: tuple[Foreign, Stub]) -> None:
    handler, stub = foreign
    assert await soon(stub.unary(text("third time"))) == text("third time")
    assert handler.attempts == 3


async def test_a_call_that_may_wait_reaches_a_server_started_later() -> None:
    probe = Probe({"Unary": who})
    settings = MeshSettings(**SETTINGS)
    first = ComponentServer(Probe({}), settings)
    await first.start()
    port = await first.listen(0)
    await first.drain()

    channel = connect(f"127.0.0.1:{port}")
    try:
        stub = Stub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await soon(stub.unary(text("")))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        waiting = asyncio.ensure_future(stub.unary(text(""), wait_for_ready=True))
        second = ComponentServer(probe, settings)
        await second.start()
        assert await second.listen(port) == port
        assert (await soon(waiting)).value.startswith("acme/")
        await second.drain()
    finally:
        await channel.close()


async def test_waiting_for_a_server_ends_with_the_deadline() -> None:
    channel = connect("127.0.0.1:1")
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(channel).unary(text(""), wait_for_ready=True, timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        await channel.close()


async def test_a_server_that_is_not_ready_gets_no_calls(serve: Serve) -> None:
    peer = await serve(Unary=who)
    assert await peer.stub.unary(text(""))
    await peer.server.health.set_ready(False)
    codes: list[grpc.StatusCode] = []
    while grpc.StatusCode.UNAVAILABLE not in codes:
        codes.append(await soon(peer.stub.unary(text("")).code()))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    await peer.server.health.set_ready(True)
    assert await peer.stub.unary(text(""), wait_for_ready=True)


async def test_an_open_mesh_serves_loopback_only() -> None:
    server = ComponentServer(Probe({}), MeshSettings(host="0.0.0.0"))
    with pytest.raises(FailedPrecondition, match="auth: keys"):
        await server.listen(0)


async def test_a_port_is_served_once() -> None:
    first, second = (ComponentServer(Probe({}), MeshSettings(drain_hold_s=0)) for _ in range(2))
    await first.start()
    port = await first.listen(0)
    with pytest.raises(FailedPrecondition, match=f"{port}: the port is in use"):
        await second.listen(port)
    await first.drain()
    await second.drain()
