"""How many tokens a request is: an estimate by the family of the model."""

from mesh.tokens import estimate_tokens
from plexus.common.v1 import message_pb2, model_pb2

MESSAGE_OVERHEAD = 4
"""Tokens that role and separators cost per message in the common chat templates."""

IMAGE_TOKENS = 1_000
"""A picture of medium size; "low" detail costs far less."""

LOW_DETAIL_IMAGE_TOKENS = 85

TOOL_OVERHEAD = 12
"""Tokens that declaring a function costs beside its text."""

_FAMILIES = (("claude", 1.15),)
"""Tokenizers known to cut finer than the common ones, by a part of the model's name."""


def estimate_input_tokens(request: model_pb2.ModelRequest, model: str = "") -> int:
    """Estimate the input tokens of a request for a model. Never exact; at least 1."""
    tokens = sum(_message_tokens(message) for message in request.messages)
    tokens += sum(_tool_tokens(tool) for tool in request.tools)
    tokens += estimate_tokens(request.response_format.json_schema)
    factor = next((factor for part, factor in _FAMILIES if part in model), 1.0)
    return max(1, round(tokens * factor))


def _message_tokens(message: message_pb2.Message) -> int:
    parts = sum(_part_tokens(part) for part in message.parts)
    calls = sum(
        TOOL_OVERHEAD + estimate_tokens(call.name) + estimate_tokens(call.arguments_json)
        for call in message.tool_calls
    )
    return MESSAGE_OVERHEAD + parts + calls


def _part_tokens(part: message_pb2.Part) -> int:
    if part.HasField("image"):
        return LOW_DETAIL_IMAGE_TOKENS if part.image.detail == "low" else IMAGE_TOKENS
    # Reasoning is not sent upstream, so it costs nothing.
    return estimate_tokens(part.text or part.refusal)


def _tool_tokens(tool: message_pb2.Tool) -> int:
    texts = (tool.name, tool.description, tool.parameters_json_schema)
    return TOOL_OVERHEAD + sum(estimate_tokens(text) for text in texts)
