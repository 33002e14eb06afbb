"""Sizes, windows and admission: what is bounded, and that the bound is told."""

import asyncio
from typing import Any

import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from mesh.errors import Reason, ResourceExhausted, from_rpc_error
from mesh.handlers import Context
from tests.contract.probe import Serve, soon, text

LIMIT = 64 * 1024
SMALL = {"max_message_bytes": LIMIT}
FITS = LIMIT - 5
"""The longest text of a StringValue within the limit: a tag and three bytes of length."""
PIECE = "x" * 1024
TOTAL = 8 * 1024
"""Pieces that a writer offers: 8 MiB, far beyond every bound below."""
AHEAD_BYTES = {"inprocess": 66 * 1024, "wire": 192 * 1024}
"""How far a writer may get ahead of a reader: one window; two windows and gRPC's own buffers."""
QUIET_S = 0.3
"""When a writer is taken to be blocked; one that was only slow makes the test weaker, not red."""


async def echo(request: Any, context: Context) -> Any:
    return request


async def exhausted(call: Any) -> ResourceExhausted:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon(call)
    error = from_rpc_error(caught.value)
    assert isinstance(error, ResourceExhausted)
    return error


async def test_a_message_of_just_the_limit_passes(serve: Serve) -> None:
    assert StringValue(value="x" * FITS).ByteSize() <= LIMIT
    peer = await serve(SMALL, Unary=echo)
    assert len((await peer.stub.unary(text("x" * FITS))).value) == FITS


async def test_a_request_over_the_limit_is_refused(serve: Serve) -> None:
    reached: list[str] = []

    async def handler(request: Any, context: Context) -> Any:
        reached.append("unary")
        return request

    peer = await serve(SMALL, Unary=handler)
    error = await exhausted(peer.stub.unary(text("x" * LIMIT)))
    assert error.reason == Reason.MESSAGE_TOO_LARGE
    assert reached == []


async def test_a_response_over_the_limit_is_refused(serve: Serve) -> None:
    async def large(request: Any, context: Context) -> Any:
        return text("x" * LIMIT)

    async def large_second(request: Any, context: Context) -> None:
        await context.write(text("small"))
        await context.write(text("x" * LIMIT))

    peer = await serve(SMALL, Unary=large, ServerStream=large_second)
    assert (await exhausted(peer.stub.unary(text("")))).reason == Reason.MESSAGE_TOO_LARGE
    call = peer.stub.server_stream(text(""))
    assert (await call.read()).value == "small"
    assert (await exhausted(call.read())).reason == Reason.MESSAGE_TOO_LARGE


async def test_a_streamed_request_over_the_limit_ends_the_call(serve: Serve) -> None:
    over = asyncio.Event()
    got: list[int] = []

    async def handler(requests: Any, context: Context) -> Any:
        try:
            got.extend([len(request.value) async for request in requests])
            await asyncio.Event().wait()
        finally:
            over.set()

    peer = await serve(SMALL, ClientStream=handler)
    requests = [text("small"), text("x" * LIMIT), text("after")]
    assert (await exhausted(peer.stub.client_stream(requests))).reason == Reason.MESSAGE_TOO_LARGE
    await soon(over.wait())


class Writer:
    """Counts what a side could write, and says when it seems blocked."""

    def __init__(self) -> None:
        self.count = 0
        self._progress = asyncio.Event()

    async def run(self, write: Any, piece: str) -> None:
        for _ in range(TOTAL):
            await write(text(piece))
            self.count += 1
            self._progress.set()

    async def blocked(self) -> int:
        """Return how many messages went before the writer stood still, or finished."""
        while self.count < TOTAL:
            self._progress.clear()
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._progress.wait()
            except TimeoutError:
                break
        return self.count


async def test_a_reader_that_does_not_read_holds_its_writer(serve: Serve, transport: str) -> None:
    writer = Writer()

    async def handler(request: Any, context: Context) -> None:
        await writer.run(context.write, PIECE)

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert (await call.read()).value == PIECE
    ahead = await soon(writer.blocked())
    assert ahead * len(PIECE) <= AHEAD_BYTES[transport]
    assert sum([1 async for _ in call]) == TOTAL - 1, "and nothing is lost"


async def test_a_handler_that_does_not_read_holds_its_client(serve: Serve, transport: str) -> None:
    writer, go = Writer(), asyncio.Event()

    async def handler(requests: Any, context: Context) -> Any:
        await soon(go.wait())
        return text(sum([1 async for _ in requests]))

    peer = await serve(ClientStream=handler)
    call = peer.stub.client_stream()
    writing = asyncio.create_task(writer.run(call.write, PIECE))
    ahead = await soon(writer.blocked())
    assert ahead * len(PIECE) <= AHEAD_BYTES[transport]
    go.set()
    await soon(writing)
    await call.done_writing()
    assert (await soon(call)).value == str(TOTAL)


@pytest.mark.parametrize("transport", ["inprocess"])
async def test_empty_messages_are_bounded_as_well(serve: Serve) -> None:
    writer = Writer()

    async def handler(request: Any, context: Context) -> None:
        await writer.run(context.write, "")

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert await soon(writer.blocked()) < TOTAL
    assert sum([1 async for _ in call]) == TOTAL


async def test_a_message_larger_than_the_window_passes(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> None:
        for _ in range(3):
            await context.write(request)

    peer = await serve(ServerStream=handler)
    large = text("x" * 1_000_000)
    assert [m == large async for m in peer.stub.server_stream(large)] == [True] * 3


@pytest.mark.parametrize("transport", ["wire"])
async def test_metadata_over_the_limit_is_refused(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.stub.unary(text(""), metadata=(("plexus-tenant", "acme"), ("x-a", "a" * 20_000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
