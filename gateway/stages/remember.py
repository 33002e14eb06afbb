"""Remember: the user's message and the answer, once each, whatever is repeated."""

import grpc.aio
from google.protobuf import timestamp_pb2

from gateway.clients import Clients
from gateway.outbox import Outbox
from gateway.settings import GatewaySettings
from gateway.stages.compose import text_of
from gateway.stages.recall import memory_error, text_kept
from gateway.turn import TurnInProgress
from mesh.errors import PlexusError, Reason, from_failure
from plexus.common.v1 import message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.memory.v1 import memory_service_pb2 as memory_pb

MAX_WRITES = 500
"""What memory takes in one batch."""


async def remember_question(
    work: TurnInProgress, clients: Clients, outbox: Outbox, settings: GatewaySettings
) -> None:
    """Write the turn's new user messages; runs while the answer is generated."""
    texts = _new_user_texts(work.turn)
    if work.turn.memory.no_remember:
        return
    for at in range(0, len(texts), MAX_WRITES):
        name = f"question.{at}" if at else "question"
        batch = texts[at : at + MAX_WRITES]
        request = _request(work, name, message_pb2.ROLE_USER, batch, work.started_ns)
        await _write(work, request, clients, outbox, settings)


async def remember_answer(
    work: TurnInProgress, clients: Clients, outbox: Outbox, settings: GatewaySettings
) -> None:
    """Write the answer's text, or the refusal; without either there is nothing to remember."""
    text = text_kept(work.answer.text())
    if work.turn.memory.no_remember or not text:
        return
    # At least a millisecond after the question, which is how finely ids are ordered.
    when_ns = max(work.clock.time_ns(), work.started_ns + 1_000_000)
    request = _request(work, "answer", message_pb2.ROLE_ASSISTANT, [text], when_ns)
    await _write(work, request, clients, outbox, settings)


async def _write(
    work: TurnInProgress,
    request: memory_pb.WriteMemoriesRequest,
    clients: Clients,
    outbox: Outbox,
    settings: GatewaySettings,
) -> None:
    try:
        response = await clients.memory.WriteMemories(request, timeout=settings.remember_timeout_s)
    except grpc.aio.AioRpcError as rpc_error:
        error = memory_error(rpc_error)
        if error.reason == Reason.IDEMPOTENCY_KEY_REUSED:
            return  # An earlier run of this same turn has written it.
        if work.turn.memory.policy == pb.MEMORY_POLICY_REQUIRE:
            raise error from rpc_error
        await outbox.put_memory(work.identity, request)
        work.warn("memory", error)
        return
    for result in response.results:
        if result.HasField("failure"):
            _refused(work, from_failure(result.failure))


def _refused(work: TurnInProgress, error: PlexusError) -> None:
    if work.turn.memory.policy == pb.MEMORY_POLICY_REQUIRE:
        raise error
    work.warn("memory", error)


def _new_user_texts(turn: pb.Turn) -> list[str]:
    """Return the user messages after the last answer: earlier ones were remembered before."""
    texts: list[str] = []
    for message in reversed(turn.request.messages):
        if message.role == message_pb2.ROLE_ASSISTANT:
            break
        if message.role == message_pb2.ROLE_USER and (text := text_kept(text_of(message))):
            texts.append(text)
    return texts[::-1]


def _request(
    work: TurnInProgress, name: str, role: message_pb2.Role, texts: list[str], when_ns: int
) -> memory_pb.WriteMemoriesRequest:
    when = timestamp_pb2.Timestamp()
    when.FromNanoseconds(when_ns)
    return memory_pb.WriteMemoriesRequest(
        scope=work.turn.scope,
        idempotency_key=f"{work.run.id}.{name}",
        writes=[
            memory_pb.MemoryWrite(
                kind=memory_pb.MEMORY_KIND_TURN,
                text=text,
                role=role,
                event_time=when,
                source=work.run.id,
            )
            for text in texts
        ],
    )
