"""The few statistics that the benchmark reports. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How a measured quantity is spread, in the unit of its values; zeros without values."""

    count: int
    p50: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of several rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending values; 0 without any."""
    if not ordered:
        return 0.0
    rank = math.ceil(share * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def distribution(values: Sequence[float], *, scale: float = 1.0) -> Distribution:
    """Return the distribution of values times `scale`."""
    ordered = sorted(values)
    return Distribution(
        count=len(ordered),
        p50=percentile(ordered, 0.50) * scale,
        p99=percentile(ordered, 0.99) * scale,
        maximum=ordered[-1] * scale if ordered else 0.0,
    )


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle; 0 without any."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if not ordered:
        return 0.0
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest; zeros without values."""
    if not values:
        return Spread(median=0.0, low=0.0, high=0.0)
    return Spread(median=median(values), low=min(values), high=max(values))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean that suits ratios; 0 without values, or when one of them is 0."""
    if not values or min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return by how much y grows per x, by least squares; 0 for fewer than two distinct x."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    square = sum((x - mean_x) ** 2 for x, _ in points)
    if square == 0:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / square
