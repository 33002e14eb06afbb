"""Records and leases: what was encoded comes back, and nothing else does."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from plexus.common.v1 import message_pb2, model_pb2
from services.cache.lease import UNKNOWN, Lease, Tokens, decode_lease
from services.cache.record import Record, decode, encode, is_complete

EPOCH = b"\x07" * 8


def response(
    text: str = "hi", finish: model_pb2.FinishReason = model_pb2.FINISH_REASON_STOP
) -> model_pb2.ModelResponse:
    return model_pb2.ModelResponse(
        message=message_pb2.Message(parts=[message_pb2.Part(text=text)]), finish_reason=finish
    )


def record(text: str) -> Record:
    return Record(response(text), response(text).ByteSize(), EPOCH, 123)


@given(st.text(max_size=500), st.integers(0, 600))
def test_a_record_survives_encoding(text: str, compress_above: int) -> None:
    data = encode(record(text), compress_above_bytes=compress_above)
    assert decode(data, max_bytes=10_000) == record(text)


def test_large_answers_shrink() -> None:
    data = encode(record("again and " * 1000), compress_above_bytes=1024)
    assert len(data) < 1000


@given(st.binary(max_size=100))
def test_damage_is_a_miss_and_never_an_error(data: bytes) -> None:
    decode(data, max_bytes=1000)
    decode(b"\x01\x01" + data, max_bytes=1000)
    good = encode(record("x" * 50), compress_above_bytes=0)
    assert decode(good[:-1], max_bytes=1000) is None
    assert decode(b"\x02" + good[1:], max_bytes=1000) is None


def test_a_bomb_is_not_unpacked() -> None:
    data = encode(record("x" * 1_000_000), compress_above_bytes=0)
    assert len(data) < 5000
    assert decode(data, max_bytes=1000) is None
    header = data[:18]
    assert decode(header + zlib.compress(b""), max_bytes=1000) is not None


def test_only_what_ended_by_itself_is_complete() -> None:
    finished = {
        model_pb2.FINISH_REASON_UNSPECIFIED: False,
        model_pb2.FINISH_REASON_STOP: True,
        model_pb2.FINISH_REASON_LENGTH: True,
        model_pb2.FINISH_REASON_TOOL_CALLS: True,
        model_pb2.FINISH_REASON_CONTENT_FILTER: False,
    }
    assert {reason: is_complete(response(finish=reason)) for reason in finished} == finished
    assert set(finished) == set(model_pb2.FinishReason.values())
    assert not is_complete(model_pb2.ModelResponse(finish_reason=model_pb2.FINISH_REASON_STOP))


def test_a_lease_survives_encoding() -> None:
    lease = Lease(b"n" * 16, b"k" * 32, Tokens(b"e" * 8, b"g" * 8), 1_700_000_000_000)
    assert decode_lease(lease.encode()) == lease
    assert UNKNOWN.epoch != Tokens(b"e" * 8, b"g" * 8).epoch


@given(st.text(max_size=200))
def test_any_other_text_is_no_lease(text: str) -> None:
    assert decode_lease(text) is None
