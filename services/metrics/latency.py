"""Latencies of all replicas: sketches by window, kept in the process for a second, then in Redis.

Each window exists twice, by minute for windows up to two hours, by hour for longer ones. A flush
carries an id that Redis remembers, so one whose reply was lost is sent again and counts once.
A killed process loses what it had not flushed, at most `flush_interval_ms` of latencies.
"""

import asyncio
import itertools
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.redis_link import Argument, RedisLink, Script
from services.metrics.ledger import PREFIX, pairs
from services.metrics.sketch import Sketch, bin_of

MINUTE_S: Final = 60
HOUR_S: Final = 3600
MINUTES_UP_TO_S: Final = 2 * HOUR_S
"""Longer windows are read by hour, and begin on the hour."""

KEEP_S: Final = 90_000
"""Windows expire after a day and an hour."""

COUNTS_PER_FLUSH: Final = 1000
"""So many counters go into one script, so that Redis is not held up for long."""

MAX_COUNTERS: Final = 50_000
"""Counters that wait for Redis; observations that need a further one are dropped and counted."""

KEYS_PER_READ: Final = 8

_SEPARATOR: Final = "\x1f"
_TAG: Final = f"{PREFIX}:{{latency}}"

# KEYS: the flush's own id, then windows. ARGV: lifetime, then (window, field, count) each.
_ADD: Final = Script("""\
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', 3600) then return 0 end
for i = 2, #ARGV, 3 do
  redis.call('HINCRBY', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
end
for i = 2, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return 1
""")


class Series(NamedTuple):
    """What was measured: "stage", "time_to_first_token" or "duration", and whose it is."""

    kind: str
    name: str


class _Counter(NamedTuple):
    """One bin of one series in one minute of Unix time."""

    minute: int
    series: Series
    bin_index: int


@dataclass(frozen=True, slots=True)
class _Flush:
    """Counts on their way to Redis. Sent again, unchanged, until Redis has them."""

    flush_id: str
    counts: Mapping[_Counter, int]


@dataclass(frozen=True, kw_only=True)
class LatencyStatistics:
    """A snapshot; the dropped never go down."""

    waiting_counters: int
    dropped: int


class Latencies:
    """Observes, flushes and reads. `observe` never waits; the others raise RedisUnavailable."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._fresh: dict[_Counter, int] = {}
        self._in_doubt: _Flush | None = None
        self._in_turn = asyncio.Lock()
        self._dropped = 0

    def observe(self, series: Series, value_ms: float, *, at_s: int) -> None:
        """Count one latency at a moment of Unix time."""
        counter = _Counter(at_s // MINUTE_S, series, bin_of(value_ms))
        count = self._fresh.get(counter, 0)
        if count or len(self._fresh) < MAX_COUNTERS:
            self._fresh[counter] = count + 1
        else:
            self._dropped += 1

    async def flush(self) -> None:
        """Bring what was observed so far to Redis, once. What fails is kept for the next time."""
        async with self._in_turn:
            for _ in range(2 + len(self._fresh) // COUNTS_PER_FLUSH):
                if self._in_doubt is None:
                    self._in_doubt = self._cut()
                if self._in_doubt.counts:
                    await self._send(self._in_doubt)
                self._in_doubt = None

    async def read(self, *, until_s: int, window_s: int) -> dict[Series, Sketch]:
        """Merge what all replicas observed in the window, this one's latest included."""
        await self.flush()
        found: dict[Series, Sketch] = {}
        keys = list(_windows(until_s, window_s))
        for start in range(0, len(keys), KEYS_PER_READ):
            some = keys[start : start + KEYS_PER_READ]
            for reply in await self._link.execute_many([("HGETALL", key) for key in some]):
                for field, count in pairs(reply):
                    kind, name, index = field.decode().split(_SEPARATOR)
                    sketch = found.setdefault(Series(kind, name), Sketch())
                    sketch.merge({int(index): int(count)})
        return found

    def statistics(self) -> LatencyStatistics:
        """A snapshot."""
        in_doubt = len(self._in_doubt.counts) if self._in_doubt is not None else 0
        return LatencyStatistics(
            waiting_counters=len(self._fresh) + in_doubt, dropped=self._dropped
        )

    def _cut(self) -> _Flush:
        """Take the next counts to send; what is observed meanwhile gathers anew."""
        some = list(itertools.islice(self._fresh, COUNTS_PER_FLUSH))
        counts = {counter: self._fresh.pop(counter) for counter in some}
        return _Flush(secrets.token_hex(12), counts)

    async def _send(self, flush: _Flush) -> None:
        windows: dict[str, int] = {}
        arguments: list[Argument] = [KEEP_S]
        for counter, count in flush.counts.items():
            field = _SEPARATOR.join((*counter.series, str(counter.bin_index)))
            hour = counter.minute * MINUTE_S // HOUR_S
            for window in (_window("m", counter.minute), _window("h", hour)):
                # The flush's own id is KEYS[1].
                arguments += [windows.setdefault(window, len(windows) + 2), field, count]
        await self._link.run(
            _ADD, keys=[f"{_TAG}:f:{flush.flush_id}", *windows], arguments=arguments
        )


def _windows(until_s: int, window_s: int) -> Iterator[str]:
    """The keys that cover the window, the current minute or hour included."""
    kind, step_s = ("m", MINUTE_S) if window_s <= MINUTES_UP_TO_S else ("h", HOUR_S)
    last = until_s // step_s
    yield from (_window(kind, last - back) for back in range(-(-window_s // step_s)))


def _window(kind: str, number: int) -> str:
    return f"{_TAG}:{kind}:{number}"
