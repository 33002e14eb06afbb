"""Ids sort by time, and each tenant has points of its own."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.testing.clock import ManualClock
from services.memory.ids import (
    IdClock,
    canonical_id,
    derived_id,
    fingerprint,
    point_id,
    record_point,
    time_ordered_id,
)

moments = st.integers(min_value=0, max_value=2**53)
bits = st.integers(min_value=0, max_value=2**62 - 1)


@given(moments, bits, moments, bits)
def test_ids_compare_as_their_moments_do(a_us: int, a: int, b_us: int, b: int) -> None:
    first, second = time_ordered_id(a_us, a), time_ordered_id(b_us, b)
    if a_us != b_us:
        assert (first < second) == (a_us < b_us)
    assert uuid.UUID(first).version == 7
    assert canonical_id(first) == first


@given(st.uuids(), st.uuids())
def test_points_keep_the_order_of_time_and_differ_by_tenant(a: uuid.UUID, b: uuid.UUID) -> None:
    first, second = point_id("t", str(a)), point_id("t", str(b))
    if a.int >> 64 != b.int >> 64:
        assert (first < second) == (a < b)
    assert (first == second) == (a == b)
    assert point_id("u", str(a)) != first


def test_creation_times_never_repeat_though_the_clock_stands() -> None:
    ids = IdClock(ManualClock())
    times = [ids.next_us() for _ in range(5)]
    first_us = ids.reserve_us(10)
    assert times == list(range(times[0], times[0] + 5))
    assert (first_us, ids.next_us()) == (times[-1] + 1, times[-1] + 11)


@pytest.mark.parametrize("text", ["", "x", "{12345678-1234-5678-1234-567812345678}", "g" * 32])
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|invalid"):
        canonical_id(text)


def test_spellings_of_one_uuid_are_one_id() -> None:
    assert canonical_id("ABCDEF00123456781234567812345678") == canonical_id(
        "abcdef00-1234-5678-1234-567812345678"
    )


def test_parts_cannot_be_shifted_into_one_another() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert record_point("ab", "c") != record_point("a", "bc")
    assert derived_id(5, "ab", "c") != derived_id(5, "a", "bc")
    assert derived_id(5, "a") == derived_id(5, "a")
