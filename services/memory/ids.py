"""Ids that sort by time, and the points they are stored under.

A memory's id is a UUID of version 7 whose sub-millisecond bits carry microseconds, so that ids
made here compare as creation times do. A caller may bring any UUID of its own.

The id is not the point's id in the store: two tenants may use the same id, and neither may see,
block or overwrite the other's item. A point keeps the id's time half and replaces the rest by a
digest of tenant and id, so each tenant has an id space of its own.
"""

import hashlib
import secrets
import uuid
from collections.abc import Callable

from mesh.clock import Clock

_RANDOM_BITS = 62
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_VARIANT = 0b10 << _RANDOM_BITS
_VERSION_7 = 7 << 76
_TIME_MASK = (1 << 48) - 1


def time_ordered_id(time_us: int, random_bits: int) -> str:
    """Return the UUIDv7 of a moment in microseconds since 1970; the moment is kept exactly."""
    milliseconds, rest_us = divmod(time_us, 1000)
    # 1000 values fit the 12 bits after the version and keep their order when scaled.
    fraction = rest_us * 4096 // 1000
    number = (milliseconds & _TIME_MASK) << 80 | _VERSION_7 | fraction << 64
    return str(uuid.UUID(int=number | _VARIANT | random_bits & _RANDOM_MASK))


def canonical_id(text: str) -> str:
    """Return a UUID in its one spelling; raise ValueError for anything else."""
    if len(text) not in (32, 36):
        raise ValueError("not a UUID")
    return str(uuid.UUID(text))


def point_id(tenant: str, memory_id: str) -> str:
    """Return the point under which the tenant's item is stored."""
    number = int(memory_id.replace("-", ""), 16)
    own = int.from_bytes(_digest("item", tenant, memory_id)[:8], "big") & _RANDOM_MASK
    return str(uuid.UUID(int=(number >> 64) << 64 | _VARIANT | own))


def record_point(tenant: str, name: str) -> str:
    """Return the point of one of the store's own records, such as an idempotency receipt."""
    return str(uuid.UUID(bytes=_digest("record", tenant, name), version=5))


def derived_id(base_us: int, *parts: str) -> str:
    """Return the id that these parts always have at this moment: for repeatable writes."""
    return time_ordered_id(base_us, int.from_bytes(_digest("derived", *parts)[:8], "big"))


def fingerprint(*parts: str | bytes) -> str:
    """Return 32 hex digits that differ when any part differs."""
    return _digest("fingerprint", *parts).hex()


def _digest(use: str, *parts: str | bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16, person=use.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()


class IdClock:
    """Creation times that never repeat within a process, and the ids that go with them."""

    def __init__(
        self, clock: Clock, *, random_bits: Callable[[int], int] = secrets.randbits
    ) -> None:
        self._clock = clock
        self._random_bits = random_bits
        self._last_us = 0

    def now_us(self) -> int:
        """Return the time in microseconds since 1970, without issuing it."""
        return self._clock.time_ns() // 1000

    def next_us(self) -> int:
        """Return a creation time later than every one before it, also when the clock stands."""
        return self.reserve_us(1)

    def reserve_us(self, count: int) -> int:
        """Return the first of `count` creation times in a row."""
        first_us = max(self.now_us(), self._last_us + 1)
        self._last_us = first_us + count - 1
        return first_us

    def new_id(self, created_us: int) -> str:
        """Return a fresh id for an item of that creation time."""
        return time_ordered_id(created_us, self._random_bits(_RANDOM_BITS))
