"""Server-sent events: the reads' boundaries must not matter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.failure import UpstreamFailure
from services.router.wire import sse
from services.router.wire.sse import EventStream

STREAM = (
    ": a comment\n\n"
    'data: {"a":1}\n\n'
    'event: named\ndata: {"b":"é世界😀"}\n\n'
    "id: 7\ndata:no space\n\n"
    "data: two\ndata: lines\n\n"
    "\n"
    "data: [DONE]\n\n"
)
DATA = [b'{"a":1}', '{"b":"é世界😀"}'.encode(), b"no space", b"two\nlines", b"[DONE]"]


@given(st.lists(st.integers(0, 200)), st.sampled_from(["\n", "\r\n"]))
def test_any_split_into_reads_gives_the_same_records(cuts: list[int], line_end: str) -> None:
    raw = STREAM.replace("\n", line_end).encode()
    stream = EventStream()
    found: list[bytes] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(raw)], strict=True):
        found += stream.feed(raw[start:end])
    assert found + stream.flush() == DATA


def test_a_last_record_without_its_empty_line_is_given_at_the_end() -> None:
    stream = EventStream()
    assert stream.feed(b"data: one\n\ndata: two") == [b"one"]
    assert stream.flush() == [b"two"]
    assert stream.flush() == []


def test_an_endless_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_RECORD_BYTES", 100)
    stream = EventStream()
    stream.feed(b"data: " + b"x" * 90)
    with pytest.raises(UpstreamFailure, match="record"):
        stream.feed(b"x" * 90)
