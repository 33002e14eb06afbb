"""A deployment: one model at one provider, and how it fares."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mesh.breaker import Breaker, BreakerState, BreakerStatistics
from mesh.clock import Clock
from services.router.failure import UpstreamFailure, Verdict

LONGEST_PARKING_S = 300.0
"""How long a Retry-After keeps later requests away at most: a lying header ends no deployment."""

UNTOLD_PARKING_S = 1.0
"""How long a throttled deployment is left alone that does not say how long."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One model at one provider. `context_window_tokens` is 0 when unknown."""

    provider: str
    model: str
    context_window_tokens: int = 0

    @property
    def name(self) -> str:
        """The name that requests use: "provider/model"."""
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """What a routing decision needs to know of a deployment's health at one moment."""

    breaker: BreakerState = BreakerState.CLOSED
    breaker_retry_after_s: float = 0.0
    parked_for_s: float = 0.0


class Health:
    """What is known of one deployment across requests: its breaker, and its Retry-After."""

    def __init__(self, clock: Clock, *, failure_threshold: int, open_s: float) -> None:
        self._clock = clock
        self.breaker = Breaker(clock, failure_threshold=failure_threshold, open_s=open_s)
        self._parked_until_s = clock.monotonic_s()

    def fitness(self) -> Fitness:
        """Return the state as of now; takes no probe."""
        return Fitness(
            breaker=self.breaker.state,
            breaker_retry_after_s=self.breaker.retry_after_s(),
            parked_for_s=max(0.0, self._parked_until_s - self._clock.monotonic_s()),
        )

    def record_success(self) -> None:
        """Note an attempt that gave a whole answer."""
        self.breaker.record_success()

    def record_failure(self, failure: UpstreamFailure) -> None:
        """Note an attempt that failed; its kind decides what that says."""
        verdict = failure.rule.verdict
        parked_s = failure.retry_after_s
        if parked_s is None and verdict is Verdict.BUSY:
            parked_s = UNTOLD_PARKING_S
        if parked_s:
            until_s = self._clock.monotonic_s() + min(parked_s, LONGEST_PARKING_S)
            self._parked_until_s = max(self._parked_until_s, until_s)
        if verdict is Verdict.ILL:
            self.breaker.record_failure()
        elif verdict is Verdict.WELL:
            self.breaker.record_success()
        else:
            self.breaker.abandon()

    def statistics(self) -> BreakerStatistics:
        """Return the breaker's snapshot."""
        return self.breaker.statistics()


class HealthBook:
    """The health of every deployment asked lately; the longest unused gives way to a new one."""

    def __init__(
        self, clock: Clock, *, failure_threshold: int, open_s: float, capacity: int = 256
    ) -> None:
        self._clock = clock
        self._failure_threshold = failure_threshold
        self._open_s = open_s
        self._capacity = capacity
        self._health: OrderedDict[Deployment, Health] = OrderedDict()

    def of(self, deployment: Deployment) -> Health:
        """Return the deployment's health, a fresh one at first."""
        health = self._health.get(deployment)
        if health is None:
            health = Health(
                self._clock, failure_threshold=self._failure_threshold, open_s=self._open_s
            )
            self._health[deployment] = health
            if len(self._health) > self._capacity:
                self._health.popitem(last=False)
        self._health.move_to_end(deployment)
        return health

    def fitness(self, deployments: Sequence[Deployment]) -> dict[Deployment, Fitness]:
        """Return how the deployments fare now."""
        return {deployment: self.of(deployment).fitness() for deployment in deployments}

    def statistics(self) -> Mapping[str, BreakerStatistics]:
        """Return the breakers' snapshots by deployment name."""
        return {deployment.name: health.statistics() for deployment, health in self._health.items()}
