"""How often a key was asked for lately, roughly and in little space (TinyLFU's sketch)."""

from typing import Final

ROWS: Final = 4
MAX_COUNT: Final = 15
SAMPLES_PER_COUNTER: Final = 10
"""After this many additions per counter all counts are halved, so that the past fades."""


class FrequencySketch:
    """A count-min sketch of 4-bit counters, two to a byte. Estimates are never below the truth
    of the recent past, up to 15. Keys must be uniformly distributed bytes, such as digests.
    """

    def __init__(self, *, counters: int) -> None:
        """Use `counters` counters per row, rounded up to a power of two."""
        width = 1 << max(3, (counters - 1).bit_length())
        self._mask = width - 1
        self._rows = [bytearray(width // 2) for _ in range(ROWS)]
        self._additions = 0
        self._sample = width * SAMPLES_PER_COUNTER

    def add(self, key: bytes) -> None:
        """Count one request for `key`."""
        for row, index in zip(self._rows, self._indexes(key), strict=True):
            shift = (index & 1) * 4
            pair = row[index >> 1]
            if (pair >> shift) & MAX_COUNT < MAX_COUNT:
                row[index >> 1] = pair + (1 << shift)
        self._additions += 1
        if self._additions >= self._sample:
            self._age()

    def estimate(self, key: bytes) -> int:
        """Return how often `key` was added lately, 0 to 15."""
        return min(
            (row[index >> 1] >> (index & 1) * 4) & MAX_COUNT
            for row, index in zip(self._rows, self._indexes(key), strict=True)
        )

    def _indexes(self, key: bytes) -> list[int]:
        """The digest's own bits pick the counters; no hashing is needed."""
        return [int.from_bytes(key[4 * row : 4 * row + 4]) & self._mask for row in range(ROWS)]

    def _age(self) -> None:
        self._additions //= 2
        for row in self._rows:
            # Halves both counters of each byte: shift, then drop the bit that crossed over.
            row[:] = row.translate(_HALVED)


_HALVED: Final = bytes((pair >> 1) & 0x77 for pair in range(256))
