"""Our own manifests, as far as the gateway's autoscaling depends on them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.autoscaler.specification import (
    PodsTarget,
    Specification,
    quantity,
    specification_of,
)
from tests.manifests.kustomize import Object, find_kustomize
from tests.manifests.objects import containers, environment, name, named

COMPONENT = "gateway"
_TERM = re.compile(r"sum\((\w+)\{<<\.LabelMatchers>>\}\) by \(<<\.GroupBy>>\)")

Read = Callable[[str], float]


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What the base with the component custom-metrics-hpa says of the gateway."""

    hpa: Object
    calls_limit: int
    queue_limit: int
    drain_grace_s: float
    cpu_request_milli: int
    series: tuple[str, ...]
    """What the adapter adds up for a pod."""

    @property
    def specification(self) -> Specification:
        """The autoscaler as it is deployed."""
        return specification_of(self.hpa["spec"])

    @property
    def demand(self) -> PodsTarget:
        """What it aims at per pod."""
        (target,) = (t for t in self.specification.targets if isinstance(t, PodsTarget))
        return target

    def demand_of(self, read: Read) -> float:
        """Return a pod's demand, with `read` giving the sum of a series that it exports."""
        return sum(map(read, self.series))


def deployed(folder: Path) -> Deployed:
    """Build the manifests in `folder` and read them."""
    built = find_kustomize().compose(folder / "overlay", "base", ("custom-metrics-hpa",))
    hpa = _one(built, "HorizontalPodAutoscaler")
    (container,) = containers(_one(built, "Deployment"))
    variables = environment(built, container)
    return Deployed(
        hpa=hpa,
        calls_limit=int(variables["PLEXUS_MAX_CONCURRENT_CALLS"]),
        queue_limit=int(variables["PLEXUS_MAX_QUEUED_CALLS"]),
        drain_grace_s=float(variables["PLEXUS_DRAIN_GRACE_S"]),
        cpu_request_milli=int(quantity(container["resources"]["requests"]["cpu"]) * 1000),
        series=_series(built, hpa),
    )


def _one(built: list[Object], kind: str) -> Object:
    found = named(built, kind, COMPONENT)
    assert found is not None, f"no {kind} {COMPONENT}"
    return found


def _series(built: list[Object], hpa: Object) -> tuple[str, ...]:
    """Return the series whose sum is the autoscaler's metric, by the adapter's rule."""
    config = named(built, "ConfigMap", "plexus-prometheus-adapter")
    assert config is not None, "no rules for the adapter"
    rules: list[Any] = yaml.safe_load(config["data"]["config.yaml"])["rules"]
    (wanted,) = (m["pods"]["metric"]["name"] for m in hpa["spec"]["metrics"] if "pods" in m)
    (query,) = (rule["metricsQuery"] for rule in rules if rule["name"]["as"] == wanted)
    terms = [_TERM.fullmatch(term.strip()) for term in query.split(" + ")]
    assert all(terms), f"{name(hpa)}: teach the tests to evaluate {query}"
    return tuple(term[1] for term in terms if term)
