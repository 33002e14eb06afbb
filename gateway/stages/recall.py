"""Recall: the context of the turn from memory, or none when memory fails and may."""

from collections.abc import Sequence

import grpc.aio

from gateway.clients import Clients
from gateway.settings import GatewaySettings
from gateway.stages.compose import query_of, text_of
from gateway.turn import TurnInProgress
from mesh.errors import PlexusError, Reason, Unavailable, from_rpc_error
from plexus.common.v1 import message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.memory.v1 import memory_service_pb2 as memory_pb

MAX_QUERY_CHARS = 2000
MAX_EXCLUDED = 200
"""Texts that memory takes as known; of a longer history the latest ones count."""
MAX_TEXT_BYTES = 32 * 1024
"""What memory keeps of a message."""


async def recall(
    work: TurnInProgress, clients: Clients, settings: GatewaySettings
) -> memory_pb.RecallResponse:
    """Return what memory knows; an empty context with a warning when it cannot be reached.

    Raises the error instead when the turn's policy is to require memory.
    """
    options = work.turn.memory
    if options.no_recall:
        return memory_pb.RecallResponse()
    try:
        recalled = await clients.memory.Recall(
            _request(work.turn, settings), timeout=settings.recall_timeout_s
        )
    except grpc.aio.AioRpcError as rpc_error:
        error = memory_error(rpc_error)
        if options.policy == pb.MEMORY_POLICY_REQUIRE:
            raise error from rpc_error
        work.warn("memory", error)
        return memory_pb.RecallResponse()
    if recalled.degraded:
        why = Unavailable("memory recalled by words alone", reason=recalled.degraded_reason or None)
        work.warn("memory", why)
    return recalled


def memory_error(rpc_error: grpc.aio.AioRpcError) -> PlexusError:
    """Return the failure as the caller should see it: a slow memory is an unavailable one."""
    error = from_rpc_error(rpc_error)
    if rpc_error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
        return Unavailable("memory did not answer in time", reason=Reason.MEMORY_UNAVAILABLE)
    return error


def text_kept(text: str) -> str:
    """Return a text as memory keeps it: trimmed, and cut without splitting a character."""
    text = text.strip()
    if len(text) * 4 <= MAX_TEXT_BYTES:
        return text
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def _request(turn: pb.Turn, settings: GatewaySettings) -> memory_pb.RecallRequest:
    messages = turn.request.messages
    # A client that sends earlier turns holds the window itself.
    holds_history = sum(m.role != message_pb2.ROLE_SYSTEM for m in messages) > 1
    return memory_pb.RecallRequest(
        scope=turn.scope,
        query=query_of(turn.request).strip()[:MAX_QUERY_CHARS],
        token_budget=turn.memory.recall_token_budget or settings.recall_token_budget,
        window_turns=-1 if turn.memory.no_window or holds_history else 0,
        exclude_texts=_texts_known(messages),
    )


def _texts_known(messages: Sequence[message_pb2.Message]) -> list[str]:
    """Return what the caller holds already, as memory would have kept it, the latest first."""
    texts = dict.fromkeys(text_kept(text_of(message)) for message in reversed(messages))
    return [text for text in texts if text][:MAX_EXCLUDED]
