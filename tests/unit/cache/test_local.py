"""The in-process level: its bounds, its clock, its judgement."""

import contextlib
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from mesh.testing.clock import ManualClock
from services.cache.frequency import MAX_COUNT, FrequencySketch
from services.cache.local import ENTRY_OVERHEAD_BYTES, LocalLevel

ENTRY = 1000


def key(name: object) -> bytes:
    return hashlib.blake2b(str(name).encode(), digest_size=32).digest()


def advance(clock: ManualClock, delay_s: float) -> None:
    step = clock.advance(delay_s)
    with contextlib.suppress(StopIteration):
        while True:
            step.send(None)


def room_for(entries: int) -> int:
    return entries * (ENTRY + ENTRY_OVERHEAD_BYTES)


def put(level: LocalLevel[str], name: object, *, ttl_s: float = 100.0) -> bool:
    return level.put(key(name), str(name), size_bytes=ENTRY, ttl_s=ttl_s)


def test_an_entry_ends_exactly_at_its_time() -> None:
    clock = ManualClock()
    level: LocalLevel[str] = LocalLevel(clock, max_bytes=room_for(10))
    assert put(level, "a", ttl_s=5.0)
    advance(clock, 4.999)
    assert level.get(key("a")) == "a"
    advance(clock, 0.001)
    assert level.get(key("a")) is None
    assert level.statistics().expirations == 1
    assert level.statistics().weight_bytes == 0


def test_replacing_an_entry_restarts_its_time_and_counts_its_weight_once() -> None:
    clock = ManualClock()
    level: LocalLevel[str] = LocalLevel(clock, max_bytes=room_for(10))
    put(level, "a", ttl_s=5.0)
    advance(clock, 4.0)
    put(level, "a", ttl_s=5.0)
    advance(clock, 4.0)
    assert level.get(key("a")) == "a"
    assert level.statistics().weight_bytes == room_for(1)


def test_a_scan_does_not_flush_what_is_used() -> None:
    level: LocalLevel[str] = LocalLevel(ManualClock(), max_bytes=room_for(20))
    for name in range(10):
        put(level, name)
    for _ in range(3):
        assert all(level.get(key(name)) for name in range(10))
    for name in range(1000, 6000):
        level.get(key(name))
        put(level, name)
    assert all(level.get(key(name)) for name in range(10))


def test_what_is_asked_for_more_often_wins_its_place() -> None:
    level: LocalLevel[str] = LocalLevel(ManualClock(), max_bytes=room_for(2))
    for name in ("a", "b"):
        put(level, name)
        level.get(key(name))
    assert not put(level, "c"), "never asked for, it pushes nobody out"
    for _ in range(3):
        level.get(key("c"))
    assert put(level, "c")
    assert level.get(key("c")) == "c"


def test_an_entry_larger_than_everything_is_refused_and_pushes_nobody_out() -> None:
    level: LocalLevel[str] = LocalLevel(ManualClock(), max_bytes=room_for(3))
    put(level, "a")
    assert not level.put(key("big"), "big", size_bytes=room_for(3), ttl_s=1.0)
    assert level.get(key("a")) == "a"


def test_a_level_of_no_bytes_holds_nothing() -> None:
    level: LocalLevel[str] = LocalLevel(ManualClock(), max_bytes=0)
    assert not put(level, "a")
    assert level.get(key("a")) is None


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "get", "discard", "advance"]),
        st.integers(0, 12),
        st.integers(0, 3000),
    ),
    max_size=120,
)


@given(OPERATIONS)
def test_weight_never_exceeds_the_limit_and_no_value_outlives_its_time(
    operations: list[tuple[str, int, int]],
) -> None:
    clock = ManualClock()
    limit = 10_000
    level: LocalLevel[int] = LocalLevel(clock, max_bytes=limit)
    model: dict[int, tuple[int, float]] = {}
    for number, (operation, name, amount) in enumerate(operations):
        if operation == "put":
            model.pop(name, None)
            if level.put(key(name), number, size_bytes=amount, ttl_s=amount / 100):
                model[name] = (number, clock.monotonic_s() + amount / 100)
        elif operation == "get":
            found = level.get(key(name))
            if found is not None:
                assert model[name][0] == found
                assert clock.monotonic_s() < model[name][1]
        elif operation == "discard":
            level.discard(key(name))
            model.pop(name, None)
        else:
            advance(clock, amount / 100)
        statistics = level.statistics()
        assert statistics.weight_bytes <= limit
        assert statistics.entries * ENTRY_OVERHEAD_BYTES <= statistics.weight_bytes or (
            statistics.entries == 0 and statistics.weight_bytes == 0
        )


@given(st.lists(st.integers(0, 30), max_size=300))
def test_a_sketch_never_underestimates_the_recent_past(names: list[int]) -> None:
    sketch = FrequencySketch(counters=256)
    for name in names:
        sketch.add(key(name))
    for name in set(names):
        assert sketch.estimate(key(name)) >= min(names.count(name), MAX_COUNT)


def test_the_past_fades() -> None:
    sketch = FrequencySketch(counters=8)
    for _ in range(12):
        sketch.add(key("a"))
    before = sketch.estimate(key("a"))
    for number in range(80):
        sketch.add(key(number))
    assert sketch.estimate(key("a")) < MAX_COUNT
    assert before >= 12
