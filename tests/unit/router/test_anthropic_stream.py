"""Anthropic streams, parsed from bytes."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus.common.v1 import model_pb2
from services.router.failure import FailureKind, UpstreamFailure
from services.router.wire.anthropic_stream import AnthropicStream
from services.router.wire.pieces import Event


def record(kind: str, **fields: object) -> bytes:
    data = orjson.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: ".encode() + data + b"\n\n"


START = record(
    "message_start",
    message={
        "id": "msg_1",
        "model": "claude-x",
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 20,
            "output_tokens": 1,
        },
    },
)
STOP = record("message_stop")


def text(piece: str) -> bytes:
    return record("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})


def stopped(reason: str) -> bytes:
    return record("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 7})


def parser() -> AnthropicStream:
    return AnthropicStream(model="asked", estimated_input_tokens=42)


def parse(*reads: bytes) -> list[Event]:
    stream = parser()
    return [event for read in reads for event in stream.feed(read)] + stream.end()


def test_lifecycle_records_are_not_output_and_texts_merge() -> None:
    stream = parser()
    assert stream.feed(START + record("ping")) == []
    assert [event.text for event in stream.feed(text("a") + record("ping") + text("b"))] == ["ab"]


def test_input_totals_include_cache_reads_and_writes() -> None:
    finished = parse(START, text("hi"), stopped("end_turn"), STOP)[-1].finished
    assert finished.usage == model_pb2.Usage(
        input_tokens=125, cached_input_tokens=100, cache_write_input_tokens=20, output_tokens=7
    )
    assert (finished.id, finished.model) == ("msg_1", "claude-x")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", model_pb2.FINISH_REASON_STOP),
        ("stop_sequence", model_pb2.FINISH_REASON_STOP),
        ("max_tokens", model_pb2.FINISH_REASON_LENGTH),
        ("tool_use", model_pb2.FINISH_REASON_TOOL_CALLS),
        ("refusal", model_pb2.FINISH_REASON_CONTENT_FILTER),
        ("new_one", model_pb2.FINISH_REASON_UNSPECIFIED),
    ],
)
def test_stop_reasons_are_translated(reason: str, expected: model_pb2.FinishReason) -> None:
    assert parse(START, stopped(reason), STOP)[-1].finished.finish_reason == expected


def test_thinking_is_reasoning_and_signatures_are_dropped() -> None:
    signature = {"type": "signature_delta", "signature": "s"}
    events = parse(
        START,
        record("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        record("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
        record("content_block_delta", index=0, delta=signature),
        text("yes"),
        stopped("end_turn"),
        STOP,
    )
    assert [e.WhichOneof("event") for e in events] == ["reasoning", "text", "finished"]


def test_tool_calls_are_numbered_apart_from_other_blocks() -> None:
    def call(index: int, id: str) -> bytes:
        block: dict[str, object] = {"type": "tool_use", "id": id, "name": "f", "input": {}}
        part = {"type": "input_json_delta", "partial_json": '{"a":1}'}
        return record("content_block_start", index=index, content_block=block) + record(
            "content_block_delta", index=index, delta=part
        )

    events = parse(START, text("let me"), call(1, "t1"), call(2, "t2"), stopped("tool_use"), STOP)
    calls = [e.tool_call for e in events if e.HasField("tool_call")]
    assert [(c.index, c.id, c.arguments_json) for c in calls] == [
        (0, "t1", '{"a":1}'),
        (1, "t2", '{"a":1}'),
    ]


def test_output_is_estimated_when_the_stream_breaks_before_its_accounts() -> None:
    stream = parser()
    stream.feed(START + text("12345678"))
    with pytest.raises(UpstreamFailure) as caught:
        stream.end()
    assert caught.value.usage is not None
    assert caught.value.usage.input_tokens == 125
    assert caught.value.usage.output_tokens == 2
    assert caught.value.usage.estimated


def test_an_error_event_fails_with_its_kind() -> None:
    with pytest.raises(UpstreamFailure) as caught:
        parser().feed(record("error", error={"type": "overloaded_error", "message": "busy"}))
    assert caught.value.kind is FailureKind.TRANSIENT


def test_a_malformed_record_is_skipped() -> None:
    events = parse(START, text("a"), b"data: {oops\n\n", text("b"), stopped("end_turn"), STOP)
    assert "".join(e.text for e in events) == "ab"


def test_an_answer_in_one_body_is_understood() -> None:
    content = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "yes"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    usage = {"input_tokens": 3, "output_tokens": 4}
    body = {"type": "message", "id": "m", "content": content, "stop_reason": "tool_use"}
    events = parse(orjson.dumps(body | {"usage": usage}))
    kinds = [e.WhichOneof("event") for e in events]
    assert kinds == ["reasoning", "text", "tool_call", "finished"]
    assert events[2].tool_call.arguments_json == '{"a":1}'
    assert events[-1].finished.usage.output_tokens == 4


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    with pytest.raises(UpstreamFailure):
        parse(raw)
