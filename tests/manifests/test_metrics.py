"""Every metric that an autoscaler, an alert or a dashboard names is exported by a running mesh."""

import asyncio
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.e2e.processes import NotStarted, launch
from tests.manifests import scrapes
from tests.manifests.conftest import Built
from tests.manifests.kustomize import K8S, Object
from tests.manifests.objects import COMPONENTS, name, of_kind, texts
from tests.manifests.promql import Series, groupings_of, series_of
from tests.manifests.scrapes import Scrape

TARGET_LABELS = {"namespace", "pod", "container", "job", "instance"}
"""What Prometheus adds to every sample of a pod."""
OF_PROMETHEUS = {"up"}
ADAPTER = K8S / "components" / "custom-metrics-hpa" / "adapter.yaml"

Scrapes = dict[str, Scrape]


@pytest.fixture(scope="module")
def scraped() -> Scrapes:
    """One scrape of each component of a mesh whose processes have their images' packages only."""

    async def run() -> Scrapes:
        with tempfile.TemporaryDirectory(prefix="plx-") as folder:
            async with scrapes.fenced_mesh(Path(folder)) as mesh:
                return await scrapes.scrape(mesh)

    return asyncio.run(run())


def expressions(objects: list[Object]) -> Iterator[tuple[str, str]]:
    """Yield where each query is, and the query."""
    for rule in of_kind(objects, "PrometheusRule"):
        for group in rule["spec"]["groups"]:
            for each in group["rules"]:
                yield each.get("alert") or each["record"], each["expr"]
    for scaler in of_kind(objects, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if "query" in trigger["metadata"]:
                yield name(scaler), trigger["metadata"]["query"]
    for config in of_kind(objects, "ConfigMap"):
        for file, text in config["data"].items():
            if config["metadata"].get("labels", {}).get("grafana_dashboard") == "1":
                yield from _of_dashboard(file, text)
    yield from _of_adapter()


def _of_dashboard(file: str, text: str) -> Iterator[tuple[str, str]]:
    board = json.loads(text)
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"{file}: {panel['title']}", target["expr"]
    for variable in board["templating"]["list"]:
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
        if asked:
            yield f"{file}: ${variable['name']}", f"sum by ({asked[2]}) ({asked[1]})"


def _of_adapter() -> Iterator[tuple[str, str]]:
    for rule in yaml.safe_load(ADAPTER.read_text())["rules"]:
        yield ADAPTER.name, rule["seriesQuery"]
        yield ADAPTER.name, rule["metricsQuery"]


def complaints(where: str, expression: str, scraped: Scrapes, recorded: set[str]) -> Iterator[str]:
    """Yield what an expression reads and nobody exports."""
    read = {s for s in series_of(expression) if s.name not in recorded | OF_PROMETHEUS}
    if not read and not recorded & {s.name for s in series_of(expression)}:
        yield from () if "up{" in expression else (f"{where}: reads nothing",)
    labels: set[str] = set(TARGET_LABELS)
    for series in read:
        samples = [
            labels for each in scraped.values() for labels in each.samples.get(series.name, [])
        ]
        if not samples:
            yield f"{where}: nobody exports {series.name}"
            continue
        labels |= set().union(*samples)
        yield from _unmatched(where, series, samples)
    for label in groupings_of(expression) - labels:
        if read:
            yield f"{where}: groups by {label}, which no series has"


def _unmatched(where: str, series: Series, samples: list[Mapping[str, str]]) -> Iterator[str]:
    for label, operator, value in series.matchers:
        if label in TARGET_LABELS:
            continue
        values = {sample[label] for sample in samples if label in sample}
        if not values:
            yield f"{where}: {series.name} has no label {label}"
        # Codes and verdicts that did not occur in the scrape are no mistake; components are.
        elif label == "component" and operator == "=" and "$" not in value:
            if value not in values:
                yield f"{where}: no {series.name} has {label}={value}"
        elif label == "rpc_method" and operator == "=~":
            pattern = value.replace("$component", "(?:" + "|".join(COMPONENTS) + ")")
            if not any(re.fullmatch(pattern, each) for each in values):
                yield f"{where}: no {series.name} has {label}=~{value}"


def recorded_in(objects: list[Object]) -> set[str]:
    """Return the names that recording rules make."""
    groups = [g for rule in of_kind(objects, "PrometheusRule") for g in rule["spec"]["groups"]]
    return {each["record"] for group in groups for each in group["rules"] if "record" in each}


@pytest.mark.timeout(90)
def test_every_metric_that_is_named_is_exported(built: Built, scraped: Scrapes) -> None:
    objects = built["base + monitoring + keda"]
    recorded = recorded_in(objects)
    found = list(expressions(objects))
    assert len(found) > 40
    assert [c for e in found for c in complaints(*e, scraped, recorded)] == []


def test_the_autoscalers_metric_is_the_adapters(built: Built) -> None:
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]
    asked = {
        metric["pods"]["metric"]["name"]
        for hpa in of_kind(built["overlays/prod"], "HorizontalPodAutoscaler")
        for metric in hpa["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    assert asked == {rule["name"]["as"] for rule in rules}
    config = next(
        found
        for found in of_kind(built["overlays/prod"], "ConfigMap")
        if found["metadata"]["name"] == "plexus-prometheus-adapter"
    )
    assert yaml.safe_load(config["data"]["config.yaml"])["rules"] == rules


def test_demand_is_exported_by_every_component(scraped: Scrapes) -> None:
    for component, found in scraped.items():
        for metric in ("plexus_calls_in_flight", "plexus_calls_queued"):
            assert found.samples[metric] == [{"component": component}]


def test_alerts_say_what_they_mean(built: Built) -> None:
    text = (K8S.parents[1] / "docs" / "operations.md").read_text()
    for rule in of_kind(built["overlays/prod"], "PrometheusRule"):
        alerts = re.findall(r"\bPlexus[A-Z]\w+", " ".join(texts(rule)))
        assert alerts
        assert [alert for alert in alerts if f"`{alert}`" not in text] == []


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("sum(plexus_calls_running)", "nobody exports plexus_calls_running"),
        ('plexus_calls_queued{componant="gateway"}', "has no label componant"),
        ('plexus_calls_queued{component="gatevay"}', "has component=gatevay"),
        ("sum by (tenant) (plexus_calls_queued)", "groups by tenant"),
        ("histogram_quantile(0.5, rate(plexus_stage_duration_bucket[5m]))", "nobody exports"),
        ("1 > 0", "reads nothing"),
    ],
)
def test_a_query_that_reads_nothing_is_found(
    expression: str, complaint: str, scraped: Scrapes
) -> None:
    assert any(complaint in found for found in complaints("x", expression, scraped, set()))


async def test_a_component_that_needs_what_its_image_lacks_does_not_start(tmp_path: Path) -> None:
    environ = {**scrapes.fence(tmp_path), "ABSENT_MODULES": '{"cache": ["hiredis", "redis"]}'}
    with pytest.raises(NotStarted, match="redis is not in the image"):
        await launch(["serve", "cache"], environ, tmp_path / "log")


def test_what_an_image_lacks_follows_from_its_locks() -> None:
    assert "onnxruntime" in scrapes.absent_modules("cache")
    assert "onnxruntime" not in scrapes.absent_modules("router")
    assert "redis" in scrapes.absent_modules("memory")
    assert "redis" not in scrapes.absent_modules("cache")
    assert not {"mesh", "plexus", "grpc", "aiohttp"} & scrapes.absent_modules("gateway")
