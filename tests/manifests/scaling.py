"""Rules about autoscalers and disruption budgets."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.manifests.kustomize import Object
from tests.manifests.objects import (
    COMPONENTS,
    containers,
    environment,
    name,
    named,
    of_kind,
    selected,
)

LOWEST, HIGHEST = 0.6, 0.7
"""How much of the admission limit an autoscaler may aim at."""
DEMAND = "plexus_calls_demand"
STREAMS_S = 300


@dataclass(frozen=True)
class Autoscaler:
    """An HPA, or what KEDA makes one of."""

    found: Object
    target: str
    kind: str
    low: int
    high: int
    behavior: Object
    demand: float | None
    uses_cpu: bool


def autoscalers(objects: list[Object]) -> list[Autoscaler]:
    """Return all of them in one form."""
    of_kubernetes = [_hpa(o) for o in of_kind(objects, "HorizontalPodAutoscaler")]
    return of_kubernetes + [_scaled_object(o) for o in of_kind(objects, "ScaledObject")]


def _hpa(found: Object) -> Autoscaler:
    spec = found["spec"]
    pods = [m["pods"] for m in spec["metrics"] if m["type"] == "Pods"]
    demands = [float(m["target"]["averageValue"]) for m in pods if m["metric"]["name"] == DEMAND]
    return Autoscaler(
        found=found,
        target=spec["scaleTargetRef"]["name"],
        kind=spec["scaleTargetRef"]["kind"],
        low=spec["minReplicas"],
        high=spec["maxReplicas"],
        behavior=spec.get("behavior", {}),
        demand=demands[0] if demands else None,
        uses_cpu=any(m["type"] == "Resource" for m in spec["metrics"]),
    )


def _scaled_object(found: Object) -> Autoscaler:
    spec = found["spec"]
    demands = [
        float(t["metadata"]["threshold"]) for t in spec["triggers"] if t["type"] == "prometheus"
    ]
    return Autoscaler(
        found=found,
        target=spec["scaleTargetRef"]["name"],
        kind=spec["scaleTargetRef"].get("kind", "Deployment"),
        low=spec["minReplicaCount"],
        high=spec["maxReplicaCount"],
        behavior=spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        demand=demands[0] if demands else None,
        uses_cpu=any(t["type"] == "cpu" for t in spec["triggers"]),
    )


def targets(objects: list[Object]) -> Iterator[str]:
    """Each component has one autoscaler, and its Deployment leaves the number of pods to it."""
    scalers = autoscalers(objects)
    for scaler in scalers:
        who = name(scaler.found)
        deployment = named(objects, "Deployment", scaler.target)
        if scaler.kind != "Deployment" or deployment is None:
            yield f"{who}: there is no {scaler.kind} {scaler.target} to scale"
            continue
        if "replicas" in deployment["spec"]:
            yield f"{who}: every apply would reset the number of pods"
        for container in containers(deployment):
            if "cpu" not in container["resources"]["requests"]:
                yield f"{who}: {container['name']} requests no CPU"
        if not scaler.low < scaler.high:
            yield f"{who}: cannot scale from {scaler.low} to {scaler.high}"
        if not scaler.uses_cpu:
            yield f"{who}: does not see CPU"
    if sorted(scaler.target for scaler in scalers) != sorted(COMPONENTS):
        yield f"autoscaled are {sorted(scaler.target for scaler in scalers)}"


def behavior(objects: list[Object]) -> Iterator[str]:
    """Up at once; down one pod or a tenth a minute, after longer than streams last."""
    for scaler in autoscalers(objects):
        up, down = scaler.behavior.get("scaleUp", {}), scaler.behavior.get("scaleDown", {})
        who = name(scaler.found)
        if up.get("stabilizationWindowSeconds") != 0 or not up.get("policies"):
            yield f"{who}: its way up is not said"
        if down.get("stabilizationWindowSeconds", 0) < STREAMS_S:
            yield f"{who}: comes down before streams end"
        for policy in down.get("policies", [{"periodSeconds": 0}]):
            slow = policy["periodSeconds"] >= 60
            few = policy.get("value", 100) <= {"Pods": 1, "Percent": 10}.get(policy.get("type"), 0)
            if not slow or not few:
                yield f"{who}: comes down faster than streams drain"


def demand(objects: list[Object]) -> Iterator[str]:
    """What is aimed at is below the admission limit, far enough for the next pod to come."""
    for scaler in autoscalers(objects):
        deployment = named(objects, "Deployment", scaler.target)
        if scaler.demand is None or deployment is None:
            continue
        (container,) = containers(deployment)
        limit = int(environment(objects, container)["PLEXUS_MAX_CONCURRENT_CALLS"])
        if not LOWEST <= scaler.demand / limit <= HIGHEST:
            yield f"{name(scaler.found)}: aims at {scaler.demand} of {limit} calls"


def budgets(objects: list[Object]) -> Iterator[str]:
    """A budget is of one workload, and leaves a pod serving and a pod to evict."""
    for budget in of_kind(objects, "PodDisruptionBudget"):
        who, spec = name(budget), budget["spec"]
        found = selected(objects, spec.get("selector"))
        if len(found) != 1:
            yield f"{who}: is of {len(found)} workloads"
            continue
        if found[0]["kind"] == "StatefulSet":
            continue
        lows = [s.low for s in autoscalers(objects) if s.target == found[0]["metadata"]["name"]]
        if not all(spec.get("maxUnavailable", low) < low for low in lows):
            yield f"{who}: lets every pod go at once"
        if not all(spec.get("minAvailable", 0) < low for low in lows):
            yield f"{who}: forbids every eviction"
