"""Faults during a conversation: a typed warning or failure, no hang, nothing acknowledged lost."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

import grpc.aio
import orjson
import pytest
import pytest_asyncio

from mesh.errors import Reason
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.common.v1 import message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from tests.e2e.calls import (
    TIMEOUT_S,
    booked,
    chat,
    engine_pid,
    eventually,
    fresh,
    only,
    redis_pid,
    remembered,
    text_of,
    turn,
    warnings,
)
from tests.e2e.conftest import Start
from tests.e2e.processes import Mesh, start_component

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANSWER = "Hello world."
SAID = [(message_pb2.ROLE_USER, "Hi."), (message_pb2.ROLE_ASSISTANT, ANSWER)]


@pytest_asyncio.fixture(loop_scope="session")
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(upstream: ScriptedUpstream, start: Start) -> Mesh:
    """A fresh mesh that asks the scripted upstream."""
    return await start(environ_for(upstream))


def environ_for(upstream: ScriptedUpstream) -> dict[str, str]:
    providers = {"up": {"kind": "openai", "base_url": upstream.openai_url}}
    groups = {"default": ["up/first", "up/second"]}
    return {
        "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
        "PLEXUS_ROUTER_GROUPS": orjson.dumps(groups).decode(),
    }


async def start_and_wait_for_text(
    mesh: Mesh, request: pb.ChatRequest
) -> tuple["grpc.aio.UnaryStreamCall[pb.ChatRequest, pb.ChatResponse]", list[pb.ChatResponse]]:
    """Return a call whose first text has arrived, and its events so far."""
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    call = stub.Chat(request, timeout=TIMEOUT_S)
    events: list[pb.ChatResponse] = []
    while not only(events, "text"):
        event = await call.read()
        assert isinstance(event, pb.ChatResponse), "the stream ended before its first text"
        events.append(event)
    return call, events


async def read_on(
    call: "grpc.aio.UnaryStreamCall[pb.ChatRequest, pb.ChatResponse]",
    events: list[pb.ChatResponse],
) -> list[pb.ChatResponse]:
    """Read to the end and return all events."""
    while isinstance(event := await call.read(), pb.ChatResponse):
        events.append(event)
    return events


async def test_cancelling_reaches_the_upstream_and_settles(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    upstream.script(Script(stall_until=asyncio.Event(), fault_at=2))
    call, events = await start_and_wait_for_text(mesh, turn("Hi."))
    call.cancel()
    recorded = await upstream.wait_for_requests(1)
    await recorded.disconnected.wait()
    run_id = events[0].started.request_id

    def settled(entries: list[metrics_pb.LedgerEntry]) -> bool:
        return [e.event.outcome for e in entries if e.event.request_id == run_id] == [
            metrics_pb.OUTCOME_CANCELLED
        ]

    entries = await eventually(lambda: booked(mesh), settled)
    assert entries[0].event.usage.estimated
    assert entries[0].event.usage.output_tokens > 0


async def test_a_run_can_be_cancelled_by_its_token(mesh: Mesh, upstream: ScriptedUpstream) -> None:
    upstream.script(Script(stall_until=asyncio.Event(), fault_at=1))
    request = turn("Hi.", resume_window_ms=60_000)
    call, events = await start_and_wait_for_text(mesh, request)
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    token = events[0].started.resume_token
    cancelled = await stub.CancelChat(pb.CancelChatRequest(resume_token=token), timeout=TIMEOUT_S)
    assert cancelled.cancelled
    events = await read_on(call, events)
    assert events[-1].failed.reason == Reason.CANCELLED
    again = await stub.CancelChat(pb.CancelChatRequest(resume_token=token), timeout=TIMEOUT_S)
    assert not again.cancelled


async def test_an_upstream_that_breaks_off_is_replaced_and_never_truncates(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.script(Script(stall_until=go_on, fault="cut", fault_at=1))
    conversation = fresh("c")
    call, events = await start_and_wait_for_text(mesh, turn("Hi.", conversation=conversation))
    go_on.set()
    events = await read_on(call, events)
    assert events[-1].WhichOneof("event") == "completed"
    assert len(only(events, "reset")) == 1
    assert text_of(events) == ANSWER
    assert await remembered(mesh, conversation) == SAID


async def test_a_silent_upstream_costs_no_more_than_the_deadline(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    silence = asyncio.Event()
    upstream.script(*(Script(silent_until=silence) for _ in range(3)))
    events = await chat(mesh, turn("Hi."), timeout_s=2.0)
    assert events[-1].failed.reason in (Reason.DEADLINE_EXCEEDED, Reason.UPSTREAM_UNAVAILABLE)


async def test_an_upstream_that_says_no_is_a_typed_failure(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    upstream.default = Script(status=400, error={"message": "secret prompt text", "code": "bad"})
    events = await chat(mesh, turn("Hi."))
    assert events[-1].failed.reason == Reason.UPSTREAM_REJECTED
    assert "secret prompt text" not in str(events)
    assert len(upstream.requests) == 1


async def test_redis_killed_in_mid_stream_loses_nothing(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.script(Script(stall_until=go_on, fault_at=1))
    conversation = fresh("c")
    call, events = await start_and_wait_for_text(mesh, turn("Hi.", conversation=conversation))
    os.kill(redis_pid(mesh), signal.SIGKILL)
    go_on.set()
    events = await read_on(call, events)
    assert events[-1].WhichOneof("event") == "completed"
    assert text_of(events) == ANSWER
    run_id = events[0].started.request_id
    await eventually(
        lambda: booked(mesh),
        lambda entries: [e.event.request_id for e in entries].count(run_id) == 1,
    )
    assert await remembered(mesh, conversation) == SAID


async def test_a_frozen_redis_costs_a_warning_and_nothing_else(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    pid = redis_pid(mesh)
    os.kill(pid, signal.SIGSTOP)
    try:
        events = await chat(mesh, turn("Hi."))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert events[-1].WhichOneof("event") == "completed"
    assert warnings(events) >= {Reason.CACHE_UNAVAILABLE, Reason.LEDGER_UNAVAILABLE}
    run_id = events[0].started.request_id
    await eventually(
        lambda: booked(mesh),
        lambda entries: [e.event.request_id for e in entries].count(run_id) == 1,
    )


async def test_the_engine_killed_in_mid_stream_loses_nothing(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.script(Script(stall_until=go_on, fault_at=1))
    conversation = fresh("c")
    call, events = await start_and_wait_for_text(mesh, turn("Hi.", conversation=conversation))
    os.kill(engine_pid(mesh), signal.SIGKILL)
    go_on.set()
    events = await read_on(call, events)
    assert events[-1].WhichOneof("event") == "completed"
    assert await eventually(
        lambda: remembered(mesh, conversation), lambda said: len(said) >= 2
    ) == (SAID)


async def test_a_frozen_memory_is_a_warning_and_its_writes_arrive_once(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    conversation = fresh("c")
    pid = engine_pid(mesh)
    os.kill(pid, signal.SIGSTOP)
    try:
        events = await chat(mesh, turn("Hi.", conversation=conversation))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert events[-1].WhichOneof("event") == "completed"
    assert Reason.MEMORY_UNAVAILABLE in warnings(events)
    said = await eventually(lambda: remembered(mesh, conversation), lambda said: len(said) >= 2)
    assert said == SAID


async def test_a_turn_that_requires_memory_fails_without_it(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    pid = engine_pid(mesh)
    os.kill(pid, signal.SIGSTOP)
    request = turn("Hi.")
    request.turn.memory.policy = pb.MEMORY_POLICY_REQUIRE
    try:
        events = await chat(mesh, request)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert events[-1].failed.reason == Reason.MEMORY_UNAVAILABLE
    assert not upstream.requests


async def test_kill_9_of_every_process_loses_nothing_that_was_acknowledged(
    upstream: ScriptedUpstream, start: Start
) -> None:
    first = await start(environ_for(upstream), data="kept")
    acknowledged: dict[str, str] = {}
    for _ in range(5):
        conversation = fresh("c")
        events = await chat(first, turn("Hi.", conversation=conversation))
        assert events[-1].WhichOneof("event") == "completed"
        acknowledged[conversation] = events[0].started.request_id
    upstream.script(Script(stall_until=asyncio.Event(), fault_at=1))
    await start_and_wait_for_text(first, turn("Hi, once more."))
    children = [engine_pid(first), redis_pid(first)]
    if first.redis is not None:
        await first.redis.kill()
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    await first.kill()

    second = await start(environ_for(upstream), data="kept")
    for conversation in acknowledged:
        assert await remembered(second, conversation) == SAID
    entries = await eventually(
        lambda: booked(second),
        lambda entries: {e.event.request_id for e in entries} >= set(acknowledged.values()),
    )
    ids = [entry.event.request_id for entry in entries]
    assert all(ids.count(run_id) == 1 for run_id in acknowledged.values())


async def test_a_component_killed_in_mid_stream_gets_its_writes_when_it_is_back(
    upstream: ScriptedUpstream, start: Start, topology: str
) -> None:
    if topology == "embedded":
        pytest.skip("an embedded mesh has no component processes of its own to kill")
    mesh = await start(environ_for(upstream))
    go_on = asyncio.Event()
    upstream.script(Script(stall_until=go_on, fault_at=1))
    conversation = fresh("c")
    call, events = await start_and_wait_for_text(mesh, turn("Hi.", conversation=conversation))
    port = int(mesh.addresses["memory"].rpartition(":")[2])
    await mesh.processes.pop("memory").kill()
    go_on.set()
    events = await read_on(call, events)
    assert events[-1].WhichOneof("event") == "completed"
    assert Reason.MEMORY_UNAVAILABLE in warnings(events)
    await start_component(mesh, "memory", port=port)
    said = await eventually(lambda: remembered(mesh, conversation), lambda said: len(said) >= 2)
    assert said == SAID
