"""Requests in both dialects, from one model request."""

import base64
from typing import Any

import orjson
import pytest

from mesh.errors import InvalidArgument
from plexus.common.v1 import message_pb2, model_pb2
from services.router.wire.anthropic_request import DEFAULT_MAX_TOKENS, messages_body
from services.router.wire.openai_request import chat_body

Message, Part = message_pb2.Message, message_pb2.Part


def conversation() -> model_pb2.ModelRequest:
    picture = message_pb2.Image(data=b"png", media_type="image/png", detail="low")
    linked = message_pb2.Image(url="https://x/y.jpg")
    call = message_pb2.ToolCall(id="t1", name="look", arguments_json='{"at":1}')
    second = message_pb2.ToolCall(id="t2", name="look", arguments_json="{broken")
    return model_pb2.ModelRequest(
        messages=[
            Message(role=message_pb2.ROLE_SYSTEM, parts=[Part(text="Be kind.")]),
            Message(
                role=message_pb2.ROLE_USER,
                name="ada",
                parts=[Part(text="see"), Part(image=picture), Part(image=linked)],
            ),
            Message(
                role=message_pb2.ROLE_ASSISTANT,
                parts=[Part(reasoning="secret"), Part(text="I look.")],
                tool_calls=[call, second],
            ),
            Message(role=message_pb2.ROLE_TOOL, tool_call_id="t1", parts=[Part(text="a cat")]),
            Message(role=message_pb2.ROLE_TOOL, tool_call_id="t2", parts=[Part(text="none")]),
            Message(role=message_pb2.ROLE_SYSTEM, parts=[Part(text="Be brief.")]),
            Message(role=message_pb2.ROLE_USER, parts=[Part(text="So?")]),
        ],
        tools=[
            message_pb2.Tool(
                name="look", description="Looks.", parameters_json_schema='{"type":"object"}'
            )
        ],
        tool_choice="look",
        sampling=model_pb2.Sampling(
            temperature=1.5, top_p=0.9, max_output_tokens=50, stop=["END"], seed=7
        ),
    )


def openai(request: model_pb2.ModelRequest, **options: str) -> dict[str, Any]:
    return orjson.loads(chat_body(request, model="m", **options))


def anthropic(request: model_pb2.ModelRequest) -> dict[str, Any]:
    return orjson.loads(messages_body(request, model="m"))


def test_openai_messages() -> None:
    data = base64.b64encode(b"png").decode()
    function = {"name": "look", "arguments": '{"at":1}'}
    broken = {"name": "look", "arguments": "{broken"}
    assert openai(conversation())["messages"] == [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "name": "ada",
            "content": [
                {"type": "text", "text": "see"},
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"},
                },
                {"type": "image_url", "image_url": {"url": "https://x/y.jpg"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": function},
                {"id": "t2", "type": "function", "function": broken},
            ],
        },
        {"role": "tool", "content": "a cat", "tool_call_id": "t1"},
        {"role": "tool", "content": "none", "tool_call_id": "t2"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "So?"},
    ]


def test_openai_options() -> None:
    body = openai(conversation())
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert (body["temperature"], body["top_p"], body["seed"]) == (1.5, 0.9, 7)
    assert (body["max_tokens"], body["stop"]) == (50, ["END"])
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]
    hosted = openai(conversation(), max_tokens_field="max_completion_tokens")
    assert hosted["max_completion_tokens"] == 50
    assert "max_tokens" not in hosted


def test_absent_options_are_not_sent() -> None:
    request = model_pb2.ModelRequest(
        messages=[Message(role=message_pb2.ROLE_USER, parts=[Part(text="hi")])]
    )
    assert set(openai(request)) == {"model", "messages", "stream", "stream_options"}
    assert set(anthropic(request)) == {"model", "messages", "stream", "max_tokens"}
    assert anthropic(request)["max_tokens"] == DEFAULT_MAX_TOKENS


def test_an_assistant_that_only_calls_has_no_content() -> None:
    call = message_pb2.ToolCall(id="t", name="f", arguments_json="{}")
    request = model_pb2.ModelRequest(
        messages=[Message(role=message_pb2.ROLE_ASSISTANT, tool_calls=[call])]
    )
    assert openai(request)["messages"][0]["content"] is None


def test_extra_fields_pass_and_override_nothing() -> None:
    request = conversation()
    request.extra_json = '{"reasoning_effort":"low","model":"evil","top_k":3,"stream":false}'
    body = openai(request)
    assert (body["reasoning_effort"], body["model"], body["stream"]) == ("low", "m", True)
    other = anthropic(request)
    assert "reasoning_effort" not in other
    assert (other["model"], other["top_k"]) == ("m", 3)


@pytest.mark.parametrize("extra", ["[1]", "{", "7"])
def test_extra_fields_that_are_no_object_are_refused(extra: str) -> None:
    request = conversation()
    request.extra_json = extra
    with pytest.raises(InvalidArgument, match="extra_json"):
        chat_body(request, model="m")


def test_anthropic_messages() -> None:
    body = anthropic(conversation())
    assert body["system"] == "Be kind.\n\nBe brief."
    data = base64.b64encode(b"png").decode()
    first, second, third = body["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    assert first["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image", "source": source},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.jpg"}},
    ]
    assert second == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
            {"type": "tool_use", "id": "t2", "name": "look", "input": {"invalid_json": "{broken"}},
        ],
    }
    assert [block["type"] for block in third["content"]] == ["tool_result", "tool_result", "text"]
    assert third["content"][0] == {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": "a cat"}],
    }


def test_anthropic_options() -> None:
    body = anthropic(conversation())
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 0.9, 50)
    assert body["stop_sequences"] == ["END"]
    assert body["tool_choice"] == {"type": "tool", "name": "look"}
    schema = {"type": "object"}
    assert body["tools"] == [{"name": "look", "description": "Looks.", "input_schema": schema}]
    assert "seed" not in body


@pytest.mark.parametrize(
    ("choice", "ours", "theirs"),
    [
        ("auto", "auto", {"type": "auto"}),
        ("none", "none", {"type": "none"}),
        ("required", "required", {"type": "any"}),
    ],
)
def test_tool_choices(choice: str, ours: str, theirs: dict[str, str]) -> None:
    request = conversation()
    request.tool_choice = choice
    assert openai(request)["tool_choice"] == ours
    assert anthropic(request)["tool_choice"] == theirs


def test_response_formats() -> None:
    request = conversation()
    request.response_format.json_schema = '{"name":"n","schema":{"type":"object"}}'
    named = {"name": "n", "schema": {"type": "object"}}
    assert openai(request)["response_format"] == {"type": "json_schema", "json_schema": named}
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    assert anthropic(request)["output_config"] == {"format": schema}
    request.response_format.json_object = True
    assert openai(request)["response_format"] == {"type": "json_object"}
    assert anthropic(request)["system"].endswith("nothing else.")
