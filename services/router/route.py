"""The routing decision, as a state machine without I/O: what failed, what is left, what next.

A `Route` lives for one request. Its owner asks `decide`, does what it says, and reports what
failed. The caller's one deadline is shared: an attempt may be silent for its part of what is
left, so that a provider that says nothing costs a part and never the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mesh.breaker import BreakerState
from mesh.errors import InvalidArgument, PlexusError, Reason, ResourceExhausted, Unavailable
from services.router.deployment import Deployment, Fitness
from services.router.failure import (
    Exclusion,
    FailureKind,
    UpstreamFailure,
    interrupted,
    out_of_time,
    to_error,
)

FIRST_BACKOFF_S = 0.2
"""The pause before a deployment that failed in passing is asked again; doubles each time."""

LONGEST_BACKOFF_S = 1.0
"""Longer pauses were asked for by the provider, and are kept to exactly."""

PROBE_RETRY_S = 1.0
"""When to come back while another request's probe of the only deployment is out."""

ESTIMATE_MARGIN = 1.25
"""A prompt is refused for size only when its estimate exceeds the window by this factor."""


@dataclass(frozen=True, kw_only=True)
class RoutePolicy:
    """The bounds of one request."""

    max_attempts: int = 3
    max_attempts_per_deployment: int = 2
    first_token_timeout_s: float = 30.0
    max_wait_s: float = 30.0
    restart_mid_stream: bool = True


@dataclass(frozen=True, kw_only=True)
class Try:
    """Call this deployment; give up on it when `silence_s` pass without content."""

    deployment: Deployment
    silence_s: float
    why: str
    is_restart: bool


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Ask again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Tell the caller."""

    error: PlexusError


Action = Try | Wait | GiveUp


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A deployment as the route sees it now."""

    deployment: Deployment
    eligible: bool
    why: str


