"""The in-process level: bounded in bytes, exact about expiry, hard to flush by a scan.

A segmented LRU: entries enter on probation, a second use protects them, and what protection has
no room for goes back on probation. When a new entry needs room, it must have been asked for at
least as often as each entry that it would push out.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mesh.clock import Clock
from services.cache.frequency import FrequencySketch

T = TypeVar("T")

PROTECTED_SHARE: Final = 0.8
"""The share of the bytes that protected entries may take."""

ENTRY_OVERHEAD_BYTES: Final = 512
"""Added to each entry's weight: its key, its objects and its places in the tables."""

TYPICAL_ENTRY_BYTES: Final = 2048
"""How many counters the sketch gets: one for each entry of this size that would fit."""


@dataclass(frozen=True, kw_only=True)
class LocalStatistics:
    """A snapshot; counts never go down."""

    entries: int
    weight_bytes: int
    hits: int
    misses: int
    evictions: int
    rejections: int
    expirations: int


@dataclass(slots=True)
class _Entry(Generic[T]):
    value: T
    weight: int
    expires_s: float


class LocalLevel(Generic[T]):
    """Values by digest. Pure but for the clock; not thread-safe."""

    def __init__(self, clock: Clock, *, max_bytes: int) -> None:
        """Hold at most `max_bytes`, overhead included; 0 holds nothing."""
        self._clock = clock
        self._max_bytes = max_bytes
        self._protected_bytes = int(max_bytes * PROTECTED_SHARE)
        self._probation: OrderedDict[bytes, _Entry[T]] = OrderedDict()
        self._protected: OrderedDict[bytes, _Entry[T]] = OrderedDict()
        self._sketch = FrequencySketch(counters=max(64, max_bytes // TYPICAL_ENTRY_BYTES))
        self._weight = 0
        self._protected_weight = 0
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        self._rejections = 0
        self._expirations = 0

    def get(self, key: bytes) -> T | None:
        """Return the value unless it expired, and count the request either way."""
        self._sketch.add(key)
        entry = self._find(key)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        if key in self._protected:
            self._protected.move_to_end(key)
        else:
            self._protect(key, entry)
        return entry.value

    def put(self, key: bytes, value: T, *, size_bytes: int, ttl_s: float) -> bool:
        """Hold the value for `ttl_s`; False when it was not worth the room."""
        self.discard(key)
        weight = size_bytes + ENTRY_OVERHEAD_BYTES
        if ttl_s <= 0 or weight > self._max_bytes or not self._make_room(key, weight):
            self._rejections += 1
            return False
        expires_s = self._clock.monotonic_s() + ttl_s
        self._probation[key] = _Entry(value, weight, expires_s)
        self._weight += weight
        return True

    def discard(self, key: bytes) -> None:
        """Forget the value, if any."""
        entry = self._probation.pop(key, None)
        if entry is None:
            entry = self._protected.pop(key, None)
            if entry is None:
                return
            self._protected_weight -= entry.weight
        self._weight -= entry.weight

    def statistics(self) -> LocalStatistics:
        """A snapshot."""
        return LocalStatistics(
            entries=len(self._probation) + len(self._protected),
            weight_bytes=self._weight,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            rejections=self._rejections,
            expirations=self._expirations,
        )

    def _find(self, key: bytes) -> _Entry[T] | None:
        entry = self._protected.get(key) or self._probation.get(key)
        if entry is not None and self._is_expired(entry):
            self._expirations += 1
            self.discard(key)
            return None
        return entry

    def _is_expired(self, entry: _Entry[T]) -> bool:
        return entry.expires_s <= self._clock.monotonic_s()

    def _protect(self, key: bytes, entry: _Entry[T]) -> None:
        del self._probation[key]
        self._protected[key] = entry
        self._protected_weight += entry.weight
        while self._protected_weight > self._protected_bytes and len(self._protected) > 1:
            demoted_key, demoted = self._protected.popitem(last=False)
            self._protected_weight -= demoted.weight
            self._probation[demoted_key] = demoted

    def _make_room(self, key: bytes, weight: int) -> bool:
        """Evict for a newcomer, all or nothing; False when it would push out something better."""
        excess = self._weight + weight - self._max_bytes
        if excess <= 0:
            return True
        asked = self._sketch.estimate(key)
        victims: list[bytes] = []
        for segment in (self._probation, self._protected):
            for victim, entry in segment.items():
                if excess <= 0:
                    break
                if not self._is_expired(entry) and self._sketch.estimate(victim) > asked:
                    return False
                victims.append(victim)
                excess -= entry.weight
        for victim in victims:
            self.discard(victim)
        self._evictions += len(victims)
        return True
