"""Percentiles, spreads, means and slopes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics import (
    distribution,
    geometric_mean,
    median,
    percentile,
    slope,
    spread,
)

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


def test_a_percentile_is_one_of_the_values_at_its_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert percentile(ordered, 0.50) == 50
    assert percentile(ordered, 0.99) == 99
    assert percentile(ordered, 1.0) == 100
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) == 0


@given(VALUES)
def test_a_distribution_lies_within_its_values(values: list[float]) -> None:
    found = distribution(values)
    assert found.count == len(values)
    assert min(values) <= found.p50 <= found.p99 <= found.maximum == max(values)


def test_a_distribution_is_scaled() -> None:
    assert distribution([0.002, 0.001, 0.003], scale=1000).p50 == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("values", "middle"),
    [([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0], 2.5), ([], 0.0)],
)
def test_the_median_does_not_depend_on_order(values: list[float], middle: float) -> None:
    assert median(values) == middle
    assert median(values[::-1]) == middle


def test_one_wild_round_moves_the_spread_and_not_the_median() -> None:
    found = spread([100.0, 101.0, 3.0])
    assert (found.median, found.low, found.high) == (100.0, 3.0, 101.0)


def test_gain_and_loss_of_the_same_factor_cancel_out() -> None:
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([]) == 0
    assert geometric_mean([0.0, 4.0]) == 0


@given(
    st.floats(-100, 100),
    st.lists(st.integers(0, 1000), min_size=2, max_size=50, unique=True),
)
def test_the_slope_of_a_line_is_found(growth: float, xs: list[int]) -> None:
    points = [(float(x), growth * x + 5) for x in xs]
    assert math.isclose(slope(points), growth, rel_tol=1e-6, abs_tol=1e-6)


def test_without_two_places_there_is_no_slope() -> None:
    assert slope([(1.0, 2.0)]) == 0
    assert slope([(1.0, 2.0), (1.0, 9.0)]) == 0
