"""OpenAI requests into the contract: what is understood, what is refused, and by which name."""

import base64
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edges.http_settings import HttpEdgeSettings
from gateway.edges.json_fields import Fields
from gateway.edges.openai_request import ChatAsk, chat_ask, embeddings_ask
from gateway.edges.request_headers import cache_control_of, timeout_s_of
from mesh.errors import InvalidArgument, PlexusError, Reason
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

USER = {"role": "user", "content": "Hi"}
SETTINGS = HttpEdgeSettings(timeout_s=120, max_timeout_s=600)


def ask(
    body: Mapping[str, object], headers: Mapping[str, str] | None = None, tenant: str = "t"
) -> ChatAsk:
    return chat_ask(Fields.parse(orjson.dumps(body)), headers or {}, tenant)


def turn(*messages: object, headers: Mapping[str, str] | None = None, **fields: Any) -> pb.Turn:
    return ask({"messages": list(messages) or [USER], **fields}, headers).turn


def refused(*messages: object, **fields: Any) -> str:
    """The field that a request is refused for."""
    with pytest.raises(InvalidArgument) as raised:
        turn(*messages, **fields)
    assert raised.value.reason == Reason.INVALID_FIELD
    return raised.value.violations[0][0]


@pytest.mark.parametrize(
    ("role", "expected"),
    [("system", message_pb2.ROLE_SYSTEM), ("developer", message_pb2.ROLE_SYSTEM)],
)
def test_a_developer_is_the_system_by_a_newer_name(role: str, expected: message_pb2.Role) -> None:
    message = turn({"role": role, "content": "Be brief."}, USER).request.messages[0]
    assert message.role == expected


def test_a_tool_conversation_round() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    messages = turn(
        {"role": "user", "content": "Look", "name": "ada"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}]},
    ).request.messages
    assert messages[0].name == "ada"
    assert [part.reasoning for part in messages[1].parts] == ["hm"]
    assert messages[1].tool_calls[0] == message_pb2.ToolCall(
        id="c1", name="look", arguments_json='{"a":1}'
    )
    assert messages[2].role == message_pb2.ROLE_TOOL
    assert messages[2].tool_call_id == "c1"
    assert messages[2].parts[0].text == "seen"


def test_an_empty_answer_beside_tool_calls_is_no_part() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    said_nothing, said_null = (
        turn(USER, {"role": "assistant", "content": content, "tool_calls": [call]}, USER).request
        for content in ("", None)
    )
    assert said_nothing == said_null
    assert not said_null.messages[1].parts


@given(st.binary(max_size=200), st.sampled_from(["image/png", "image/jpeg"]))
def test_an_image_in_the_request_keeps_its_bytes(data: bytes, media_type: str) -> None:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    image = turn({"role": "user", "content": [part]}).request.messages[0].parts[0].image
    assert (image.data, image.media_type, image.detail) == (data, media_type, "low")


def test_an_image_elsewhere_keeps_its_address() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    image = turn({"role": "user", "content": [part]}).request.messages[0].parts[0].image
    assert image.url == "https://example.com/a.png"


def image_part(url: object) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "narrator", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 7}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
            "messages[0].content[1].type",
        ),
        (image_part("file:///etc/passwd"), "messages[0].content[0].image_url.url"),
        (image_part("data:image/png;base64,***"), "messages[0].content[0].image_url.url"),
        (image_part("data:image/png"), "messages[0].content[0].image_url.url"),
        (image_part(5), "messages[0].content[0].image_url.url"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "assistant", "function_call": {}}, "messages[0].function_call"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls[0].function"),
        ("hello", "messages[0]"),
    ],
)
def test_a_wrong_message_is_refused_by_its_path(message: object, field: str) -> None:
    assert refused(message) == field


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"n": "1"}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2**40}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a", 1]}, "stop"),
    ({"tools": [{"type": "custom"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
        "tools[0].function.parameters",
    ),
    ({"tool_choice": "look"}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"functions": []}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"metadata": {"conversation_id": 5}}, "metadata.conversation_id"),
    ({"stream_options": 5}, "stream_options"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG_FIELDS)
def test_a_wrong_field_is_refused_by_its_name(fields: dict[str, object], field: str) -> None:
    assert refused(**fields) == field


def test_no_message_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="messages"):
        ask({"model": "m"})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ""),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "look"}}, "look"),
    ],
)
def test_tool_choice(choice: object, expected: str) -> None:
    assert turn(tool_choice=choice).request.tool_choice == expected


