"""Courses of events to put before the oracle and before Kubernetes' own controller alike.

Made from a seed by `random()` alone, the one method whose sequence Python promises to keep, so
that what the controller once said of them can be kept without them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.autoscaler.oracle import SYNC_S, Autoscaler
from tests.autoscaler.replicas import CpuSample, Observation, Pod
from tests.autoscaler.specification import specification_of

T = TypeVar("T")

COUNT = 600
METRIC = "plexus_calls_demand"
WINDOWS_S = (0, 15, 30, 60, 300)
PERIODS_S = (15, 30, 60, 120)
Json = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A manifest's `spec`, the pods at the beginning, and the world at each sync."""

    spec: Json
    replicas: int
    syncs: Sequence[Json]

    def as_json(self) -> Json:
        """Return it as the controller's harness reads it."""
        return {"spec": self.spec, "replicas": self.replicas, "syncs": self.syncs}

    def oracle_says(self) -> list[int]:
        """Return the replicas asked for after each sync."""
        autoscaler = Autoscaler(specification_of(self.spec))
        said: list[int] = []
        replicas = self.replicas
        for at, sync in enumerate(self.syncs, 1):
            now_s = at * SYNC_S
            replicas = autoscaler.sync(now_s, replicas, _observation(sync, now_s)).replicas
            said.append(replicas)
        return said


def scenarios(count: int = COUNT) -> list[Scenario]:
    """Return the same scenarios each time."""
    return [Draw(seed).scenario() for seed in range(count)]


def _observation(sync: Json, now_s: float) -> Observation:
    return Observation(
        pods=[
            Pod(
                name=pod["name"],
                phase=pod["phase"],
                ready=pod["ready"],
                started_s=now_s - pod["started_ago_s"],
                readiness_s=now_s - pod["readiness_ago_s"],
                terminating=pod["terminating"],
                cpu_request_milli=pod["cpu_request_milli"],
            )
            for pod in sync["pods"]
        ],
        status_replicas=sync["status_replicas"],
        cpu={
            name: CpuSample(
                milli=sample["milli"],
                taken_s=now_s - sample["taken_ago_s"],
                window_s=sample["window_s"],
            )
            for name, sample in sync["cpu"].items()
        },
        pod_metrics=sync["pod_metrics"],
        external=sync["external"],
    )


class Draw:
    """Draws one scenario."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._orderly = self.chance(0.5)
        """Whether pods are ready and measured, so that speed is what is looked at."""

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def number(self, low: int, high: int) -> int:
        """Return a number of `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def one(self, of: Sequence[T]) -> T:
        return of[self.number(0, len(of) - 1)]

    def scenario(self) -> Scenario:
        low = self.number(1, 4)
        spec: Json = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gateway"},
            "minReplicas": low,
            "maxReplicas": low + self.number(0, 20),
            "metrics": self._metrics(),
        }
        if self.chance(0.8):
            spec["behavior"] = self._behavior()
        load = self.number(20, 180)
        syncs: list[Json] = []
        for _ in range(self.number(1, 40)):
            load = self._next_load(load)
            syncs.append(self._sync(load))
        replicas = low if self.chance(0.4) else self.number(0 if self.chance(0.1) else 1, 20)
        return Scenario(spec, replicas, syncs)

    def _next_load(self, percent: int) -> int:
        """Stay, drift or jump."""
        if self.chance(0.4):
            return percent
        if self.chance(0.7):
            return max(0, percent + self.number(-25, 25))
        return self.number(0, 300)

    def _metrics(self) -> list[Json]:
        cpu = {"type": "Utilization", "averageUtilization": self.one((50, 65, 70, 100, 150))}
        average = {"type": "AverageValue", "averageValue": self.one(("166", "5187m", "1"))}
        known: list[Json] = [
            {"type": "Resource", "resource": {"name": "cpu", "target": cpu}},
            {"type": "Pods", "pods": {"metric": {"name": METRIC}, "target": average}},
            {"type": "External", "external": {"metric": {"name": METRIC}, "target": average}},
        ]
        chosen = [metric for metric in known if self.chance(0.5)]
        return chosen or [self.one(known)]

    def _behavior(self) -> Json:
        behavior: Json = {}
        for direction in ("scaleUp", "scaleDown"):
            if self.chance(0.8):
                behavior[direction] = self._rules()
        return behavior

    def _rules(self) -> Json:
        rules: Json = {}
        if self.chance(0.7):
            rules["stabilizationWindowSeconds"] = self.one(WINDOWS_S)
        if self.chance(0.5):
            rules["selectPolicy"] = self.one(("Max", "Min", "Min", "Disabled"))
        if self.chance(0.3):
            rules["tolerance"] = self.one(("0", "0.05", "0.3"))
        if self.chance(0.8):
            rules["policies"] = [self._policy() for _ in range(self.number(1, 3))]
        return rules

    def _policy(self) -> Json:
        kind = self.one(("Pods", "Percent"))
        value = self.number(1, 5) if kind == "Pods" else self.one((10, 25, 50, 100, 300))
        return {"type": kind, "value": value, "periodSeconds": self.one(PERIODS_S)}

    def _sync(self, load: int) -> Json:
        pods = [self._pod(at) for at in range(self.number(0 if self.chance(0.05) else 1, 12))]
        measured = [p["name"] for p in pods if self._orderly or self.chance(0.85)]
        if not self._orderly and self.chance(0.05):
            measured.append("gone")
        return {
            "status_replicas": max(1, len(pods)),
            "pods": pods,
            "cpu": {} if self.chance(0.03) else {name: self._cpu(load) for name in measured},
            "pod_metrics": {METRIC: {name: self._value(load) for name in measured}},
            "external": {METRIC: [self._value(load * len(pods))] if self.chance(0.97) else []},
        }

    def _value(self, load: int) -> int:
        return max(0, load * self.one((10, 52, 1660)) + self.number(-50, 50))

    def _cpu(self, load: int) -> Json:
        return {
            "milli": max(0, load * 7 + self.number(-30, 30)),
            "taken_ago_s": 5 if self._orderly else self.number(0, 90),
            "window_s": self.one((15, 30, 60)),
        }

    def _pod(self, at: int) -> Json:
        started_ago_s = 4000 if self._orderly else self.one((5, 40, 200, 301, 4000))
        ready = self._orderly or self.chance(0.85)
        running = self._orderly or self.chance(0.85)
        return {
            "name": f"gateway-{at}",
            "phase": "Running" if running else self.one(("Pending", "Failed", "Succeeded")),
            "ready": ready,
            "started_ago_s": started_ago_s,
            "readiness_ago_s": max(0, started_ago_s - self.one((2, 20, 29, 31, 120))),
            "terminating": not self._orderly and self.chance(0.1),
            "cpu_request_milli": self.one((500, 1000, 1000, 2000)),
        }