class Route:
    """One request's way through its candidates. Times are seconds on a monotonic clock."""

    def __init__(
        self,
        candidates: Sequence[Deployment],
        policy: RoutePolicy,
        *,
        estimated_tokens: int,
        deadline_s: float,
    ) -> None:
        self.candidates = tuple(dict.fromkeys(candidates))
        self._policy = policy
        self._estimated_tokens = estimated_tokens
        self._deadline_s = deadline_s
        self._tries = dict.fromkeys(self.candidates, 0)
        self._not_before_s = dict.fromkeys(self.candidates, 0.0)
        self._excluded = {
            candidate: "its context window is too small for this prompt"
            for candidate in self.candidates
            if self._overflows(candidate)
        }
        self._last: tuple[Deployment, UpstreamFailure] | None = None
        self._has_output = False

    @property
    def attempts(self) -> int:
        """Attempts made so far."""
        return sum(self._tries.values())

    def decide(
        self, now_s: float, fitness: Mapping[Deployment, Fitness], *, jitter: float = 0.0
    ) -> Action:
        """Return what to do now. A `Try` counts as made; `jitter` in 0..1 spreads retries."""
        if now_s >= self._deadline_s:
            return GiveUp(error=self._deadline_error())
        if self._must_stop():
            return GiveUp(error=self._final_error(None, fitness))
        delays = self._delays(now_s, fitness, jitter)
        ready = [candidate for candidate, delay_s in delays.items() if delay_s <= 0.0]
        if ready:
            chosen = min(ready, key=self._tries.__getitem__)
            left_s = self._deadline_s - now_s
            others = sum(delay_s < left_s for delay_s in self._awaitable(delays, fitness)) - 1
            return self._try(chosen, now_s, others)
        return self._wait_or_give_up(now_s, delays, fitness)

    def failed(
        self, deployment: Deployment, failure: UpstreamFailure, now_s: float, *, has_output: bool
    ) -> None:
        """Report how a `Try` ended. `has_output`: whether the caller saw something of it."""
        self._last = (deployment, failure)
        self._has_output = self._has_output or has_output
        self._exclude(deployment, failure)
        backoff_s = FIRST_BACKOFF_S * 2 ** (self._tries[deployment] - 1)
        self._not_before_s[deployment] = now_s + max(backoff_s, failure.retry_after_s or 0.0)

    def withdraw(self, deployment: Deployment) -> None:
        """Report that a `Try` was not made after all: another request took the last probe."""
        self._tries[deployment] -= 1
        self._excluded[deployment] = "its breaker is half open and its probe is taken"

    def explain(self, now_s: float, fitness: Mapping[Deployment, Fitness]) -> list[Candidate]:
        """Return the candidates in the order they would be tried, refused ones last."""
        delays = self._delays(now_s, fitness, 0.0)
        seen = [self._explain_one(c, delays, fitness) for c in self.candidates]
        return sorted(seen, key=lambda candidate: not candidate.eligible)

    def _try(self, deployment: Deployment, now_s: float, others: int) -> Try:
        why = self._why(deployment)
        self._tries[deployment] += 1
        return Try(
            deployment=deployment,
            silence_s=self._share_s(now_s, others),
            why=why,
            is_restart=self._has_output,
        )

    def _share_s(self, now_s: float, others: int) -> float:
        """What this attempt may wait of what is left, so that the others can follow it."""
        further = min(self._policy.max_attempts - self.attempts, others)
        share_s = (self._deadline_s - now_s) / (1 + further)
        return min(self._policy.first_token_timeout_s, share_s)

    def _why(self, deployment: Deployment) -> str:
        if self._last is None:
            return "first choice" if deployment == self.candidates[0] else "earlier ones are unfit"
        failed, failure = self._last
        if failed == deployment:
            return f"again after {failure.kind}"
        return f"{failed.name} failed: {failure.kind}"

    def _delays(
        self, now_s: float, fitness: Mapping[Deployment, Fitness], jitter: float
    ) -> dict[Deployment, float]:
        """Return the seconds until each remaining candidate may be asked."""
        remaining = (
            c
            for c in self.candidates
            if c not in self._excluded and self._tries[c] < self._policy.max_attempts_per_deployment
        )
        return {c: self._delay_s(c, now_s, fitness.get(c, Fitness()), jitter) for c in remaining}

    def _delay_s(
        self, candidate: Deployment, now_s: float, fitness: Fitness, jitter: float
    ) -> float:
        own_s = self._not_before_s[candidate] - now_s if self._tries[candidate] else 0.0
        backoff_s = own_s * (1 + jitter) if 0 < own_s <= LONGEST_BACKOFF_S else own_s
        return max(backoff_s, fitness.parked_for_s, fitness.breaker_retry_after_s)

    def _awaitable(
        self, delays: Mapping[Deployment, float], fitness: Mapping[Deployment, Fitness]
    ) -> list[float]:
        """Return the delays that are worth a wait: for an open breaker nobody waits."""
        return [
            delay_s
            for candidate, delay_s in delays.items()
            if fitness.get(candidate, Fitness()).breaker is not BreakerState.OPEN
            and delay_s <= self._policy.max_wait_s
        ]

    def _wait_or_give_up(
        self,
        now_s: float,
        delays: Mapping[Deployment, float],
        fitness: Mapping[Deployment, Fitness],
    ) -> Action:
        """Wait for a Retry-After or a backoff if the deadline allows it."""
        delay_s = min(self._awaitable(delays, fitness), default=None)
        if delay_s is None or now_s + delay_s >= self._deadline_s:
            return GiveUp(error=self._final_error(min(delays.values(), default=None), fitness))
        return Wait(delay_s=delay_s)

    def _must_stop(self) -> bool:
        if self._has_output and not self._policy.restart_mid_stream:
            return True
        return self.attempts >= self._policy.max_attempts

    def _exclude(self, deployment: Deployment, failure: UpstreamFailure) -> None:
        why = f"{deployment.name} failed: {failure.kind}"
        for candidate in self.candidates:
            if _is_excluded(candidate, deployment, failure, self._estimated_tokens):
                self._excluded.setdefault(candidate, why)

    def _overflows(self, candidate: Deployment) -> bool:
        window = candidate.context_window_tokens
        return bool(window) and self._estimated_tokens > window * ESTIMATE_MARGIN

    def _deadline_error(self) -> PlexusError:
        return out_of_time(self._last[0].name if self._last else "")

    def _final_error(
        self, retry_after_s: float | None, fitness: Mapping[Deployment, Fitness]
    ) -> PlexusError:
        if self._last is None:
            return self._untried_error(retry_after_s, fitness)
        deployment, failure = self._last
        lasting = (FailureKind.POLICY_REFUSAL, FailureKind.REQUEST_FATAL)
        if self._has_output and failure.kind not in lasting:
            return interrupted(deployment.name, failure.detail or failure.kind)
        return to_error(failure, deployment.name, retry_after_s=retry_after_s)

    def _untried_error(
        self, retry_after_s: float | None, fitness: Mapping[Deployment, Fitness]
    ) -> PlexusError:
        """Return the error of a request that no deployment was asked for."""
        if all(self._overflows(candidate) for candidate in self.candidates):
            return InvalidArgument(
                f"the prompt of about {self._estimated_tokens} tokens exceeds the context window "
                "of every candidate; shorten it",
                reason=Reason.CONTEXT_TOO_LONG,
            )
        names = ", ".join(candidate.name for candidate in self.candidates)
        if any(state.parked_for_s > 0 for state in fitness.values()):
            return ResourceExhausted(
                f"the provider asked to be left alone for a while: {names}",
                reason=Reason.UPSTREAM_RATE_LIMITED,
                retry_after_s=retry_after_s,
            )
        return Unavailable(
            f"no deployment is asked now, they failed too often: {names}",
            reason=Reason.UPSTREAM_UNAVAILABLE,
            retry_after_s=PROBE_RETRY_S if retry_after_s is None else retry_after_s,
        )

    def _explain_one(
        self,
        candidate: Deployment,
        delays: Mapping[Deployment, float],
        fitness: Mapping[Deployment, Fitness],
    ) -> Candidate:
        if candidate in self._excluded:
            return Candidate(deployment=candidate, eligible=False, why=self._excluded[candidate])
        state = fitness.get(candidate, Fitness())
        if state.breaker is BreakerState.OPEN:
            why = f"its breaker is open for another {state.breaker_retry_after_s:.1f} s"
            return Candidate(deployment=candidate, eligible=False, why=why)
        if delays.get(candidate, 0.0) > 0:
            why = f"it asked to be left alone for another {delays[candidate]:.1f} s"
            return Candidate(deployment=candidate, eligible=False, why=why)
        position = self.candidates.index(candidate) + 1
        return Candidate(deployment=candidate, eligible=True, why=f"choice {position} of its group")


def _is_excluded(
    candidate: Deployment, failed: Deployment, failure: UpstreamFailure, estimated_tokens: int
) -> bool:
    """Whether the failure of one deployment rules out a candidate, which may be the same."""
    excludes = failure.rule.excludes
    if excludes is Exclusion.PROVIDER:
        return candidate.provider == failed.provider
    if excludes is Exclusion.DEPLOYMENT:
        return candidate == failed
    if excludes is Exclusion.SMALLER_WINDOWS:
        # Only a window that is known to be larger promises another outcome.
        return candidate.context_window_tokens <= (failed.context_window_tokens or estimated_tokens)
    return excludes is Exclusion.EVERYTHING
