"""How many pods one metric asks for: Kubernetes' replica calculator.

`ceil(ratio * pods)` with `ratio = value / target`, unless the ratio is within the tolerance. What
is not known is guessed against the change: a pod whose metric is missing counts as at its
target when there would be fewer pods, as idle when there would be more; one that is not ready yet
counts as idle when there would be more. A guess may stop a change, and never turns it round.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.autoscaler.specification import (
    DEFAULT_TOLERANCE,
    CpuTarget,
    ExternalTarget,
    PodsTarget,
    Target,
)

CPU_START_S = 300.0
"""For so long after its start a pod's CPU counts only if measured after it became ready."""
FIRST_READY_S = 30.0
"""A pod that is not ready and last changed this soon after its start was never ready."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What the controller looks at. Times are on the control clock."""

    name: str
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Running"
    ready: bool = True
    started_s: float = -math.inf
    readiness_s: float = -math.inf
    """When `ready` became what it is."""
    terminating: bool = False
    cpu_request_milli: int = 1000


@dataclass(frozen=True, kw_only=True)
class CpuSample:
    """Thousandths of a core used over the `window_s` before `taken_s`."""

    milli: int
    taken_s: float
    window_s: float = 30.0


def _none() -> Mapping[str, Mapping[str, int]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the metrics APIs and the pod list say at one sync. Metrics are in thousandths."""

    pods: Sequence[Pod]
    status_replicas: int
    """Pods that exist according to the Deployment's status."""
    cpu: Mapping[str, CpuSample] = field(default_factory=dict[str, CpuSample])
    pod_metrics: Mapping[str, Mapping[str, int]] = field(default_factory=_none)
    external: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far from 1 a ratio may be without an effect."""

    down: float = DEFAULT_TOLERANCE
    up: float = DEFAULT_TOLERANCE

    def hold(self, ratio: float) -> bool:
        """Whether nothing is to be done."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


class NoMetrics(Exception):
    """A metric says nothing, so nothing can be computed from it."""


Values = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class _Groups:
    counted: int
    unready: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


def replicas_for(
    target: Target, current: int, seen: Observation, tolerances: Tolerances, now_s: float
) -> int:
    """Return what one metric asks for; raise NoMetrics if it cannot be told."""
    match target:
        case CpuTarget():
            return _for_cpu(target, current, seen, tolerances, now_s)
        case PodsTarget():
            return _for_pods_metric(target, current, seen, tolerances)
        case ExternalTarget():
            return _for_external(target, seen, tolerances)


def _for_pods_metric(
    target: PodsTarget, current: int, seen: Observation, tolerances: Tolerances
) -> int:
    values = seen.pod_metrics.get(target.metric, {})
    groups = _groups(seen.pods, values, lambda pod: False)
    return _per_pod(
        current,
        values,
        groups,
        tolerances,
        ratio=lambda known: (sum(known.values()) // len(known)) / target.milli,
        at_target=lambda pod: target.milli,
    )


def _for_cpu(
    target: CpuTarget, current: int, seen: Observation, tolerances: Tolerances, now_s: float
) -> int:
    requests = {pod.name: pod.cpu_request_milli for pod in seen.pods}
    values = {name: sample.milli for name, sample in seen.cpu.items()}
    groups = _groups(seen.pods, values, lambda pod: _starting(pod, seen.cpu[pod.name], now_s))
    return _per_pod(
        current,
        values,
        groups,
        tolerances,
        ratio=lambda known: _utilization(known, requests) / target.percent,
        # A whole request even where the target is less: what is unknown may be the busiest.
        at_target=lambda pod: requests[pod] * max(100, target.percent) // 100,
    )


def _for_external(target: ExternalTarget, seen: Observation, tolerances: Tolerances) -> int:
    values = seen.external.get(target.metric, ())
    if not values:
        raise NoMetrics(target.metric)
    total, pods = sum(values), seen.status_replicas
    if pods and tolerances.hold(total / (target.milli * pods)):
        return pods
    return math.ceil(total / target.milli)


def _utilization(known: Values, requests: Values) -> int:
    """Return whole per cents, rounded down, over the pods that exist."""
    used = sum(value for name, value in known.items() if name in requests)
    requested = sum(requests[name] for name in known if name in requests)
    if requested == 0:
        raise NoMetrics("cpu")
    return used * 100 // requested


def _starting(pod: Pod, sample: CpuSample, now_s: float) -> bool:
    """Whether a pod's CPU is that of its start and says nothing of its load."""
    if pod.started_s + CPU_START_S > now_s:
        return not pod.ready or sample.taken_s < pod.readiness_s + sample.window_s
    return not pod.ready and pod.started_s + FIRST_READY_S > pod.readiness_s


def _groups(pods: Sequence[Pod], values: Values, starting: Callable[[Pod], bool]) -> _Groups:
    unready: set[str] = set()
    missing: set[str] = set()
    ignored: set[str] = set()
    counted = 0
    for pod in pods:
        if pod.terminating or pod.phase == "Failed":
            ignored.add(pod.name)
        elif pod.phase == "Pending":
            unready.add(pod.name)
        elif pod.name not in values:
            missing.add(pod.name)
        elif starting(pod):
            unready.add(pod.name)
        else:
            counted += 1
    return _Groups(
        counted=counted,
        unready=frozenset(unready),
        missing=frozenset(missing),
        ignored=frozenset(ignored),
    )


def _per_pod(
    current: int,
    values: Values,
    groups: _Groups,
    tolerances: Tolerances,
    *,
    ratio: Callable[[Values], float],
    at_target: Callable[[str], int],
) -> int:
    left_out = groups.ignored | groups.unready
    known = {name: value for name, value in values.items() if name not in left_out}
    if not known:
        raise NoMetrics("no pod that counts has the metric")
    first = ratio(known)
    more_are_coming = bool(groups.unready) and first > 1.0
    if not more_are_coming and not groups.missing:
        return current if tolerances.hold(first) else math.ceil(first * groups.counted)
    guessed = dict(known)
    if first < 1.0:
        guessed |= {name: at_target(name) for name in groups.missing}
    elif first > 1.0:
        guessed |= dict.fromkeys(groups.missing, 0)
    if more_are_coming:
        guessed |= dict.fromkeys(groups.unready, 0)
    return _unless_turned_round(current, first, ratio(guessed), len(guessed), tolerances)


def _unless_turned_round(
    current: int, first: float, guessed: float, pods: int, tolerances: Tolerances
) -> int:
    if tolerances.hold(guessed) or (first - 1.0) * (guessed - 1.0) < 0.0:
        return current
    wanted = math.ceil(guessed * pods)
    if (guessed < 1.0 and wanted > current) or (guessed > 1.0 and wanted < current):
        return current
    return wanted
