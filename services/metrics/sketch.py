"""A histogram of latencies whose percentiles add up: merged, it is as if one process had seen all.

Bins grow by 2^(1/32), so any percentile is right to within 1.1 %. The same bins are an
OpenTelemetry exponential histogram at scale 5 and a Prometheus native histogram of schema 5.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

BINS_PER_DOUBLING: Final = 32
BASE: Final = 2 ** (1 / BINS_PER_DOUBLING)

RELATIVE_ERROR: Final = (BASE - 1) / (BASE + 1)
"""How far a percentile may be from the value observed: about 1.08 %."""

LOWEST_BIN: Final = -20 * BINS_PER_DOUBLING
HIGHEST_BIN: Final = 40 * BINS_PER_DOUBLING
"""Values outside count as the outermost bins: in milliseconds, a nanosecond and 34 years. This
bounds a sketch to 1,921 bins."""


class Sketch:
    """Counts of values by bin. Merging is commutative and associative, and loses nothing."""

    __slots__ = ("bins",)

    def __init__(self, bins: Mapping[int, int] | None = None) -> None:
        self.bins: dict[int, int] = dict(bins or {})

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value; what is not above zero counts as the smallest."""
        index = bin_of(value)
        self.bins[index] = self.bins.get(index, 0) + count

    def merge(self, bins: Mapping[int, int]) -> None:
        """Add another sketch's counts."""
        for index, count in bins.items():
            self.bins[index] = self.bins.get(index, 0) + count

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.bins.values())

    def quantiles(self, shares: Iterable[float]) -> list[float]:
        """Return the value at each share of the sorted observations, ascending shares; 0 if none.

        The value at share q is that of rank ceil(q * count), as in a sorted list.
        """
        ordered = sorted(self.bins.items())
        total = self.count
        found: list[float] = []
        seen, position = 0, -1
        for share in shares:
            rank = max(1, math.ceil(share * total))
            while seen < rank and position + 1 < len(ordered):
                position += 1
                seen += ordered[position][1]
            found.append(value_of(ordered[position][0]) if ordered else 0.0)
        return found


def bin_of(value: float) -> int:
    """Return the bin of a value: bin i holds those above BASE^(i-1) and up to BASE^i."""
    if not value > 0:
        return LOWEST_BIN
    if value == math.inf:
        return HIGHEST_BIN
    index = math.ceil(math.log2(value) * BINS_PER_DOUBLING)
    return max(LOWEST_BIN, min(HIGHEST_BIN, index))


def value_of(index: int) -> float:
    """Return the value that stands for a bin: the one with the smallest relative error."""
    return 2 * BASE**index / (BASE + 1)
