"""Every way that a call ends early reaches the other side, over either transport."""

import asyncio
import gc
from typing import Any, cast

import grpc.aio
import pytest

from mesh.call import remaining_s
from mesh.errors import DeadlineExceeded, Unavailable, from_rpc_error
from mesh.handlers import Context
from tests.contract.probe import TENANT, Serve, soon, text

FOREVER = 3600.0


class Witness:
    """A handler that waits for ever in one place, and what became of it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.began = asyncio.Event()
        self.over = asyncio.Event()
        self.went_on = False

    async def serve(self, request: Any, context: Context) -> Any:
        """Wait; whatever ends the waiting must not let the handler work on."""
        self.began.set()
        try:
            match self.place:
                case "write":
                    while True:
                        await context.write(text("x" * 4096))
                case "read":
                    while await context.read() is not grpc.aio.EOF:
                        pass
                    # The wire cannot tell a cancelled stream from a finished one at this point;
                    # the next wait does.
                    await asyncio.Event().wait()
                case _:
                    await asyncio.Event().wait()
            self.went_on = True
        finally:
            self.over.set()


def start(peer_stub: Any, place: str) -> Any:
    match place:
        case "write":
            return peer_stub.server_stream(text(""))
        case "read":
            return peer_stub.bidi()
        case _:
            return peer_stub.unary(text(""))


def handlers(witness: Witness) -> dict[str, Any]:
    return {"Unary": witness.serve, "ServerStream": witness.serve, "Bidi": witness.serve}


PLACES = ("await", "read", "write")


@pytest.mark.parametrize("place", PLACES)
async def test_cancelling_the_call_reaches_the_handler(serve: Serve, place: str) -> None:
    witness = Witness(place)
    peer = await serve(**handlers(witness))
    call = start(peer.stub, place)
    await soon(witness.began.wait())
    assert call.cancel()
    await soon(witness.over.wait())
    assert not witness.went_on
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(asyncio.CancelledError):
        await (call if place == "await" else call.read())


@pytest.mark.parametrize("place", ["await", "read"])
async def test_cancelling_the_waiting_task_reaches_the_handler(serve: Serve, place: str) -> None:
    witness = Witness(place)
    peer = await serve(**handlers(witness))

    async def wait() -> None:
        call = start(peer.stub, place)
        await (call if place == "await" else call.read())

    waiting = asyncio.create_task(wait())
    await soon(witness.began.wait())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await soon(witness.over.wait())
    assert not witness.went_on


@pytest.mark.parametrize("place", PLACES)
async def test_the_deadline_ends_both_sides(serve: Serve, place: str) -> None:
    witness = Witness(place)
    peer = await serve(**handlers(witness))
    stub = peer.stub
    match place:
        case "write":
            call = stub.server_stream(text(""), timeout=0.2)
        case "read":
            call = stub.bidi(timeout=0.2)
        case _:
            call = stub.unary(text(""), timeout=0.2)
    assert await soon(call.code()) is grpc.StatusCode.DEADLINE_EXCEEDED
    await soon(witness.over.wait())
    assert not witness.went_on
    if place == "read":
        await call.done_writing()


async def test_a_deadline_is_a_typed_error(serve: Serve) -> None:
    peer = await serve(Unary=Witness("await").serve)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.stub.unary(text(""), timeout=0.2)
    assert isinstance(from_rpc_error(caught.value), DeadlineExceeded)


@pytest.mark.parametrize("timeout_s", [0, -1])
async def test_no_time_left_reaches_no_handler(serve: Serve, timeout_s: float) -> None:
    witness = Witness("await")
    peer = await serve(Unary=witness.serve)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.stub.unary(text(""), timeout=timeout_s)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not witness.began.is_set()


async def test_a_call_without_a_deadline_gets_the_default_one(serve: Serve) -> None:
    async def left(request: Any, context: Context) -> Any:
        return text(remaining_s(FOREVER))

    peer = await serve({"default_deadline_s": 7.0}, Unary=left)
    assert 0 < float((await peer.stub.unary(text(""), timeout=None)).value) <= 30.0


async def test_the_deadline_shrinks_at_every_hop(serve: Serve) -> None:
    async def left(request: Any, context: Context) -> Any:
        return text(remaining_s(FOREVER))

    back = await serve(Unary=left)

    async def forward(request: Any, context: Context) -> Any:
        mine = remaining_s(FOREVER)
        asked = float(request.value) if request.value else None
        got = await back.stub.unary(request, timeout=asked, metadata=())
        return text(f"{mine} {got.value}")

    front = await serve(Unary=forward)
    for asked in ("", str(FOREVER)):
        for budget_s in (0.9, 2.0, 9.006, 10.0, 30.0, 100.0):
            got = await front.stub.unary(text(asked), timeout=budget_s)
            here, there = map(float, got.value.split())
            # The wire carries three digits of a first caller's timeout, rounded up.
            assert 0 < there < here <= budget_s * 1.011
    got = await front.stub.unary(text("1.5"), timeout=10.0)
    assert float(got.value.split()[1]) <= 1.52, "a shorter timeout of the caller's own is kept"


async def test_cancelling_the_first_call_reaches_the_last_handler(serve: Serve) -> None:
    witness = Witness("await")
    back = await serve(Unary=witness.serve)

    async def forward(request: Any, context: Context) -> Any:
        return await back.stub.unary(request, metadata=())

    front = await serve(Unary=forward)
    call = front.stub.unary(text(""))
    await soon(witness.began.wait())
    call.cancel()
    await soon(witness.over.wait())


async def test_a_handler_that_ignores_cancellation_does_not_hold_its_caller(serve: Serve) -> None:
    began, told, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn(request: Any, context: Context) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.set()
            await soon(go.wait())
        return request

    peer = await serve(Unary=stubborn)
    call = peer.stub.unary(text(""))
    await soon(began.wait())
    call.cancel()
    assert await soon(call.code()) is grpc.StatusCode.CANCELLED
    await soon(told.wait())
    go.set()


async def test_writing_to_a_call_that_is_over_ends_the_handler(serve: Serve) -> None:
    began, over = asyncio.Event(), asyncio.Event()
    raised: list[str] = []

    async def stubborn(request: Any, context: Context) -> None:
        began.set()
        try:
            while True:
                try:
                    await context.write(text("x" * 4096))
                except asyncio.CancelledError:
                    raised.append("CancelledError")
        except grpc.aio.BaseError as error:
            raised.append("BaseError")
            raise error
        finally:
            over.set()

    peer = await serve(ServerStream=stubborn)
    call = peer.stub.server_stream(text(""))
    await soon(began.wait())
    await call.read()
    call.cancel()
    await soon(over.wait())
    assert raised[-1] == "BaseError"


async def test_writing_to_a_call_that_has_ended_is_refused(serve: Serve) -> None:
    async def refuse(requests: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no")

    peer = await serve(Bidi=refuse)
    call = peer.stub.bidi()
    assert await soon(call.code()) is grpc.StatusCode.OUT_OF_RANGE
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(text("late"))
    await call.done_writing()


async def test_the_end_is_told_to_callbacks(serve: Serve) -> None:
    client, server = asyncio.Event(), asyncio.Event()

    def told(_: object) -> None:
        client.set()

    def told_server(_: object) -> None:
        server.set()

    async def handler(request: Any, context: Context) -> Any:
        cast("Any", context).add_done_callback(told_server)
        return request

    peer = await serve(Unary=handler)
    call = peer.stub.unary(text("x"))
    call.add_done_callback(told)
    assert await call == text("x")
    await soon(client.wait())
    await soon(server.wait())


@pytest.mark.parametrize("transport", ["inprocess"])
async def test_a_call_that_nobody_holds_is_cancelled(serve: Serve) -> None:
    """Over the wire grpc.aio keeps a call alive by itself, so callers cancel; see 0002."""
    witness = Witness("await")
    peer = await serve(Unary=witness.serve)
    call = peer.stub.unary(text(""))
    await soon(witness.began.wait())
    del call
    gc.collect()
    await soon(witness.over.wait())


async def test_calls_after_the_drain_are_unavailable(serve: Serve) -> None:
    witness = Witness("await")
    peer = await serve(Unary=witness.serve, ServerStream=witness.serve)
    await peer.server.drain()
    stub = peer.stub
    for call in (stub.unary(text("")), stub.server_stream(text("")).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await soon(call)
        assert isinstance(from_rpc_error(caught.value), Unavailable)
    assert not witness.began.is_set()


async def test_a_call_within_the_grace_ends_well(serve: Serve) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def handler(request: Any, context: Context) -> None:
        await context.write(text("first"))
        began.set()
        await soon(go.wait())
        await context.write(text("last"))

    peer = await serve({"drain_grace_s": FOREVER}, ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert (await call.read()).value == "first"
    draining = asyncio.create_task(peer.server.drain())
    for _ in range(1000):
        await asyncio.sleep(0)
    assert peer.server.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    assert peer.probe.closed_count == 0, "the component serves until its calls are over"
    go.set()
    assert [m.value async for m in call] == ["last"]
    await soon(draining)
    assert peer.probe.closed_count == 1


async def test_a_call_beyond_the_grace_is_cut_with_a_status(serve: Serve) -> None:
    cleaned = asyncio.Event()

    async def handler(request: Any, context: Context) -> None:
        await context.write(text("first"))
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert (await call.read()).value == "first"
    await soon(peer.server.drain())
    assert cleaned.is_set(), "a drain ends after the handlers it cut"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_component_closes_after_its_handlers_and_once(serve: Serve) -> None:
    order: list[str] = []
    began = asyncio.Event()

    async def handler(request: Any, context: Context) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            order.append(f"cleaned up, closed {peer.probe.closed_count} times")

    peer = await serve(Unary=handler)
    call = peer.stub.unary(text(""), metadata=TENANT)
    await soon(began.wait())
    await asyncio.gather(peer.server.drain(), peer.server.drain())
    assert order == ["cleaned up, closed 0 times"]
    assert peer.probe.closed_count == 1
    with pytest.raises(grpc.aio.AioRpcError):
        await call
