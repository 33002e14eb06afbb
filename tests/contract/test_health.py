"""Health and reflection: what a probe sees, also when everything else is shed."""

import asyncio
from typing import Any, cast

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.errors import NotFound, Reason, ResourceExhausted, Unavailable, from_rpc_error
from mesh.handlers import Context
from tests.contract.probe import SERVICE, TIMEOUT_S, Peer, Serve, soon, text

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def echo(request: Any, context: Context) -> Any:
    return request


def health(peer: Peer) -> Any:
    return health_pb2_grpc.HealthStub(peer.plain)  # pyright: ignore[reportUnknownMemberType]


async def status(peer: Peer, name: str) -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health(peer).Check(request, timeout=TIMEOUT_S)).status


async def statuses(peer: Peer) -> list[int]:
    return [await status(peer, name) for name in ("liveness", "readiness", "")]


async def test_a_started_server_is_live_and_ready(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    assert await statuses(peer) == [SERVING, SERVING, SERVING]


async def test_readiness_falls_and_liveness_stays(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    await peer.server.health.set_ready(False)
    assert await statuses(peer) == [SERVING, NOT_SERVING, NOT_SERVING]


async def test_readiness_follows_the_component(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    peer.probe.ready = False
    assert await statuses(peer) == [SERVING, NOT_SERVING, NOT_SERVING]
    peer.probe.ready = True
    assert await statuses(peer) == [SERVING, SERVING, SERVING]


async def test_an_unknown_name_is_not_found(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status(peer, "no.such.Service")
    assert isinstance(from_rpc_error(caught.value), NotFound)


async def test_a_watcher_is_told_of_changes_and_of_the_end(serve: Serve) -> None:
    peer = await serve({"drain_grace_s": 3600.0}, Unary=echo)
    watch = health(peer).Watch(
        health_pb2.HealthCheckRequest(service="readiness"), timeout=TIMEOUT_S
    )
    assert (await watch.read()).status == SERVING
    await peer.server.health.set_ready(False)
    assert (await watch.read()).status == NOT_SERVING
    # A watch that held the drain would hold it for the grace of an hour.
    await soon(peer.server.drain())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert isinstance(from_rpc_error(caught.value), Unavailable)


async def test_a_probe_tells_the_watchers_what_the_component_thinks(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    watch = health(peer).Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT_S)
    assert (await watch.read()).status == SERVING
    peer.probe.ready = False
    assert await status(peer, "") == NOT_SERVING
    assert (await soon(watch.read())).status == NOT_SERVING
    watch.cancel()


async def test_watching_an_unknown_name_waits_for_it(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    watch = health(peer).Watch(health_pb2.HealthCheckRequest(service="x"), timeout=TIMEOUT_S)
    assert (await watch.read()).status == UNKNOWN
    watch.cancel()


async def test_health_answers_while_every_call_is_shed(serve: Serve) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def hold(request: Any, context: Context) -> None:
        await context.write(text("held"))
        began.set()
        await soon(go.wait())

    full = {"max_concurrent_calls": 1, "max_queued_calls": 0}
    peer = await serve(full, ServerStream=hold, Unary=echo)
    held = peer.stub.server_stream(text(""))
    await soon(began.wait())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.stub.unary(text(""))
    shed = from_rpc_error(caught.value)
    assert isinstance(shed, ResourceExhausted)
    assert (shed.reason, shed.retry_after_s) == (Reason.OVERLOADED, 1.0)
    assert await statuses(peer) == [SERVING, SERVING, SERVING]
    go.set()
    assert [m.value async for m in held] == ["held"]
    assert await peer.stub.unary(text("in")) == text("in"), "the place is free again"


async def test_a_queued_call_is_admitted_when_a_place_is_free(serve: Serve) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def hold(request: Any, context: Context) -> Any:
        began.set()
        await soon(go.wait())
        return request

    peer = await serve({"max_concurrent_calls": 1, "max_queued_calls": 1}, Unary=hold)
    first = asyncio.ensure_future(peer.stub.unary(text("first")))
    await soon(began.wait())
    second = asyncio.ensure_future(peer.stub.unary(text("second")))
    for _ in range(10_000):
        if peer.server.admission.statistics().queued:
            break
        await asyncio.sleep(0)
    assert peer.server.admission.statistics().queued == 1
    go.set()
    assert [(await first).value, (await second).value] == ["first", "second"]
    assert peer.server.admission.statistics().running == 0


async def test_reflection_lists_the_services(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", peer.plain))  # pyright: ignore[reportUnknownMemberType]
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo([asked], timeout=TIMEOUT_S)
    [answer] = [response async for response in call]
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
