"""A conversation over gRPC: streamed, recalled, cached, routed, remembered and accounted."""

import aiohttp
import grpc.aio
import pytest

from mesh.errors import Reason, from_rpc_error
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.metrics.v1 import metrics_service_pb2_grpc
from tests.e2e.calls import TIMEOUT_S, chat, fresh, only, text_of, turn
from tests.e2e.processes import Mesh

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_events_are_gapless_and_end_with_exactly_one_terminal_event(mesh: Mesh) -> None:
    events = await chat(mesh, turn("What is gRPC?", user=fresh("u")))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "completed"
    assert kinds.count("completed") + kinds.count("failed") == 1
    assert text_of(events).strip()
    stages = [event.stage.name for event in only(events, "stage")]
    assert stages[:4] == ["recall", "compose", "cache", "generate"]
    assert sorted(stages[4:]) == ["account", "remember"]
    assert only(events, "warning") == []


async def test_what_was_said_is_recalled_in_the_same_conversation(mesh: Mesh) -> None:
    conversation = fresh("c")
    await chat(mesh, turn("My cat is called Schrödinger.", conversation=conversation))
    events = await chat(mesh, turn("What is my cat called?", conversation=conversation))
    assert "Schrödinger" in text_of(events)
    assert events[-1].completed.recalled_count >= 1


async def test_what_was_said_is_recalled_in_another_conversation_of_the_same_user(
    mesh: Mesh,
) -> None:
    user = fresh("u")
    await chat(mesh, turn("My sister lives in Reykjavik.", user=user))
    events = await chat(mesh, turn("Where does my sister live?", user=user))
    assert "Reykjavik" in text_of(events)
    stranger = await chat(mesh, turn("Where does my sister live?", user=fresh("u")))
    assert "Reykjavik" not in text_of(stranger)


async def test_the_same_question_in_a_fresh_conversation_is_an_exact_hit(mesh: Mesh) -> None:
    user = fresh("u")
    question = f"What is a token bucket, seen from {user}?"
    first = await chat(mesh, turn(question, user=user))
    second = await chat(mesh, turn(question, user=user))
    assert first[-1].completed.cache_verdict == cache_pb.VERDICT_MISS
    assert second[-1].completed.cache_verdict == cache_pb.VERDICT_EXACT_HIT
    assert text_of(first) == text_of(second)
    bill = only(second, "usage")[0].usage
    assert bill.cost.nano_usd == 0
    assert only(second, "attempt") == []


async def test_completed_means_remembered_and_booked(mesh: Mesh) -> None:
    conversation = fresh("c")
    events = await chat(mesh, turn("Remember this sentence.", conversation=conversation))
    memory = memory_service_pb2_grpc.MemoryServiceStub(mesh.channel("memory"))
    listed = await memory.ListMemories(
        memory_pb.ListMemoriesRequest(
            scope=scope_pb2.Scope(conversation_id=conversation),
            order=memory_pb.ORDER_OLDEST_FIRST,
        ),
        timeout=TIMEOUT_S,
    )
    roles = [(m.role, m.text) for m in listed.memories]
    assert roles == [
        (message_pb2.ROLE_USER, "Remember this sentence."),
        (message_pb2.ROLE_ASSISTANT, text_of(events).strip()),
    ]
    metrics = metrics_service_pb2_grpc.MetricsServiceStub(mesh.channel("metrics"))
    ledger = await metrics.ListLedger(metrics_pb.ListLedgerRequest(), timeout=TIMEOUT_S)
    booked = [entry.event.request_id for entry in ledger.entries]
    assert booked.count(events[0].started.request_id) == 1


async def test_complete_gives_the_same_as_chat(mesh: Mesh) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    request = pb.CompleteRequest(turn=turn("Say hello.", user=fresh("u")).turn)
    response = await stub.Complete(request, timeout=TIMEOUT_S)
    assert response.response.message.parts[0].text
    assert response.response.provider == "offline"
    assert response.usage.usage.output_tokens > 0
    assert response.completed.finish_reason == model_pb2.FINISH_REASON_STOP


async def test_a_dropped_stream_is_resumed_without_a_gap(mesh: Mesh) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    call = stub.Chat(turn("Tell me about gRPC.", resume_window_ms=10_000), timeout=TIMEOUT_S)
    first = [await call.read()]
    assert isinstance(first[0], pb.ChatResponse)
    call.cancel()
    resume = pb.Resume(resume_token=first[0].started.resume_token, after_sequence=1)
    rest = await chat(mesh, pb.ChatRequest(resume=resume))
    assert [event.sequence for event in rest] == list(range(2, len(rest) + 2))
    assert rest[-1].WhichOneof("event") == "completed"
    again = await chat(mesh, pb.ChatRequest(resume=resume))
    assert again == rest


async def test_turns_with_one_key_are_one_run(mesh: Mesh) -> None:
    request = turn("Once only.", conversation=fresh("c"), idempotency_key=fresh("k"))
    first = await chat(mesh, request)
    second = await chat(mesh, request)
    assert first == second


async def test_bad_turns_are_refused_with_a_field_and_a_reason(mesh: Mesh) -> None:
    cases: list[tuple[pb.ChatRequest, grpc.StatusCode, str]] = [
        (pb.ChatRequest(), grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD),
        (turn(""), grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD),
        (turn("x" * 2_000_000), grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_TOO_LARGE),
        (
            pb.ChatRequest(resume=pb.Resume(resume_token="made-up")),
            grpc.StatusCode.INVALID_ARGUMENT,
            Reason.INVALID_RESUME_TOKEN,
        ),
    ]
    for request, code, reason in cases:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await chat(mesh, request)
        assert raised.value.code() == code
        assert from_rpc_error(raised.value).reason == reason


async def test_an_unknown_model_is_a_typed_failure(mesh: Mesh) -> None:
    request = turn("Hello", user=fresh("u"))
    request.turn.request.model = "no-such-model"
    events = await chat(mesh, request)
    assert events[-1].failed.reason == Reason.MODEL_NOT_FOUND


async def test_another_tenant_in_the_scope_is_refused(mesh: Mesh) -> None:
    request = turn("Hello")
    request.turn.scope.tenant = "rival"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await chat(mesh, request)
    assert from_rpc_error(raised.value).reason == Reason.TENANT_MISMATCH


async def test_an_unknown_tenant_is_refused(mesh: Mesh) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ListModels(
            pb.ListModelsRequest(), metadata=(("plexus-tenant", "nobody"),), timeout=TIMEOUT_S
        )
    assert from_rpc_error(raised.value).reason == Reason.UNKNOWN_TENANT


async def test_oversize_metadata_is_refused(mesh: Mesh) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    big = (("x-big", "v" * 20_000),)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ListModels(pb.ListModelsRequest(), metadata=big, timeout=TIMEOUT_S)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc_error(raised.value).reason == Reason.METADATA_TOO_LARGE
    url = f"{mesh.http_url}/v1/models"
    async with aiohttp.ClientSession() as session, session.get(url, headers=dict(big)) as refused:
        body = await refused.json()
    assert (refused.status, body["error"]["code"]) == (431, Reason.METADATA_TOO_LARGE)


async def test_embeddings_are_normalised_and_booked(mesh: Mesh) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    embedded = await stub.Embed(pb.EmbedRequest(texts=["a cat", "a dog"]), timeout=TIMEOUT_S)
    lengths = [sum(v * v for v in e.values) for e in embedded.embeddings]
    assert lengths == pytest.approx([1.0, 1.0], abs=1e-3)
