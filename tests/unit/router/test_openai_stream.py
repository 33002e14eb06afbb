"""OpenAI streams, parsed from bytes: merging, partitions, and what strangers send."""

from collections.abc import Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus.common.v1 import model_pb2
from services.router.failure import FailureKind, UpstreamFailure
from services.router.wire.openai_stream import OpenAIStream
from services.router.wire.pieces import Event


def record(delta: dict[str, object], **choice: object) -> bytes:
    chunk = {"id": "c1", "model": "m-1", "choices": [{"index": 0, "delta": delta, **choice}]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def parser() -> OpenAIStream:
    return OpenAIStream(model="asked", estimated_input_tokens=42)


def parse(*reads: bytes) -> list[Event]:
    stream = parser()
    events = [event for read in reads for event in stream.feed(read)]
    return events + stream.end()


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events)


USAGE = b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,\
"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}\n\n'
STOP = record({}, finish_reason="stop")
DONE = b"data: [DONE]\n\n"


def test_the_texts_of_one_read_become_one_event() -> None:
    read = b"".join(record({"content": text}) for text in ("a", "b", "c"))
    events = parser().feed(read)
    assert [event.text for event in events] == ["abc"]


def test_a_role_and_an_empty_content_are_not_output() -> None:
    assert parser().feed(record({"role": "assistant", "content": ""})) == []


def test_runs_of_a_kind_are_merged_and_kinds_keep_their_order() -> None:
    events = parser().feed(
        record({"reasoning_content": "th"})
        + record({"reasoning": "ink"})
        + record({"content": "say"})
        + record({"refusal": "no"})
    )
    assert [event.WhichOneof("event") for event in events] == ["reasoning", "text", "refusal"]
    assert (events[0].reasoning, events[1].text, events[2].refusal) == ("think", "say", "no")


def test_tool_calls_keep_their_index_and_merge_their_arguments() -> None:
    call = {"index": 1, "id": "t1", "function": {"name": "add", "arguments": ""}}
    events = parser().feed(
        record({"tool_calls": [call]})
        + record({"tool_calls": [{"index": 1, "function": {"arguments": '{"a"'}}]})
        + record({"tool_calls": [{"index": 1, "function": {"arguments": ":1}"}}]})
        + record({"tool_calls": [{"index": 2, "id": "t2", "function": {"name": "now"}}]})
    )
    calls = [event.tool_call for event in events]
    assert [(c.index, c.id, c.name, c.arguments_json) for c in calls] == [
        (1, "t1", "add", '{"a":1}'),
        (2, "t2", "now", ""),
    ]


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    events = parser().feed(
        record({"tool_calls": [{"id": "t1", "function": {"name": "a", "arguments": "{"}}]})
        + record({"tool_calls": [{"function": {"arguments": "}"}}]})
        + record({"tool_calls": [{"id": "t2", "function": {"name": "b", "arguments": "{}"}}]})
    )
    calls = [event.tool_call for event in events]
    assert [(c.index, c.id, c.arguments_json) for c in calls] == [(0, "t1", "{}"), (1, "t2", "{}")]


def test_the_finished_event_carries_id_model_reason_and_partitions() -> None:
    events = parse(record({"content": "hi"}), STOP, USAGE, DONE)
    finished = events[-1].finished
    assert (finished.id, finished.model) == ("c1", "m-1")
    assert finished.finish_reason == model_pb2.FINISH_REASON_STOP
    assert finished.usage == model_pb2.Usage(
        input_tokens=9, cached_input_tokens=4, output_tokens=5, reasoning_output_tokens=2
    )


def test_usage_beside_a_choice_counts_as_well() -> None:
    choice: dict[str, object] = {"delta": {}, "finish_reason": "length"}
    last = {"choices": [choice], "usage": {"prompt_tokens": 3}}
    events = parse(record({"content": "hi"}), b"data: " + orjson.dumps(last) + b"\n\n")
    assert events[-1].finished.usage.input_tokens == 3
    assert events[-1].finished.finish_reason == model_pb2.FINISH_REASON_LENGTH


def test_missing_usage_is_estimated_and_marked() -> None:
    usage = parse(record({"content": "four char" * 4}), STOP)[-1].finished.usage
    assert usage == model_pb2.Usage(input_tokens=42, output_tokens=9, estimated=True)


def test_a_stream_that_ends_without_a_reason_is_never_a_whole_answer() -> None:
    stream = parser()
    stream.feed(record({"content": "half"}))
    with pytest.raises(UpstreamFailure) as caught:
        stream.end()
    assert caught.value.kind is FailureKind.TRANSIENT
    assert caught.value.usage is not None
    assert caught.value.usage.estimated


def test_an_end_mark_alone_does_not_make_an_answer_whole() -> None:
    stream = parser()
    stream.feed(record({"content": "half"}) + DONE)
    assert stream.is_complete
    with pytest.raises(UpstreamFailure):
        stream.end()


def test_reason_and_usage_complete_an_answer_without_its_end_mark() -> None:
    stream = parser()
    stream.feed(STOP)
    assert stream.is_ending
    assert not stream.is_complete
    stream.feed(USAGE)
    assert stream.is_complete


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {\n\n",
        b"data: 7\n\n",
        b"data: []\n\n",
        b'data: {"choices":[{"delta":3}]}\n\n',
        b'data: {"choices":"x"}\n\n',
        b'data: {"choices":[null],"usage":4}\n\n',
        b"data: \xff\n\n",
    ],
)
def test_a_malformed_record_between_good_ones_is_skipped(bad: bytes) -> None:
    events = parse(record({"content": "a"}), bad, record({"content": "b"}), STOP, DONE)
    assert text_of(events) == "ab"


def test_an_error_record_fails_the_stream() -> None:
    stream = parser()
    stream.feed(record({"content": "a"}))
    with pytest.raises(UpstreamFailure) as caught:
        stream.feed(b'data: {"error":{"message":"x","code":"server_error"}}\n\n')
    assert caught.value.kind is FailureKind.TRANSIENT
    assert caught.value.usage is not None


def test_an_answer_in_one_body_is_understood() -> None:
    call = {"id": "t", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": "whole", "reasoning_content": "why", "tool_calls": [call]}
    body = {
        "id": "x",
        "model": "m",
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    raw = orjson.dumps(body)
    events = parse(raw[:20], raw[20:])
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["reasoning", "text", "tool_call", "finished"]
    assert events[-1].finished.finish_reason == model_pb2.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize("body", [b'{"error":"x"}', b'{"detail":"x"}', b"{broken"])
def test_a_body_that_is_an_error_fails(body: bytes) -> None:
    with pytest.raises(UpstreamFailure):
        parse(body)


@given(st.lists(st.integers(0, 900)))
def test_reads_may_cut_anywhere_even_within_a_character(cuts: list[int]) -> None:
    raw = record({"content": "é世"}) + record({"content": "界😀"}) + STOP + USAGE + DONE
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    reads = [raw[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    events = parse(*reads)
    assert text_of(events) == "é世界😀"
    assert not events[-1].finished.usage.estimated


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    with pytest.raises(UpstreamFailure):
        parse(raw)
