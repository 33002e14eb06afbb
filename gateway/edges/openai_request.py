"""OpenAI requests as requests of the contract. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from gateway.edges.json_fields import Fields
from gateway.edges.openai_messages import message_of
from gateway.edges.request_headers import (
    AGENT_ID,
    CONVERSATION_ID,
    Headers,
    cache_control_of,
    idempotency_key_of,
    memory_options_of,
)
from mesh.validation import check_count, invalid, require
from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

MAX_INPUTS = 2048
"""How many texts one embeddings request may hold, as OpenAI has it."""
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_CHOICES = ("auto", "none", "required")
_PENALTIES_AND_KIN = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """A chat completion as it was asked for."""

    turn: pb.Turn
    streamed: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class EmbeddingsAsk:
    """Embeddings as they were asked for. `dimensions` None means as many as the model has."""

    scope: scope_pb2.Scope
    model: str
    texts: list[str]
    as_base64: bool
    dimensions: int | None


def chat_ask(body: Fields, headers: Headers, tenant: str) -> ChatAsk:
    """Return the turn that a chat completion asks for.

    Fields that the contract does not model are collected into `extra_json`. `store` and
    `metadata` concern OpenAI's own storage, so they are read here and sent to no provider.
    """
    streamed = body.flag("stream")
    options = body.child("stream_options")
    include_usage = options is not None and options.flag("include_usage")
    body.flag("store")
    _refuse_what_is_not_served(body)
    turn = pb.Turn(
        scope=scope_pb2.Scope(agent_id=headers.get(AGENT_ID, ""), user_id=_user_of(body)),
        idempotency_key=idempotency_key_of(headers),
        memory=memory_options_of(headers),
        cache=cache_control_of(headers),
    )
    turn.request.CopyFrom(_model_request(body))
    _converse(turn, _conversation_id(body, headers), tenant)
    if extra := body.rest():
        turn.request.extra_json = orjson.dumps(extra).decode()
    return ChatAsk(turn, streamed, include_usage)


def embeddings_ask(body: Fields, headers: Headers) -> EmbeddingsAsk:
    """Return the texts to embed, in order, and the form of the answer."""
    encoding = body.text("encoding_format", "float")
    require(encoding in ("float", "base64"), "encoding_format", "must be float or base64")
    return EmbeddingsAsk(
        scope=scope_pb2.Scope(agent_id=headers.get(AGENT_ID, ""), user_id=_user_of(body)),
        model=body.text("model"),
        texts=_inputs(body),
        as_base64=encoding == "base64",
        dimensions=body.integer("dimensions", low=1, high=_INT32_MAX),
    )


def derived_conversation_id(
    tenant: str, scope: scope_pb2.Scope, messages: Iterable[message_pb2.Message]
) -> str:
    """Return one id for all turns of a conversation whose client holds the history.

    Every such turn repeats the system messages and the first user message.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in (tenant, scope.agent_id, scope.user_id):
        digest.update(f"{len(text)}:{text}".encode())
    for message in messages:
        if message.role == message_pb2.ROLE_SYSTEM or message.role == message_pb2.ROLE_USER:
            encoded = message.SerializeToString(deterministic=True)
            digest.update(f"{len(encoded)}:".encode() + encoded)
        if message.role == message_pb2.ROLE_USER:
            break
    return f"conv-{digest.hexdigest()}"


def _converse(turn: pb.Turn, conversation_id: str, tenant: str) -> None:
    """Set the conversation, and whether its window is the client's own.

    A derived id stands for a history that the client holds, also at its first message: two
    conversations that begin alike must not see each other's window.
    """
    messages = turn.request.messages
    derived = not conversation_id
    if derived:
        conversation_id = derived_conversation_id(tenant, turn.scope, messages)
    turn.scope.conversation_id = conversation_id
    spoken = sum(message.role != message_pb2.ROLE_SYSTEM for message in messages)
    turn.memory.no_window = derived or spoken > 1


