"""An autoscaler of `autoscaling/v2` as a pure function of what it saw and the time it is told.

A port of Kubernetes' horizontal pod autoscaler (1.36) and its defaults: `specification` reads a
manifest, `replicas` computes what each metric asks for, `speed` bounds how fast that is followed.
It is a model: no API, no scheduler, no adapter between a metric and the controller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.autoscaler import speed
from tests.autoscaler.replicas import NoMetrics, Observation, Tolerances, replicas_for
from tests.autoscaler.specification import (
    DEFAULT_DOWN_WINDOW_S,
    Behavior,
    Specification,
    Target,
)

SYNC_S = 15.0
"""How often the controller looks."""
COARSE_FACTOR, COARSE_LEAST = 2, 4
"""Without a `behavior`: pods may double in one sync, or become four."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one sync decided."""

    replicas: int
    asked: int | None
    """What the metrics asked for; None when they did not decide."""
    silent: tuple[Target, ...] = ()
    """Metrics that said nothing."""


class Autoscaler:
    """One HorizontalPodAutoscaler. Call `sync` every 15 s with the pods that are asked for now."""

    def __init__(self, specification: Specification) -> None:
        self._spec = specification
        self._history = speed.History()

    def sync(self, now_s: float, current: int, seen: Observation) -> Decision:
        """Return how many pods there shall be; `now_s` must not go back."""
        self._history.begin(now_s, current)
        decision = self._decide(now_s, current, seen)
        if decision.replicas != current:
            self._history.changed(now_s, current, decision.replicas, self._spec.behavior)
        return decision

    def _decide(self, now_s: float, current: int, seen: Observation) -> Decision:
        if current == 0:
            return Decision(replicas=0, asked=None)
        if not self._spec.low <= current <= self._spec.high:
            return Decision(replicas=self._within_bounds(current), asked=None)
        asked, silent = self._asked(now_s, current, seen)
        all_silent = len(silent) == len(self._spec.targets)
        if all_silent or (silent and asked < current):
            return Decision(replicas=current, asked=None, silent=silent)
        wanted = self._slowed(now_s, current, asked)
        return Decision(replicas=wanted, asked=asked, silent=silent)

    def _within_bounds(self, replicas: int) -> int:
        return min(max(replicas, self._spec.low), self._spec.high)

    def _asked(
        self, now_s: float, current: int, seen: Observation
    ) -> tuple[int, tuple[Target, ...]]:
        """Return the most that a metric asks for, and the metrics that say nothing."""
        asked: list[int] = []
        silent: list[Target] = []
        tolerances = _tolerances(self._spec.behavior)
        for target in self._spec.targets:
            try:
                asked.append(replicas_for(target, current, seen, tolerances, now_s))
            except NoMetrics:
                silent.append(target)
        return max(asked, default=0), tuple(silent)

    def _slowed(self, now_s: float, current: int, asked: int) -> int:
        behavior = self._spec.behavior
        if behavior is None:
            return self._slowed_without_rules(now_s, current, asked)
        wanted = speed.stabilized(self._history, now_s, current, asked, behavior)
        if wanted > current:
            return min(
                wanted, self._spec.high, speed.most(self._history, now_s, current, behavior.up)
            )
        if wanted < current:
            return max(
                wanted, self._spec.low, speed.least(self._history, now_s, current, behavior.down)
            )
        return current

    def _slowed_without_rules(self, now_s: float, current: int, asked: int) -> int:
        wanted = speed.stabilized_without_rules(self._history, now_s, asked, DEFAULT_DOWN_WINDOW_S)
        most = min(self._spec.high, max(COARSE_FACTOR * current, COARSE_LEAST))
        return min(max(wanted, self._spec.low), most)


def _tolerances(behavior: Behavior | None) -> Tolerances:
    if behavior is None:
        return Tolerances()
    return Tolerances(down=behavior.down.tolerance, up=behavior.up.tolerance)


def directions(replicas: Sequence[int]) -> int:
    """Return how often a course turns round, from up to down or from down to up."""
    steps = [after - before for before, after in zip(replicas, replicas[1:], strict=False)]
    moves = [step > 0 for step in steps if step]
    return sum(before != after for before, after in zip(moves, moves[1:], strict=False))
