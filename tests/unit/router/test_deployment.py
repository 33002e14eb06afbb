"""What one request's failure means for the next."""

import pytest

from mesh.breaker import BreakerState
from mesh.testing.clock import ManualClock
from services.router.deployment import (
    LONGEST_PARKING_S,
    UNTOLD_PARKING_S,
    Deployment,
    Health,
    HealthBook,
)
from services.router.failure import FailureKind, UpstreamFailure

K = FailureKind


@pytest.fixture
def health() -> Health:
    return Health(ManualClock(), failure_threshold=1, open_s=5.0)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (K.TRANSIENT, BreakerState.OPEN),
        (K.SILENT, BreakerState.OPEN),
        (K.KEY_FATAL, BreakerState.OPEN),
        (K.KEY_THROTTLED, BreakerState.CLOSED),
        (K.REQUEST_FATAL, BreakerState.CLOSED),
        (K.POLICY_REFUSAL, BreakerState.CLOSED),
        (K.CONTEXT_TOO_LONG, BreakerState.CLOSED),
        (K.MODEL_MISSING, BreakerState.CLOSED),
    ],
)
def test_only_illness_opens_the_breaker(
    health: Health, kind: FailureKind, state: BreakerState
) -> None:
    assert health.breaker.allow()
    health.record_failure(UpstreamFailure(kind))
    assert health.fitness().breaker is state


@pytest.mark.parametrize(
    ("retry_after_s", "parked_s"),
    [(7.0, 7.0), (None, UNTOLD_PARKING_S), (0.0, 0.0), (1e9, LONGEST_PARKING_S)],
)
def test_a_throttled_deployment_is_parked_as_told(
    health: Health, retry_after_s: float | None, parked_s: float
) -> None:
    health.record_failure(UpstreamFailure(K.KEY_THROTTLED, retry_after_s=retry_after_s))
    assert health.fitness().parked_for_s == pytest.approx(parked_s)


async def test_parking_ends_and_a_shorter_one_does_not_cut_a_longer() -> None:
    clock = ManualClock()
    health = Health(clock, failure_threshold=5, open_s=1.0)
    health.record_failure(UpstreamFailure(K.KEY_THROTTLED, retry_after_s=7.0))
    health.record_failure(UpstreamFailure(K.KEY_THROTTLED, retry_after_s=1.0))
    await clock.advance(6.0)
    assert health.fitness().parked_for_s == pytest.approx(1.0)
    await clock.advance(1.0)
    assert health.fitness().parked_for_s == 0.0


def test_the_book_is_bounded_and_forgets_the_longest_unused() -> None:
    book = HealthBook(ManualClock(), failure_threshold=1, open_s=5.0, capacity=2)
    first, second, third = (Deployment(provider="p", model=name) for name in "abc")
    kept = book.of(first)
    book.of(second)
    assert book.of(first) is kept
    book.of(third)
    assert set(book.statistics()) == {first.name, third.name}