def test_tools_keep_their_schema() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}, "default": None}
    function = {"name": "look", "description": "Looks.", "parameters": schema, "strict": True}
    tool = turn(tools=[{"type": "function", "function": function}]).request.tools[0]
    assert (tool.name, tool.description, tool.strict) == ("look", "Looks.", True)
    assert orjson.loads(tool.parameters_json_schema) == schema
    bare = {"type": "function", "function": {"name": "a"}}
    assert turn(tools=[bare]).request.tools[0].parameters_json_schema == ""


def test_response_formats() -> None:
    assert turn(response_format={"type": "text"}).request.response_format.WhichOneof("kind") is None
    assert turn(response_format={"type": "json_object"}).request.response_format.json_object
    schema = {"name": "city", "strict": True, "schema": {"type": "object"}}
    form = turn(response_format={"type": "json_schema", "json_schema": schema})
    assert orjson.loads(form.request.response_format.json_schema) == schema


def test_sampling() -> None:
    sampling = turn(
        temperature=0,
        top_p=0.5,
        presence_penalty=-1,
        frequency_penalty=1,
        seed=-3,
        stop=["a", "b"],
        max_tokens=5,
        max_completion_tokens=6,
    ).request.sampling
    assert sampling.HasField("temperature")
    assert sampling.temperature == 0
    assert (sampling.top_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1, 1)
    assert (sampling.seed, list(sampling.stop), sampling.max_output_tokens) == (-3, ["a", "b"], 6)
    absent = turn(temperature=None, max_tokens=None, stop=None).request.sampling
    assert not absent.ListFields()


NAMES = st.sampled_from(["logit_bias", "reasoning_effort", "top_k", "x", "verbosity"])
LEAVES = st.booleans() | st.integers(-(2**53), 2**53) | st.text()
JSON_VALUES = st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.text(), v))


@given(st.dictionaries(NAMES, JSON_VALUES, min_size=1))
def test_unknown_fields_are_passed_on_unchanged(fields: dict[str, Any]) -> None:
    assert orjson.loads(turn(**fields).request.extra_json) == fields


def test_what_is_ours_or_openais_own_is_not_passed_on() -> None:
    request = turn(
        model="m",
        stream=True,
        stream_options={"include_usage": True},
        store=False,
        n=1,
        user="u",
        metadata={"a": "b"},
        service_tier=None,
    ).request
    assert request.extra_json == ""


def test_usage_is_included_only_when_asked_for() -> None:
    assert ask({"messages": [USER], "stream_options": {"include_usage": True}}).include_usage
    assert not ask({"messages": [USER], "stream": True, "stream_options": {}}).include_usage
    assert not ask({"messages": [USER], "stream": True}).include_usage


def conversation(*messages: object, tenant: str = "t", **fields: object) -> str:
    body = {"messages": list(messages), **fields}
    return ask(body, tenant=tenant).turn.scope.conversation_id


def test_a_conversation_held_by_the_client_keeps_one_id() -> None:
    system = {"role": "system", "content": "Be brief."}
    first = conversation(system, USER)
    later = conversation(
        system, USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}
    )
    assert first == later
    others = {
        conversation(USER),
        conversation(system, {"role": "user", "content": "Ho"}),
        conversation(system, USER, tenant="other"),
        conversation(system, USER, user="ada"),
    }
    assert len(others | {first}) == 5


def test_the_window_is_the_clients_own_unless_it_names_a_conversation() -> None:
    answer = {"role": "assistant", "content": "Hello"}
    named = {"x-plexus-conversation-id": "c"}
    assert turn(USER).memory.no_window
    assert not turn(USER, headers=named).memory.no_window
    assert not turn({"role": "system", "content": "x"}, USER, headers=named).memory.no_window
    assert turn(USER, answer, USER, headers=named).memory.no_window


