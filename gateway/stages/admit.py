"""Admit: is this a turn we can run? Everything is checked before anything is done."""

from gateway.settings import GatewaySettings
from mesh.errors import InvalidArgument, Reason
from mesh.validation import check_bytes, check_count, invalid, require
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

MAX_MESSAGES = 1000
MAX_TOOLS = 128
MAX_ID_BYTES = 128
MAX_STOP_STRINGS = 16


def admit(turn: pb.Turn, tenant: str, settings: GatewaySettings) -> pb.Turn:
    """Return a copy of the turn with tenant and model filled in; raise InvalidArgument if it is
    bad.
    """
    size = turn.ByteSize()
    if size > settings.max_turn_bytes:
        raise InvalidArgument(
            f"the turn has {size} bytes; at most {settings.max_turn_bytes} are accepted",
            reason=Reason.MESSAGE_TOO_LARGE,
        )
    _check_scope(turn)
    _check_request(turn.request)
    check_bytes(turn.idempotency_key, "idempotency_key", high=MAX_ID_BYTES)
    require(turn.resume_window_ms >= 0, "resume_window_ms", "must not be negative")
    require(
        turn.resume_window_ms <= settings.max_resume_window_ms,
        "resume_window_ms",
        f"must be at most {settings.max_resume_window_ms}",
    )
    budget = turn.memory.recall_token_budget
    require(budget >= 0, "memory.recall_token_budget", "must not be negative")
    require(turn.cache.max_age_ms >= 0, "cache.max_age_ms", "must not be negative")
    require(turn.cache.ttl_ms >= 0, "cache.ttl_ms", "must not be negative")
    admitted = pb.Turn()
    admitted.CopyFrom(turn)
    admitted.scope.tenant = tenant
    if not admitted.request.model:
        admitted.request.model = settings.default_model
    return admitted


def _check_scope(turn: pb.Turn) -> None:
    for field in ("agent_id", "conversation_id", "user_id"):
        check_bytes(getattr(turn.scope, field), f"scope.{field}", high=MAX_ID_BYTES)


def _check_request(request: model_pb2.ModelRequest) -> None:
    check_bytes(request.model, "request.model", high=256)
    check_count(len(request.messages), "request.messages", low=1, high=MAX_MESSAGES)
    check_count(len(request.tools), "request.tools", high=MAX_TOOLS)
    for index, message in enumerate(request.messages):
        _check_message(message, f"request.messages[{index}]")
    last = request.messages[-1].role
    if last not in (message_pb2.ROLE_USER, message_pb2.ROLE_TOOL):
        raise invalid("request.messages", "the last message must be a user's or a tool's")
    _check_sampling(request.sampling)


def _check_message(message: message_pb2.Message, field: str) -> None:
    require(message.role != message_pb2.ROLE_UNSPECIFIED, f"{field}.role", "is required")
    has_content = any(part.WhichOneof("kind") for part in message.parts)
    has_text = any(part.text.strip() for part in message.parts if part.HasField("text"))
    if message.role == message_pb2.ROLE_USER:
        only_text = all(part.WhichOneof("kind") == "text" for part in message.parts)
        require(has_content and (has_text or not only_text), f"{field}.parts", "must not be empty")
    if message.role == message_pb2.ROLE_TOOL:
        require(bool(message.tool_call_id), f"{field}.tool_call_id", "is required")
    if message.role == message_pb2.ROLE_ASSISTANT:
        require(has_content or bool(message.tool_calls), f"{field}.parts", "must not be empty")


def _check_sampling(sampling: model_pb2.Sampling) -> None:
    field = "request.sampling"
    if sampling.HasField("temperature"):
        require(0 <= sampling.temperature <= 2, f"{field}.temperature", "must be 0 to 2")
    if sampling.HasField("top_p"):
        require(0 < sampling.top_p <= 1, f"{field}.top_p", "must be above 0 and at most 1")
    if sampling.HasField("max_output_tokens"):
        require(sampling.max_output_tokens > 0, f"{field}.max_output_tokens", "must be at least 1")
    check_count(len(sampling.stop), f"{field}.stop", high=MAX_STOP_STRINGS)
    for name in ("presence_penalty", "frequency_penalty"):
        if sampling.HasField(name):
            require(-2 <= getattr(sampling, name) <= 2, f"{field}.{name}", "must be -2 to 2")
