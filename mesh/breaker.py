"""A circuit breaker as a pure state machine: it decides, its owner calls.

Closed, it admits everything and counts failures in a row. At the threshold it opens and refuses, so
that a dead dependency costs its callers nothing. After `open_s` it is half open: it admits a few
probes and no more. When all of them succeed it closes; the first that fails opens it again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mesh.clock import Clock


class BreakerState(StrEnum):
    """What the breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True)
class BreakerStatistics:
    """A snapshot of a breaker; the counts never go down."""

    state: BreakerState
    failures_in_a_row: int
    successes: int
    failures: int
    refusals: int
    openings: int


def _ignore(_before: BreakerState, _after: BreakerState) -> None:
    """Observes nothing."""


class Breaker:
    """Admits calls to one dependency. Not thread-safe: it belongs to one event loop.

    After `allow()` has said yes, the caller reports with exactly one of `record_success()`,
    `record_failure()` or `abandon()`. A probe whose outcome is never reported is forgotten after
    `open_s`, so a lost report delays recovery and cannot prevent it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        failure_threshold: int = 5,
        open_s: float = 1.0,
        half_open_probes: int = 1,
        on_change: Callable[[BreakerState, BreakerState], None] = _ignore,
    ) -> None:
        """Opens after `failure_threshold` failures in a row, for `open_s`; then admits
        `half_open_probes` at a time.

        `on_change` is told of each change of state once, as (before, after).
        """
        if failure_threshold < 1 or half_open_probes < 1 or open_s <= 0:
            raise ValueError(
                "a breaker needs a threshold and probes of at least 1 and an open time above 0"
            )
        self._clock = clock
        self._failure_threshold = failure_threshold
        self._open_s = open_s
        self._half_open_probes = half_open_probes
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._changed_s = clock.monotonic_s()
        self._failures_in_a_row = 0
        self._probes_out = 0
        self._probe_successes = 0
        self._last_probe_s = 0.0
        self._successes = 0
        self._failures = 0
        self._refusals = 0
        self._openings = 0

    @property
    def state(self) -> BreakerState:
        """What the next call meets; reading it changes nothing."""
        if self._state is BreakerState.OPEN and self.retry_after_s() == 0.0:
            return BreakerState.HALF_OPEN
        return self._state

    def retry_after_s(self) -> float:
        """Seconds until the next probe is admitted; 0 unless the breaker is open."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._changed_s + self._open_s - self._clock.monotonic_s())

    def allow(self) -> bool:
        """Whether a call may be made now. A yes must be followed by a report of its outcome."""
        if self._state is BreakerState.OPEN and self.retry_after_s() == 0.0:
            self._become(BreakerState.HALF_OPEN)
        if self._state is BreakerState.CLOSED or (
            self._state is BreakerState.HALF_OPEN and self._admit_probe()
        ):
            return True
        self._refusals += 1
        return False

    def record_success(self) -> None:
        """Reports that an admitted call worked."""
        self._successes += 1
        if self._state is BreakerState.CLOSED:
            self._failures_in_a_row = 0
        elif self._take_probe():
            self._probe_successes += 1
            if self._probe_successes >= self._half_open_probes:
                self._become(BreakerState.CLOSED)

    def record_failure(self) -> None:
        """Reports that an admitted call failed in a way that speaks against the dependency."""
        self._failures += 1
        if self._state is BreakerState.CLOSED:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= self._failure_threshold:
                self._become(BreakerState.OPEN)
        elif self._take_probe():
            self._become(BreakerState.OPEN)

    def abandon(self) -> None:
        """Reports that an admitted call ended without saying anything about the dependency, as
        when it was cancelled.
        """
        self._take_probe()

    def statistics(self) -> BreakerStatistics:
        """A snapshot."""
        return BreakerStatistics(
            state=self.state,
            failures_in_a_row=self._failures_in_a_row,
            successes=self._successes,
            failures=self._failures,
            refusals=self._refusals,
            openings=self._openings,
        )

    def _admit_probe(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._probes_out and now_s - self._last_probe_s >= self._open_s:
            self._probes_out = 0
        if self._probes_out + self._probe_successes >= self._half_open_probes:
            return False
        self._probes_out += 1
        self._last_probe_s = now_s
        return True

    def _take_probe(self) -> bool:
        """Whether a report can be of a probe: reports of calls admitted before the breaker opened
        come late and say nothing about the dependency as it is now.
        """
        if self._state is not BreakerState.HALF_OPEN or self._probes_out == 0:
            return False
        self._probes_out -= 1
        return True

    def _become(self, after: BreakerState) -> None:
        before, self._state = self._state, after
        self._changed_s = self._clock.monotonic_s()
        self._probes_out = 0
        self._probe_successes = 0
        if after is BreakerState.OPEN:
            self._openings += 1
        if after is BreakerState.CLOSED:
            self._failures_in_a_row = 0
        self._on_change(before, after)