def test_the_header_names_the_conversation_before_the_metadata() -> None:
    scope = turn(
        headers={"x-plexus-conversation-id": "from-header"}, metadata={"conversation_id": "other"}
    ).scope
    assert scope.conversation_id == "from-header"
    assert turn(metadata={"conversation_id": "other"}).scope.conversation_id == "other"


def test_the_user_by_either_name() -> None:
    assert turn(user="a").scope.user_id == "a"
    assert turn(safety_identifier="b").scope.user_id == "b"
    assert turn(user="a", safety_identifier="b").scope.user_id == "a"


def test_an_idempotency_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="idempotency-key"):
        turn(headers={"idempotency-key": "k" * 129})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", cache_pb.CacheControl()),
        ("no-cache", cache_pb.CacheControl(no_cache=True)),
        ("No-Store, MAX-AGE=5", cache_pb.CacheControl(no_store=True, max_age_ms=5000)),
        ("max-age=0", cache_pb.CacheControl(no_cache=True)),
        ("max-age=x, private", cache_pb.CacheControl()),
    ],
)
def test_cache_control(header: str, expected: cache_pb.CacheControl) -> None:
    assert cache_control_of({"cache-control": header}) == expected


@pytest.mark.parametrize(
    ("headers", "whole_s", "streamed_s"),
    [
        ({}, 120, 120),
        ({"x-request-timeout": "5"}, 5, 5),
        ({"x-stainless-timeout": "7.5"}, 7.5, 7.5),
        ({"x-request-timeout": "99999"}, 600, 600),
        ({"x-request-timeout": "soon"}, 120, 120),
        ({"x-request-timeout": "nan"}, 120, 120),
        ({"x-request-timeout": "-1"}, 120, 120),
        ({"x-stainless-read-timeout": "9"}, 9, 120),
        ({"x-stainless-read-timeout": "600"}, 120, 120),
    ],
)
def test_deadlines(headers: dict[str, str], whole_s: float, streamed_s: float) -> None:
    assert timeout_s_of(headers, SETTINGS, streamed=False) == whole_s
    assert timeout_s_of(headers, SETTINGS, streamed=True) == streamed_s


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "input"),
        ([], "input"),
        ("", "input[0]"),
        (["a", ""], "input[1]"),
        ([1, 2], "input"),
        ([[1], [2]], "input"),
        (["a", 1], "input"),
        (["a"] * 2049, "input"),
        ({"a": 1}, "input"),
    ],
)
def test_inputs_that_cannot_be_embedded(value: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        embeddings_ask(Fields({"input": value}), {})
    assert raised.value.violations[0][0] == field


def test_an_encoding_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="encoding_format"):
        embeddings_ask(Fields({"input": "x", "encoding_format": "hex"}), {})


SECRET = "s3cret-words"
WORDS = st.sampled_from(
    [SECRET, "user", "assistant", "tool", "text", "image_url", "function", "data:,", "auto"]
)
FIELD_NAMES = st.sampled_from(
    [
        "arguments",
        "audio",
        "content",
        "function",
        "id",
        "image_url",
        "input",
        "json_schema",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "name",
        "parameters",
        "refusal",
        "response_format",
        "role",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_calls",
        "tool_choice",
        "tools",
        "type",
        "url",
        "user",
    ]
)
HOSTILE = st.recursive(
    st.none() | LEAVES | WORDS | st.floats(allow_nan=False, allow_infinity=False),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(FIELD_NAMES, v, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(FIELD_NAMES, HOSTILE), st.lists(st.dictionaries(FIELD_NAMES, HOSTILE)))
def test_any_json_is_understood_or_refused_without_repeating_it(
    fields: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    for body in (fields, {**fields, "messages": messages}):
        error = refusal_of(body)
        if error is not None:
            assert isinstance(error, InvalidArgument)
            assert SECRET not in error.message
            assert SECRET not in repr(error.violations)


def refusal_of(body: dict[str, Any]) -> PlexusError | None:
    try:
        ask(body)
    except PlexusError as error:
        return error
    return None
