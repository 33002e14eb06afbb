"""A model request as the body of an OpenAI chat completion."""

import base64
from collections.abc import Iterable

import orjson

from mesh.errors import InvalidArgument, Reason
from plexus.common.v1 import message_pb2, model_pb2
from services.router.wire.json import Json, parse_object

NAMED_CHOICES = ("auto", "none", "required")
"""Tool choices that are words of the dialect; any other is a tool's name."""

_ROLES = {
    message_pb2.ROLE_SYSTEM: "system",
    message_pb2.ROLE_USER: "user",
    message_pb2.ROLE_ASSISTANT: "assistant",
    message_pb2.ROLE_TOOL: "tool",
}


def chat_body(
    request: model_pb2.ModelRequest, *, model: str, max_tokens_field: str = "max_tokens"
) -> bytes:
    """Return the body of a streaming request.

    `extra_json` is merged in first: it adds fields and overrides none of ours. Hosted
    reasoning models want the limit as `max_completion_tokens`, local servers as `max_tokens`.
    """
    body: Json = {
        **object_field(request.extra_json, "request.extra_json"),
        "model": model,
        "messages": [message_json(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.sampling, max_tokens_field),
    }
    if request.tools:
        body["tools"] = [tool_json(tool) for tool in request.tools]
        if request.tool_choice:
            body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_format.WhichOneof("kind"):
        body["response_format"] = _response_format(request.response_format)
    return orjson.dumps(body)


def message_json(message: message_pb2.Message) -> Json:
    """Return one message. Reasoning is left out: it belongs to the model that thought it."""
    content = _content(message.parts)
    encoded: Json = {"role": _ROLES.get(message.role, "user"), "content": content}
    if message.name:
        encoded["name"] = message.name
    if message.role == message_pb2.ROLE_TOOL:
        encoded["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        encoded["tool_calls"] = [_call_json(call) for call in message.tool_calls]
        encoded["content"] = content or None
    if refusal := "".join(part.refusal for part in message.parts):
        encoded["refusal"] = refusal
    return encoded


def tool_json(tool: message_pb2.Tool) -> Json:
    """Return one tool's declaration."""
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json_schema:
        function["parameters"] = object_field(tool.parameters_json_schema, "request.tools")
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def object_field(content: str, field: str) -> Json:
    """Return a JSON object given as text; empty text is an empty object."""
    value = parse_object(content) if content else {}
    if value is None:
        raise InvalidArgument(
            f"{field}: must be a JSON object",
            reason=Reason.INVALID_FIELD,
            violations=[(field, "must be a JSON object")],
        )
    return value


def image_data_url(image: message_pb2.Image) -> str:
    """Return the address of an image, its bytes inside when it has none."""
    if image.HasField("url"):
        return image.url
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def _content(parts: Iterable[message_pb2.Part]) -> str | list[Json]:
    """Return text alone as a string, which every server takes, and else a list of parts."""
    shown = [part for part in parts if part.WhichOneof("kind") in ("text", "image")]
    if all(part.HasField("text") for part in shown):
        return "".join(part.text for part in shown)
    return [
        {"type": "text", "text": part.text} if part.HasField("text") else _image(part.image)
        for part in shown
    ]


def _image(image: message_pb2.Image) -> Json:
    address = {"url": image_data_url(image)}
    if image.detail:
        address["detail"] = image.detail
    return {"type": "image_url", "image_url": address}


def _call_json(call: message_pb2.ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id, "type": "function", "function": function}


def _tool_choice(choice: str) -> str | Json:
    return choice if choice in NAMED_CHOICES else {"type": "function", "function": {"name": choice}}


def _response_format(form: model_pb2.ResponseFormat) -> Json:
    if form.HasField("json_schema"):
        schema = object_field(form.json_schema, "request.response_format.json_schema")
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"}


def _sampling(sampling: model_pb2.Sampling, max_tokens_field: str) -> Json:
    fields = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
    knobs: Json = {name: getattr(sampling, name) for name in fields if sampling.HasField(name)}
    if sampling.HasField("max_output_tokens"):
        knobs[max_tokens_field] = sampling.max_output_tokens
    if sampling.stop:
        knobs["stop"] = list(sampling.stop)
    return knobs
