"""Percentiles: how exact they are, and that merging changes nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metrics.sketch import (
    HIGHEST_BIN,
    LOWEST_BIN,
    RELATIVE_ERROR,
    Sketch,
    bin_of,
    value_of,
)

LATENCIES = st.floats(min_value=1e-3, max_value=1e7)
SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.observe(value)
    return sketch


@given(st.lists(LATENCIES, min_size=1, max_size=300))
def test_every_percentile_is_within_the_stated_error_of_the_sorted_list(
    values: list[float],
) -> None:
    found = sketch_of(values).quantiles(SHARES)
    ordered = sorted(values)
    for share, estimate in zip(SHARES, found, strict=True):
        true = ordered[max(1, math.ceil(share * len(ordered))) - 1]
        assert abs(estimate - true) <= true * RELATIVE_ERROR * (1 + 1e-9)


def test_the_stated_error_is_about_one_percent() -> None:
    assert 0.0107 < RELATIVE_ERROR < 0.0109


BINS = st.dictionaries(st.integers(LOWEST_BIN, HIGHEST_BIN), st.integers(1, 10**6), max_size=40)


@given(BINS, BINS, BINS)
def test_merging_is_commutative_and_associative(
    a: dict[int, int], b: dict[int, int], c: dict[int, int]
) -> None:
    def merged(*parts: dict[int, int]) -> dict[int, int]:
        sketch = Sketch()
        for part in parts:
            sketch.merge(part)
        return sketch.bins

    assert merged(a, b, c) == merged(c, b, a) == merged(merged(a, b), c) == merged(a, merged(b, c))


@given(st.lists(LATENCIES, max_size=100), st.lists(LATENCIES, max_size=100))
def test_two_processes_merged_are_one_process(left: list[float], right: list[float]) -> None:
    sketch = sketch_of(left)
    sketch.merge(sketch_of(right).bins)
    assert sketch.bins == sketch_of(left + right).bins
    assert sketch.count == len(left) + len(right)


@given(st.integers(LOWEST_BIN, HIGHEST_BIN))
def test_a_bins_value_falls_into_the_bin(index: int) -> None:
    assert bin_of(value_of(index)) == index


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, math.nan])
def test_what_is_too_small_counts_as_the_smallest(value: float) -> None:
    assert bin_of(value) == LOWEST_BIN


@pytest.mark.parametrize("value", [1e300, math.inf])
def test_what_is_too_large_counts_as_the_largest(value: float) -> None:
    assert bin_of(value) == HIGHEST_BIN


def test_an_empty_sketch_says_zero() -> None:
    assert Sketch().quantiles((0.5, 0.99)) == [0.0, 0.0]