def _model_request(body: Fields) -> model_pb2.ModelRequest:
    messages = [message_of(message) for message in body.children("messages")]
    require(bool(messages), "messages", "must have at least one message")
    request = model_pb2.ModelRequest(
        model=body.text("model"),
        messages=messages,
        tools=[_tool(tool) for tool in body.children("tools")],
        tool_choice=_tool_choice(body),
        sampling=_sampling(body),
    )
    _read_response_format(body, request)
    return request


def _sampling(body: Fields) -> model_pb2.Sampling:
    sampling = model_pb2.Sampling(stop=_stop(body))
    for name in _PENALTIES_AND_KIN:
        value = body.number(name)
        if value is not None:
            setattr(sampling, name, value)
    limits = [
        body.integer(name, low=1, high=_INT32_MAX)
        for name in ("max_completion_tokens", "max_tokens")
    ]
    limit = next((each for each in limits if each is not None), None)
    if limit is not None:
        sampling.max_output_tokens = limit
    seed = body.integer("seed", low=-_INT64_MAX, high=_INT64_MAX)
    if seed is not None:
        sampling.seed = seed
    return sampling


def _stop(body: Fields) -> list[str]:
    stop = body.take("stop")
    if isinstance(stop, str):
        return [stop]
    return _strings(body, "stop", "must be a string or a list of strings")


def _strings(body: Fields, name: str, why: str) -> list[str]:
    value = body.take(name)
    if value is not None and not isinstance(value, list):
        raise invalid(name, why)
    strings = [item for item in body.items(name) if isinstance(item, str)]
    require(len(strings) == len(body.items(name)), name, why)
    return strings


def _tool(fields: Fields) -> message_pb2.Tool:
    require(
        fields.required_text("type") == "function",
        fields.where("type"),
        "must be function; no other kind of tool is served",
    )
    function = fields.required_child("function")
    schema = function.child("parameters") and function.take("parameters")
    return message_pb2.Tool(
        name=function.required_text("name"),
        description=function.text("description"),
        parameters_json_schema=_dumps(schema) if schema else "",
        strict=function.flag("strict"),
    )


def _tool_choice(body: Fields) -> str:
    choice = body.take("tool_choice")
    if choice is None:
        return ""
    if isinstance(choice, str):
        require(choice in _CHOICES, "tool_choice", "must be auto, none, required or an object")
        return choice
    named = body.required_child("tool_choice")
    if named.required_text("type") != "function":
        raise invalid("tool_choice.type", "must be function; no other kind is served")
    return named.required_child("function").required_text("name")


def _read_response_format(body: Fields, request: model_pb2.ModelRequest) -> None:
    form = body.child("response_format")
    if form is None:
        return
    kind = form.required_text("type")
    if kind == "json_object":
        request.response_format.json_object = True
    elif kind == "json_schema":
        form.required_child("json_schema").required_text("name")
        request.response_format.json_schema = _dumps(form.take("json_schema"))
    elif kind != "text":
        raise invalid("response_format.type", "must be text, json_object or json_schema")


def _refuse_what_is_not_served(body: Fields) -> None:
    """Refuse what would change the shape of the answer; anything else unknown is passed on."""
    count = body.take("n")
    require(count is None or count == 1, "n", "must be 1: one answer is made per request")
    for name in ("functions", "function_call"):
        require(body.take(name) is None, name, "is deprecated; use tools and tool_choice")
    spoken = "audio" in body.items("modalities") or body.take("audio") is not None
    require(not spoken, "modalities", "must be text: audio is not served")


def _user_of(body: Fields) -> str:
    """Return the end user, by OpenAI's older or newer name for it."""
    user, identifier = body.text("user"), body.text("safety_identifier")
    return user or identifier


def _conversation_id(body: Fields, headers: Headers) -> str:
    metadata = body.child("metadata")
    named = metadata.text("conversation_id") if metadata else ""
    return headers.get(CONVERSATION_ID, "").strip() or named


def _inputs(body: Fields) -> list[str]:
    value = body.take("input")
    if isinstance(value, str):
        texts = [value]
    else:
        texts = _strings(
            body, "input", "must be a string or a list of strings; token ids are not served"
        )
    check_count(len(texts), "input", low=1, high=MAX_INPUTS)
    for index, text in enumerate(texts):
        require(bool(text), f"input[{index}]", "must not be empty")
    return texts


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()
