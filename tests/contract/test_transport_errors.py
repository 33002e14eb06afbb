"""Errors cross either transport whole, and nothing crosses that should not."""

import asyncio
import io
from typing import Any

import grpc.aio
import pytest

from mesh import logs
from mesh.errors import (
    Cancelled,
    Conflict,
    DataLoss,
    Internal,
    InvalidArgument,
    NotFound,
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    from_rpc_error,
)
from mesh.handlers import Context
from tests.contract.probe import SERVICE, TENANT, Serve, soon, text

SECRET = "sk-very-secret"


def same(left: PlexusError, right: PlexusError) -> bool:
    """Whether two errors tell a caller the same."""
    return (type(left), left.message, left.reason, left.metadata, left.retry_after_s) == (
        type(right),
        right.message,
        right.reason,
        right.metadata,
        right.retry_after_s,
    ) and left.violations == right.violations


async def failure_of(call: Any) -> PlexusError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon(call)
    return from_rpc_error(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no such memory", metadata={"id": "m-1"}),
        InvalidArgument("two fields", violations=[("a.b", "must be set"), ("c", "too long: ü")]),
        ResourceExhausted("shed", reason=Reason.OVERLOADED, retry_after_s=0.57),
        Conflict("version 3, not 2", metadata={"version": "3"}),
        Unavailable("memory is down", reason=Reason.MEMORY_UNAVAILABLE, retry_after_s=2),
        DataLoss("ü \n 100%"),
        Internal("a fault"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_typed_error_arrives_equal(serve: Serve, error: PlexusError) -> None:
    async def handler(request: Any, context: Context) -> Any:
        raise error

    async def stream(request: Any, context: Context) -> None:
        raise error

    peer = await serve(Unary=handler, ServerStream=stream, ClientStream=handler, Bidi=stream)
    assert same(await failure_of(peer.stub.unary(text(""))), error)
    assert same(await failure_of(peer.stub.server_stream(text("")).read()), error)
    assert same(await failure_of(peer.stub.client_stream([])), error)
    assert same(await failure_of(peer.stub.bidi([]).read()), error)


async def test_what_was_written_before_an_error_arrives_first(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> None:
        for n in range(3):
            await context.write(text(n))
        raise NotFound("no more")

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert [(await call.read()).value for _ in range(3)] == ["0", "1", "2"]
    assert same(await failure_of(call.read()), NotFound("no more"))


async def test_abort_in_the_middle_of_a_stream(serve: Serve) -> None:
    ended: list[BaseException] = []

    async def handler(request: Any, context: Context) -> None:
        await context.write(text("one"))
        try:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "the end", (("x-why", "because"),))
        except BaseException as error:
            ended.append(error)
            raise

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert (await call.read()).value == "one"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert caught.value.details() == "the end"
    assert dict(caught.value.trailing_metadata() or ())["x-why"] == "because"
    assert isinstance(ended[0], grpc.aio.AbortError)


async def test_a_status_that_is_set_is_sent(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> Any:
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("torn page")
        return text("not delivered")

    peer = await serve(Unary=handler)
    error = await failure_of(peer.stub.unary(text("")))
    assert same(error, DataLoss("torn page"))


@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
async def test_an_uncaught_exception_tells_nobody_its_text(
    serve: Serve, kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def handler(request: Any, context: Context) -> Any:
        raise RuntimeError(f"cannot reach https://user:{SECRET}@host")

    lines = io.StringIO()
    logs.configure("debug", lines)
    peer = await serve(**{kind: handler})
    stub = peer.stub
    call = stub.unary(text("")) if kind == "Unary" else stub.server_stream(text("")).read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert from_rpc_error(error).reason == Reason.INTERNAL
    said = f"{error!r} {error.trailing_metadata()} {lines.getvalue()} {caplog.text}"
    assert SECRET not in said + str(capfd.readouterr())
    assert "RuntimeError" in lines.getvalue(), "the fault must be found in the log"
    assert "test_transport_errors.py" in lines.getvalue()


async def test_a_handlers_own_cancellation_is_an_answer(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> Any:
        inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        inner.cancel()
        await inner

    peer = await serve(Unary=handler)
    assert isinstance(await failure_of(peer.stub.unary(text(""))), Cancelled)


async def test_a_long_error_arrives_cut_and_still_as_itself(serve: Serve) -> None:
    error = InvalidArgument(
        "💥" * 20_000,
        metadata={f"k{n}": "💥" * 1000 for n in range(100)},
        violations=[(f"f{n}", "💥" * 1000) for n in range(100)],
    )

    async def handler(request: Any, context: Context) -> Any:
        raise error

    peer = await serve(Unary=handler)
    assert same(await failure_of(peer.stub.unary(text(""))), error)


async def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> Any:
        return request

    peer = await serve(Unary=handler)
    for path in (f"/{SERVICE}/Nothing", "/no.such.Service/Unary"):
        call: Any = peer.channel.unary_unary(
            path, request_serializer=bytes, response_deserializer=bytes
        )
        error = await failure_of(call(b"", metadata=TENANT, timeout=10))
        assert isinstance(error, Unimplemented)
        assert error.reason == Reason.NOT_SERVED


async def test_an_iterator_that_fails_cancels_its_call(serve: Serve) -> None:
    over = asyncio.Event()

    async def handler(requests: Any, context: Context) -> Any:
        try:
            return text(len([request async for request in requests]))
        finally:
            over.set()

    async def broken() -> Any:
        yield text("one")
        raise RuntimeError("the source broke")

    peer = await serve(ClientStream=handler)
    with pytest.raises(asyncio.CancelledError):
        await soon(peer.stub.client_stream(broken()))
    await soon(over.wait())


async def test_a_refused_caller_reaches_no_handler(serve: Serve) -> None:
    reached: list[str] = []

    async def handler(request: Any, context: Context) -> Any:
        reached.append("handler")
        return request

    peer = await serve(Unary=handler)
    error = await failure_of(
        peer.stub.unary(text(""), metadata=(("plexus-mesh-token", "mesh-token"),))
    )
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    assert error.reason == Reason.TENANT_REQUIRED
    assert reached == []
