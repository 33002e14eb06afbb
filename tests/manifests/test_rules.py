"""Every build keeps every rule, and every rule can fail."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import configuration, network, pods, scaling, schema
from tests.manifests.conftest import ALTERNATIVES, Built
from tests.manifests.kustomize import K8S, Object
from tests.manifests.objects import COMPONENTS, name, named, of_kind

BROKEN = Path(__file__).with_name("broken.yaml")

Rule = Callable[[list[Object]], Iterator[str]]

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        *(pods.restricted, pods.namespaces, pods.probes, pods.resources, pods.volumes),
        *(pods.rollout, pods.drain, pods.images),
        *(scaling.targets, scaling.behavior, scaling.demand, scaling.budgets),
        *(network.services, network.addresses, network.policies, network.scraping),
        *(configuration.variables, configuration.references),
        *(configuration.secrets, configuration.queries),
    )
}


def test_every_component_is_in_a_combination(folders: set[str]) -> None:
    assert folders == {name for names in ALTERNATIVES for name in names}


def test_every_overlay_is_built(built: Built) -> None:
    overlays = {f"overlays/{path.name}" for path in (K8S / "overlays").iterdir()}
    assert overlays <= set(built)


def test_every_object_is_valid(built: Built) -> None:
    distinct = {repr(found): found for objects in built.values() for found in objects}
    assert [p for found in distinct.values() for p in schema.problems(found)] == []


@pytest.mark.parametrize("rule", RULES)
def test_every_build_keeps(rule: str, built: Built) -> None:
    found = {build: list(RULES[rule](objects)) for build, objects in built.items()}
    assert {build: problems for build, problems in found.items() if problems} == {}


def test_a_production_mesh_has_what_it_needs(built: Built) -> None:
    objects = built["overlays/prod"]
    budgets = {found["metadata"]["name"] for found in of_kind(objects, "PodDisruptionBudget")}
    assert budgets == {*COMPONENTS, "qdrant", "redis"}
    demanding = {s.target for s in scaling.autoscalers(objects) if s.demand}
    assert demanding == {"gateway", "router", "cache"}
    assert of_kind(objects, "NetworkPolicy")
    assert of_kind(objects, "PrometheusRule")


def test_keda_and_the_adapter_ask_for_the_same(built: Built) -> None:
    def asked(build: str) -> dict[str, tuple[int, int, float | None]]:
        return {s.target: (s.low, s.high, s.demand) for s in scaling.autoscalers(built[build])}

    assert asked("base + keda") == asked("base + custom-metrics-hpa")


@dataclass(frozen=True, kw_only=True)
class Break:
    """One way to break the production overlay, and what a rule says to it."""

    rule: str
    of: str
    path: tuple[str | int, ...]
    value: object
    says: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.of} {'.'.join(map(str, self.path))}"

    def apply(self, objects: list[Object]) -> None:
        """Set the value."""
        found: Any = named(objects, *self.of.split("/"))
        assert found is not None, f"nothing to break: {self.of}"
        *steps, last = self.path
        for step in steps:
            found = found[step]
        found[last] = self.value


def breaks() -> list[Break]:
    """Read broken.yaml."""
    entries: list[dict[str, Any]] = yaml.safe_load(BROKEN.read_text())
    return [
        Break(rule=e["rule"], of=e["of"], path=tuple(e["in"]), value=e["set"], says=e["says"])
        for e in entries
    ]


@pytest.mark.parametrize("broken", breaks(), ids=str)
def test_a_rule_fails_on_what_breaks_it(broken: Break, prod: list[Object]) -> None:
    rule = RULES[broken.rule]
    assert list(rule(prod)) == []
    broken.apply(prod)
    problems = list(rule(prod))
    assert any(broken.says in problem for problem in problems), problems


def test_every_rule_but_one_is_broken_here() -> None:
    # `queries` looks at KEDA's objects, which are broken in the test below.
    assert set(RULES) - {broken.rule for broken in breaks()} == {"queries"}


def test_a_query_of_another_namespace_is_found(built: Built) -> None:
    (found, *_) = [
        {**o, "metadata": {**o["metadata"], "namespace": "other"}}
        for o in of_kind(built["base + keda"], "ScaledObject")
    ]
    assert list(configuration.queries([found])) == [f"{name(found)}: looks into plexus"] * 2


def test_a_misspelt_field_is_invalid(prod: list[Object]) -> None:
    deployment = named(prod, "Deployment", "cache")
    monitor = named(prod, "PodMonitor", "plexus")
    assert deployment is not None
    assert monitor is not None
    deployment["spec"]["minReadySecond"] = 5
    monitor["spec"]["podMetricsEndpoint"] = []
    assert "minReadySecond" in schema.problems(deployment)[0]
    assert "podMetricsEndpoint" in schema.problems(monitor)[0]
