"""A model request as the body of an Anthropic Messages call."""

import base64
from collections.abc import Iterable

import orjson

from plexus.common.v1 import message_pb2, model_pb2
from services.router.wire.json import Json, parse_object
from services.router.wire.openai_request import object_field

DEFAULT_MAX_TOKENS = 4096
"""The Messages API demands a limit; every current model allows at least this much."""

PASSED_EXTRAS = ("thinking", "top_k", "metadata", "service_tier", "cache_control", "output_config")
"""Fields of `extra_json` that are the Messages API's own; it refuses OpenAI's."""

JSON_INSTRUCTION = "Answer with one JSON object and nothing else."
"""Stands in for OpenAI's `json_object`, which the Messages API does not have."""


def messages_body(request: model_pb2.ModelRequest, *, model: str) -> bytes:
    """Return the body of a streaming request. Seed and penalties have no counterpart there."""
    extra = object_field(request.extra_json, "request.extra_json")
    body: Json = {
        **{name: extra[name] for name in PASSED_EXTRAS if name in extra},
        "model": model,
        "messages": _turns(request.messages),
        "stream": True,
        **_sampling(request.sampling),
    }
    if system := _system(request):
        body["system"] = system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if request.tool_choice:
            body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_format.HasField("json_schema"):
        body["output_config"] = {**body.get("output_config", {}), **_output_format(request)}
    return orjson.dumps(body)


def _system(request: model_pb2.ModelRequest) -> str:
    """Join all system messages, wherever they stand, in order."""
    texts = [
        _text(message.parts)
        for message in request.messages
        if message.role == message_pb2.ROLE_SYSTEM
    ]
    if request.response_format.json_object:
        texts.append(JSON_INSTRUCTION)
    return "\n\n".join(text for text in texts if text)


def _turns(messages: Iterable[message_pb2.Message]) -> list[Json]:
    """Return alternating turns: neighbours of one role are joined, tool results are the user's."""
    turns: list[Json] = []
    for message in messages:
        if message.role == message_pb2.ROLE_SYSTEM:
            continue
        role = "assistant" if message.role == message_pb2.ROLE_ASSISTANT else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: message_pb2.Message) -> list[Json]:
    if message.role == message_pb2.ROLE_TOOL:
        result: Json = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        if content := [block for part in message.parts if (block := _block(part))]:
            result["content"] = content
        return [result]
    blocks = [block for part in message.parts if (block := _block(part))]
    return blocks + [_tool_use(call) for call in message.tool_calls]


def _block(part: message_pb2.Part) -> Json | None:
    """Return a block; None for reasoning, which only its own model may see, and for no text."""
    kind = part.WhichOneof("kind")
    if kind == "image":
        return {"type": "image", "source": _image_source(part.image)}
    text = part.text if kind == "text" else part.refusal
    return {"type": "text", "text": text} if text else None


def _image_source(image: message_pb2.Image) -> Json:
    if image.HasField("url"):
        return {"type": "url", "url": image.url}
    data = base64.b64encode(image.data).decode()
    return {"type": "base64", "media_type": image.media_type, "data": data}


def _tool_use(call: message_pb2.ToolCall) -> Json:
    arguments = parse_object(call.arguments_json or "{}")
    if arguments is None:
        # The API takes objects only; the model still sees what it wrote.
        arguments = {"invalid_json": call.arguments_json}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _tool(tool: message_pb2.Tool) -> Json:
    schema = object_field(tool.parameters_json_schema, "request.tools") or {"type": "object"}
    declared: Json = {"name": tool.name, "input_schema": schema}
    if tool.description:
        declared["description"] = tool.description
    return declared


def _tool_choice(choice: str) -> Json:
    kinds = {"auto": "auto", "none": "none", "required": "any"}
    return {"type": kinds[choice]} if choice in kinds else {"type": "tool", "name": choice}


def _output_format(request: model_pb2.ModelRequest) -> Json:
    named = object_field(request.response_format.json_schema, "request.response_format.json_schema")
    return {"format": {"type": "json_schema", "schema": named.get("schema", named)}}


def _sampling(sampling: model_pb2.Sampling) -> Json:
    limit = sampling.max_output_tokens if sampling.HasField("max_output_tokens") else 0
    knobs: Json = {"max_tokens": limit or DEFAULT_MAX_TOKENS}
    if sampling.HasField("temperature"):
        knobs["temperature"] = min(sampling.temperature, 1.0)
    if sampling.HasField("top_p"):
        knobs["top_p"] = sampling.top_p
    if sampling.stop:
        knobs["stop_sequences"] = list(sampling.stop)
    return knobs


def _text(parts: Iterable[message_pb2.Part]) -> str:
    return "".join(part.text for part in parts)
