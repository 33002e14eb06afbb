"""Frames come out as they went in, however the stream is cut."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory.frames import BrokenFrame, FrameReader, encode

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)
frames = st.lists(st.lists(st.tuples(st.integers(), st.text(), values), max_size=3), max_size=4)


@given(frames, st.integers(min_value=1, max_value=64))
def test_any_cut_of_the_stream_gives_the_same_frames(
    sent: list[list[tuple[object, ...]]], step: int
) -> None:
    stream = b"".join(encode(list(frame)) for frame in sent)
    reader = FrameReader()
    received: list[object] = []
    for start in range(0, len(stream), step):
        received += reader.feed(stream[start : start + step])
    assert received == sent


def test_a_frame_above_the_limit_is_refused_before_it_is_held() -> None:
    reader = FrameReader(max_frame_bytes=8)
    with pytest.raises(BrokenFrame):
        reader.feed(struct.pack("<I", 9))


@pytest.mark.parametrize("body", [b"", b"\xff\xff", b"i\x01\x00\x00\x00"])
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(BrokenFrame):
        FrameReader().feed(struct.pack("<I", len(body)) + body)
