"""Checks on requests: exact bounds, and the field named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, Reason
from mesh.validation import check_bytes, check_count, page_size, require


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 12), st.integers(0, 40))
def test_bytes_are_counted_as_utf8(text: str, low: int, high: int) -> None:
    if low <= len(text.encode()) <= high:
        check_bytes(text, "name", low=low, high=high)
    else:
        with pytest.raises(InvalidArgument, match="name: must be"):
            check_bytes(text, "name", low=low, high=high)


def test_a_failure_names_the_field() -> None:
    with pytest.raises(InvalidArgument) as caught:
        require(False, "scope.tenant", "must be empty")
    assert caught.value.reason == Reason.INVALID_FIELD
    assert caught.value.violations == (("scope.tenant", "must be empty"),)
    require(True, "scope.tenant", "must be empty")


def test_counts_include_both_bounds() -> None:
    for count in (1, 2, 3):
        check_count(count, "items", low=1, high=3)
    for count in (0, 4):
        with pytest.raises(InvalidArgument, match=f"has {count}"):
            check_count(count, "items", low=1, high=3)


def test_page_sizes_are_coerced() -> None:
    assert [page_size(n, default=50, high=100) for n in (0, 1, 100, 999)] == [50, 1, 100, 100]
    with pytest.raises(InvalidArgument):
        page_size(-1, default=50, high=100)
