"""SIGTERM in the middle of streams: nothing is truncated, and nothing is cut in silence."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.channel import connect
from tests.e2e.drained_server import SERVICE

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30.0
LONG_S = 600.0
"""A hold or grace that no test could wait for."""

T = TypeVar("T")


async def soon(awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(TIMEOUT_S):
        return await awaitable


class Served:
    """The server's process, and channels to it."""

    def __init__(self, child: asyncio.subprocess.Process, port: int) -> None:
        self.child = child
        self.address = f"127.0.0.1:{port}"
        # As callers from outside connect: without our client's health checking, which would
        # send nothing more once readiness has fallen.
        self.plain = grpc.aio.insecure_channel(self.address)
        self.health: Any = health_pb2_grpc.HealthStub(self.plain)  # pyright: ignore[reportUnknownMemberType]

    def count(self, request: object) -> Any:
        method = self.plain.unary_stream(
            f"/{SERVICE}/Count",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        return method(StringValue(value=str(request)), timeout=TIMEOUT_S)

    async def status(self, name: str) -> int:
        request = health_pb2.HealthCheckRequest(service=name)
        return (await self.health.Check(request, timeout=TIMEOUT_S)).status

    async def said(self, line: str) -> None:
        """Wait until the server says `line`."""
        assert self.child.stdout is not None
        while (got := (await soon(self.child.stdout.readline())).decode().strip()) != line:
            assert got, f"the server ended without saying {line!r}"

    def feed(self, lines: int = 1) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(b"\n" * lines)

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)


async def rest(call: Any) -> list[str]:
    """Read what is left of a stream; raise what ends it."""
    got: list[str] = []
    while (message := await soon(call.read())) is not grpc.aio.EOF:
        got.append(message.value)
    return got


Start = Callable[[float, float], Awaitable[Served]]


@pytest.fixture
async def start() -> AsyncGenerator[Start]:
    """Starts servers with a hold and a grace; what still runs at the end is killed."""
    started: list[Served] = []

    async def run(hold_s: float, grace_s: float) -> Served:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.e2e.drained_server",
            str(hold_s),
            str(grace_s),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        served = Served(child, int(await soon(child.stdout.readline())))
        started.append(served)
        return served

    yield run
    for served in started:
        await served.plain.close()
        if served.child.returncode is None:
            served.child.kill()
        await served.child.wait()


async def test_a_running_stream_ends_untruncated(start: Start) -> None:
    served = await start(0.0, LONG_S)
    call = served.count(50)
    assert (await soon(call.read())).value == "50"
    served.terminate()
    await served.said("draining")
    served.feed(50)
    assert await rest(call) == [str(n) for n in range(50)]
    assert await call.code() is grpc.StatusCode.OK
    await served.said("component closed")
    await served.said("drained")
    assert await soon(served.child.wait()) == 0


async def test_in_the_hold_readiness_has_fallen_and_calls_are_still_taken(start: Start) -> None:
    served = await start(LONG_S, 0.0)
    names = ("liveness", "readiness", "")
    serving = health_pb2.HealthCheckResponse.SERVING
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
    assert [await served.status(name) for name in names] == [serving] * 3
    watch = served.health.Watch(
        health_pb2.HealthCheckRequest(service="readiness"), timeout=TIMEOUT_S
    )
    assert (await soon(watch.read())).status == serving

    served.terminate()
    assert (await soon(watch.read())).status == not_serving
    assert [await served.status(name) for name in names] == [serving, not_serving, not_serving]
    late = served.count(1)
    assert (await soon(late.read())).value == "1", "a call in the hold is accepted"
    served.feed()
    assert await rest(late) == ["0"], "and served to its end"
    watch.cancel()
    served.terminate()
    assert await soon(served.child.wait()) == -signal.SIGTERM, "a second signal is the abrupt way"


async def test_after_the_hold_no_call_is_taken(start: Start) -> None:
    served = await start(0.0, LONG_S)
    running = served.count(1)
    assert (await soon(running.read())).value == "1"
    served.terminate()
    await served.said("draining")

    async def until_refused() -> None:
        # The stop is a moment after the signal; what is taken until then is served.
        while await rest(served.count(0)) == ["0"]:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await until_refused()
    # Without our client's retries, a call that arrives in that moment is cancelled by gRPC.
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    served.feed()
    assert await rest(running) == ["0"]
    assert await soon(served.child.wait()) == 0


async def test_a_stream_longer_than_the_grace_is_cut_with_a_status(start: Start) -> None:
    served = await start(0.0, 0.1)
    call = served.count(50)
    assert (await soon(call.read())).value == "50"
    served.terminate()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon(call.read())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    # What the component owns is closed after its last handler, not under it.
    await served.said("handler over 50")
    await served.said("component closed")
    assert await soon(served.child.wait()) == 0


async def test_connected_clients_and_watchers_do_not_hold_a_drain(start: Start) -> None:
    served = await start(0.0, LONG_S)
    ours = connect(served.address)
    method: Any = ours.unary_stream(
        f"/{SERVICE}/Count",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    assert [m.value async for m in method(StringValue(value="0"), timeout=TIMEOUT_S)] == ["0"]
    watch = served.health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT_S)
    assert (await soon(watch.read())).status == health_pb2.HealthCheckResponse.SERVING
    served.terminate()
    assert await soon(served.child.wait()) == 0
    watch.cancel()
    await ours.close()
