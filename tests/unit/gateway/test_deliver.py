"""The coalescer: order kept, nothing lost, first piece at once, bounded merging."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.stages.deliver import Coalescer
from mesh.testing.clock import ManualClock
from plexus.gateway.v1 import gateway_service_pb2 as pb


def coalescer(events: list[pb.ChatResponse], clock: ManualClock, max_bytes: int = 64) -> Coalescer:
    return Coalescer(events.append, clock, interval_s=3600, max_bytes=max_bytes)


async def test_the_first_piece_is_sent_at_once_and_later_ones_are_merged() -> None:
    events: list[pb.ChatResponse] = []
    merged = coalescer(events, ManualClock())
    for piece in ("one ", "two ", "three"):
        merged.add("text", piece)
    assert [event.text for event in events] == ["one "]
    merged.flush()
    assert [event.text for event in events] == ["one ", "two three"]


async def test_a_piece_after_a_quiet_interval_does_not_wait() -> None:
    events: list[pb.ChatResponse] = []
    clock = ManualClock()
    merged = coalescer(events, clock)
    merged.add("text", "one ")
    await clock.advance(3601)
    merged.add("text", "two")
    assert [event.text for event in events] == ["one ", "two"]


async def test_gathered_text_is_sent_at_its_size() -> None:
    events: list[pb.ChatResponse] = []
    merged = coalescer(events, ManualClock(), max_bytes=8)
    merged.add("text", "a")
    merged.add("text", "12345678")
    assert [event.text for event in events] == ["a", "12345678"]


async def test_a_reset_voids_what_is_gathered() -> None:
    events: list[pb.ChatResponse] = []
    merged = coalescer(events, ManualClock())
    merged.add("text", "kept")
    merged.add("text", "void")
    merged.discard()
    merged.flush()
    assert [event.text for event in events] == ["kept"]


PIECES = st.lists(st.tuples(st.sampled_from(["text", "reasoning"]), st.text(max_size=20)))


@given(PIECES)
def test_nothing_is_lost_or_reordered(pieces: list[tuple[str, str]]) -> None:
    async def deliver() -> list[pb.ChatResponse]:
        events: list[pb.ChatResponse] = []
        merged = coalescer(events, ManualClock(), max_bytes=16)
        for kind, piece in pieces:
            merged.add(kind, piece)
        merged.flush()
        return events

    events = asyncio.run(deliver())
    assert characters((e.WhichOneof("event") or "", e.text or e.reasoning) for e in events) == (
        characters(pieces)
    )


def characters(pieces: object) -> list[tuple[str, str]]:
    return [(kind, c) for kind, piece in pieces for c in piece]  # type: ignore[attr-defined]


async def test_what_is_voided_does_not_count_for_the_next_pieces() -> None:
    events: list[pb.ChatResponse] = []
    merged = coalescer(events, ManualClock(), max_bytes=8)
    merged.add("text", "a")
    merged.add("text", "voided")
    merged.discard()
    merged.add("text", "new")
    assert [event.text for event in events] == ["a"]
    merged.flush()


async def test_gathered_text_is_measured_in_bytes() -> None:
    events: list[pb.ChatResponse] = []
    merged = coalescer(events, ManualClock(), max_bytes=8)
    merged.add("text", "a")
    merged.add("text", "日本語")
    assert [event.text for event in events] == ["a", "日本語"]
