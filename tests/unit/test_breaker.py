"""The breaker keeps its promises for every order of events."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.breaker import Breaker, BreakerState
from mesh.testing.clock import ManualClock

THRESHOLD = 3
OPEN_S = 10.0
EVENTS = st.lists(
    st.one_of(
        st.sampled_from(["call", "success", "failure", "abandon"]),
        st.floats(min_value=0.0, max_value=15.0, allow_nan=False),
    ),
    max_size=80,
)


def advance(clock: ManualClock, delay_s: float) -> None:
    """Move time without a loop: nobody sleeps on this clock, so `advance` only yields."""
    step = clock.advance(delay_s)
    with contextlib.suppress(StopIteration):
        while True:
            step.send(None)


def make(
    clock: ManualClock, *, probes: int = 1
) -> tuple[Breaker, list[tuple[BreakerState, BreakerState]]]:
    changes: list[tuple[BreakerState, BreakerState]] = []
    breaker = Breaker(
        clock,
        failure_threshold=THRESHOLD,
        open_s=OPEN_S,
        half_open_probes=probes,
        on_change=lambda before, after: changes.append((before, after)),
    )
    return breaker, changes


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.allow()
        breaker.record_failure()


def test_opens_at_the_threshold_and_not_before() -> None:
    breaker, changes = make(ManualClock())
    fail(breaker, THRESHOLD - 1)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allow()
    assert changes == [(BreakerState.CLOSED, BreakerState.OPEN)]


def test_a_success_starts_the_count_again() -> None:
    breaker, _ = make(ManualClock())
    for _ in range(10):
        fail(breaker, THRESHOLD - 1)
        assert breaker.allow()
        breaker.record_success()
    assert breaker.state is BreakerState.CLOSED


def test_half_open_admits_its_probes_and_no_more() -> None:
    clock = ManualClock()
    breaker, _ = make(clock, probes=2)
    fail(breaker, THRESHOLD)
    advance(clock, OPEN_S)
    assert breaker.state is BreakerState.HALF_OPEN
    assert [breaker.allow() for _ in range(5)] == [True, True, False, False, False]
    breaker.record_success()
    assert not breaker.allow()
    breaker.record_success()
    assert breaker.state is BreakerState.CLOSED


def test_a_failed_probe_opens_for_the_whole_time_again() -> None:
    clock = ManualClock()
    breaker, _ = make(clock)
    fail(breaker, THRESHOLD)
    advance(clock, OPEN_S)
    fail(breaker, 1)
    assert breaker.retry_after_s() == OPEN_S
    advance(clock, OPEN_S - 0.5)
    assert not breaker.allow()
    advance(clock, 0.5)
    assert breaker.allow()


def test_an_abandoned_probe_frees_its_place() -> None:
    clock = ManualClock()
    breaker, _ = make(clock)
    fail(breaker, THRESHOLD)
    advance(clock, OPEN_S)
    assert breaker.allow()
    assert not breaker.allow()
    breaker.abandon()
    assert breaker.allow()


def test_a_probe_that_never_reports_is_forgotten() -> None:
    clock = ManualClock()
    breaker, _ = make(clock)
    fail(breaker, THRESHOLD)
    advance(clock, OPEN_S)
    assert breaker.allow()
    advance(clock, OPEN_S)
    assert breaker.allow()


def test_late_reports_say_nothing() -> None:
    clock = ManualClock()
    breaker, changes = make(clock)
    assert breaker.allow()
    fail(breaker, THRESHOLD)
    breaker.record_success()
    assert breaker.state is BreakerState.OPEN
    advance(clock, OPEN_S)
    breaker.record_failure()
    assert breaker.state is BreakerState.HALF_OPEN
    assert len(changes) == 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        Breaker(ManualClock(), failure_threshold=0)
    with pytest.raises(ValueError, match="open time"):
        Breaker(ManualClock(), open_s=0.0)


@given(events=EVENTS, probes=st.integers(min_value=1, max_value=4))
def test_every_history_keeps_the_promises(events: list[str | float], probes: int) -> None:
    clock = ManualClock()
    breaker, changes = make(clock, probes=probes)
    refused_until_s = 0.0
    admitted_half_open = 0
    for event in events:
        before = breaker.state
        if isinstance(event, float):
            advance(clock, event)
            admitted_half_open = 0  # lost probes may have been forgotten
            continue
        if event == "call":
            if breaker.allow():
                assert clock.monotonic_s() >= refused_until_s, "admitted while open"
                admitted_half_open += before is BreakerState.HALF_OPEN
        elif event == "success":
            breaker.record_success()
        elif event == "failure":
            breaker.record_failure()
        else:
            breaker.abandon()
        if event != "call" or breaker.state is not BreakerState.HALF_OPEN:
            admitted_half_open = 0
        assert admitted_half_open <= probes
        if before is not BreakerState.OPEN and breaker.state is BreakerState.OPEN:
            refused_until_s = clock.monotonic_s() + OPEN_S
        if before is BreakerState.CLOSED and breaker.state is BreakerState.CLOSED:
            assert breaker.statistics().failures_in_a_row < THRESHOLD
    allowed = {
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("half_open", "closed"),
    }
    assert {(str(before), str(after)) for before, after in changes} <= allowed
    assert all(left[1] == right[0] for left, right in zip(changes, changes[1:], strict=False))


@given(st.lists(st.booleans(), max_size=60))
def test_a_dependency_that_works_again_is_always_found(outcomes: list[bool]) -> None:
    clock = ManualClock()
    breaker, _ = make(clock)
    for works in outcomes:
        if breaker.allow():
            breaker.record_success() if works else breaker.record_failure()
        advance(clock, OPEN_S / 4)
    for _ in range(5):
        if breaker.allow():
            breaker.record_success()
        advance(clock, OPEN_S)
    assert breaker.state is BreakerState.CLOSED
