"""What every call promises, over either transport: messages, order, metadata, identity."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import grpc.aio
import pytest

from mesh.call import Identity, current_call, outgoing_call
from mesh.handlers import Context
from tests.contract.probe import TENANT, Serve, soon, text

COUNT = 500


async def echo(request: Any, context: Context) -> Any:
    return request


async def count_up(request: Any, context: Context) -> None:
    for n in range(int(request.value)):
        await context.write(text(n))


async def join(requests: Any, context: Context) -> Any:
    return text(",".join([request.value async for request in requests]))


async def echo_each(requests: Any, context: Context) -> None:
    async for request in requests:
        await context.write(request)


async def test_unary(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    assert await peer.stub.unary(text("hello")) == text("hello")


async def test_empty_messages_are_messages(serve: Serve) -> None:
    async def three(request: Any, context: Context) -> None:
        for _ in range(3):
            await context.write(text(""))

    peer = await serve(Unary=echo, ServerStream=three)
    assert await peer.stub.unary(text("")) == text("")
    assert [m.value async for m in peer.stub.server_stream(text(""))] == ["", "", ""]


async def test_a_unary_call_may_be_awaited_again(serve: Serve) -> None:
    peer = await serve(Unary=echo)
    call = peer.stub.unary(text("once"))
    assert await call == await call == text("once")
    assert await call.code() is grpc.StatusCode.OK
    assert call.done()


async def test_a_server_stream_keeps_its_order(serve: Serve) -> None:
    peer = await serve(ServerStream=count_up)
    got = [m.value async for m in peer.stub.server_stream(text(COUNT))]
    assert got == [str(n) for n in range(COUNT)]


async def test_a_server_stream_may_be_empty(serve: Serve) -> None:
    peer = await serve(ServerStream=count_up)
    assert [m async for m in peer.stub.server_stream(text(0))] == []


async def test_a_server_stream_is_read_by_hand(serve: Serve) -> None:
    peer = await serve(ServerStream=count_up)
    call = peer.stub.server_stream(text(2))
    assert [(await call.read()).value, (await call.read()).value] == ["0", "1"]
    assert await call.read() is grpc.aio.EOF
    assert await call.read() is grpc.aio.EOF


async def test_a_loop_over_a_stream_may_stop_and_go_on(serve: Serve) -> None:
    peer = await serve(ServerStream=count_up)
    call = peer.stub.server_stream(text(5))
    first: list[str] = []
    async for message in call:
        first.append(message.value)
        if len(first) == 2:
            break
    assert first + [m.value async for m in call] == ["0", "1", "2", "3", "4"]


async def _generate() -> AsyncIterator[Any]:
    for n in range(3):
        yield text(n)


async def test_a_client_stream_from_an_async_generator(serve: Serve) -> None:
    peer = await serve(ClientStream=join)
    assert (await peer.stub.client_stream(_generate())).value == "0,1,2"


async def test_a_client_stream_from_a_list(serve: Serve) -> None:
    peer = await serve(ClientStream=join)
    assert (await peer.stub.client_stream([text("a"), text("b")])).value == "a,b"


async def test_a_client_stream_written_by_hand(serve: Serve) -> None:
    peer = await serve(ClientStream=join)
    call = peer.stub.client_stream()
    for n in range(3):
        await call.write(text(n))
    await call.done_writing()
    await call.done_writing()
    assert (await call).value == "0,1,2"


async def test_writing_after_the_end_is_refused(serve: Serve) -> None:
    peer = await serve(ClientStream=join)
    call = peer.stub.client_stream()
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(text("late"))
    assert (await call).value == ""
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(text("later"))


async def test_iterator_and_writes_do_not_mix(serve: Serve) -> None:
    peer = await serve(ClientStream=join)
    call = peer.stub.client_stream(_generate())
    with pytest.raises(grpc.aio.UsageError):
        await call.write(text("x"))
    assert (await call).value == "0,1,2"


async def test_bidi_answers_while_the_client_still_writes(serve: Serve) -> None:
    peer = await serve(Bidi=echo_each)
    call = peer.stub.bidi()
    for n in range(COUNT):
        await call.write(text(n))
        assert (await call.read()).value == str(n)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_bidi_with_iterators_on_both_sides(serve: Serve) -> None:
    peer = await serve(Bidi=echo_each)
    assert [m.value async for m in peer.stub.bidi(_generate())] == ["0", "1", "2"]


async def test_a_handler_may_answer_without_reading(serve: Serve) -> None:
    async def early(requests: Any, context: Context) -> Any:
        return text("enough")

    peer = await serve(ClientStream=early)
    assert (await peer.stub.client_stream([text("x")] * 3)).value == "enough"


async def test_a_handler_reads_by_hand(serve: Serve) -> None:
    async def read_two(requests: Any, context: Context) -> Any:
        first, second, end = [await context.read() for _ in range(3)]
        assert end is grpc.aio.EOF
        return text(f"{first.value}+{second.value}")

    peer = await serve(ClientStream=read_two)
    assert (await peer.stub.client_stream([text("a"), text("b")])).value == "a+b"


async def test_calls_run_side_by_side(serve: Serve) -> None:
    both = asyncio.Barrier(2)

    async def meet(request: Any, context: Context) -> Any:
        await soon(both.wait())
        return request

    peer = await serve(Unary=meet)
    first, second = peer.stub.unary(text("a")), peer.stub.unary(text("b"))
    assert [await soon(second), await soon(first)] == [text("b"), text("a")]


async def test_metadata_travels_both_ways(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> Any:
        sent = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata((("x-first", "1"), ("x-data-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-last", "2"),))
        return text(f"{sent['x-asked']} {sent['x-asked-bin']!r}")

    peer = await serve(Unary=handler)
    asked = (*TENANT, ("x-asked", "yes"), ("x-asked-bin", b"\x01\xfe"))
    call = peer.stub.unary(text(""), metadata=asked)
    assert dict(await call.initial_metadata())["x-data-bin"] == b"\x00\xff"
    assert (await call).value == "yes b'\\x01\\xfe'"
    assert dict(await call.initial_metadata())["x-first"] == "1"
    assert dict(await call.trailing_metadata())["x-last"] == "2"


async def test_initial_metadata_arrives_before_the_first_message(serve: Serve) -> None:
    go = asyncio.Event()

    async def handler(request: Any, context: Context) -> None:
        await context.send_initial_metadata((("x-first", "1"),))
        await soon(go.wait())
        await context.write(text("late"))

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    assert dict(await soon(call.initial_metadata()))["x-first"] == "1"
    go.set()
    assert (await call.read()).value == "late"


async def test_initial_metadata_is_sent_once(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> Any:
        await context.send_initial_metadata(())
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata(())
        return request

    peer = await serve(Unary=handler)
    assert await peer.stub.unary(text("x")) == text("x")


@pytest.mark.parametrize("pair", [("x-name", "mün"), ("X-Upper", "a"), ("x-name-bin", "text")])
async def test_metadata_that_the_wire_cannot_carry_is_refused(
    serve: Serve, pair: tuple[str, str]
) -> None:
    peer = await serve(Unary=echo)
    with pytest.raises((grpc.aio.BaseError, TypeError)):
        await peer.stub.unary(text(""), metadata=(*TENANT, pair))


async def whoami(request: Any, context: Context) -> Any:
    call = current_call()
    who = f"{call.identity.tenant}/{call.identity.principal}"
    return text(f"{who} {call.request_id} {call.trace.trace_id} {call.trace.span_id}")


async def test_identity_request_id_and_trace_travel(serve: Serve) -> None:
    peer = await serve(Unary=whoami)
    with outgoing_call(Identity("globex", "key:ana"), request_id="req-1") as acting:
        got = await peer.stub.unary(text(""), metadata=())
    who, request_id, trace_id, span_id = got.value.split()
    assert (who, request_id) == ("globex/key:ana", "req-1")
    assert trace_id == acting.trace.trace_id
    assert span_id != acting.trace.span_id


async def test_a_callers_own_traceparent_is_kept(serve: Serve) -> None:
    peer = await serve(Unary=whoami)
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    sent = (*TENANT, ("traceparent", f"00-{trace}-{span}-01"), ("x-request-id", "mine"))
    assert (await peer.stub.unary(text(""), metadata=sent)).value.split()[1:] == [
        "mine",
        trace,
        span,
    ]


async def test_a_request_id_that_no_log_could_hold_is_replaced(serve: Serve) -> None:
    peer = await serve(Unary=whoami)
    with outgoing_call(Identity("acme", "ana"), request_id="two\nlines"):
        got = await peer.stub.unary(text(""), metadata=())
    assert len(got.value.split()[1]) == 32


async def test_every_hop_names_the_first_caller(serve: Serve) -> None:
    back = await serve(Unary=whoami)

    async def forward(request: Any, context: Context) -> Any:
        return await back.stub.unary(request, metadata=())

    front = await serve(Unary=forward)
    with outgoing_call(Identity("globex", "key:ana"), request_id="req-2"):
        got = await front.stub.unary(text(""), metadata=())
    assert got.value.split()[:2] == ["globex/key:ana", "req-2"]


ambient: ContextVar[str] = ContextVar("ambient", default="clean")


async def test_a_handler_sees_nothing_of_its_callers_context(serve: Serve) -> None:
    async def look(request: Any, context: Context) -> Any:
        return text(ambient.get())

    peer = await serve(Unary=look)
    token = ambient.set("leaked")
    try:
        assert (await peer.stub.unary(text(""))).value == "clean"
    finally:
        ambient.reset(token)


async def test_a_request_changed_after_sending_is_not_changed_for_the_handler(serve: Serve) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def handler(request: Any, context: Context) -> Any:
        arrived.set()
        await soon(go.wait())
        seen = text(request.value)
        request.value = "changed by the handler"
        return seen

    peer = await serve(Unary=handler)
    request = text("as sent")
    call = asyncio.ensure_future(peer.stub.unary(request))
    await soon(arrived.wait())
    request.value = "changed by the caller"
    go.set()
    assert (await call).value == "as sent"
    assert request.value == "changed by the caller"


async def test_a_response_changed_after_writing_is_not_changed_for_the_client(serve: Serve) -> None:
    async def handler(request: Any, context: Context) -> None:
        reused = text("")
        for word in ("one", "two", "three"):
            reused.value = word
            await context.write(reused)
        reused.value = "changed"

    peer = await serve(ServerStream=handler)
    call = peer.stub.server_stream(text(""))
    first = await call.read()
    first.value = "mine now"
    assert [m.value async for m in call] == ["two", "three"]
