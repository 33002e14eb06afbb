"""What the rules ask of a built set of manifests."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.manifests.kustomize import Object

WORKLOADS = ("Deployment", "StatefulSet")
COMPONENTS = ("gateway", "memory", "router", "cache", "metrics")


def name(found: Object) -> str:
    """Return `Kind/name`, for messages."""
    return f"{found['kind']}/{found['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [found for found in objects if found["kind"] in kinds]


def named(objects: list[Object], kind: str, wanted: str) -> Object | None:
    """Return one object, or None."""
    return next((o for o in of_kind(objects, kind) if o["metadata"]["name"] == wanted), None)


def workloads(objects: list[Object]) -> list[Object]:
    """Return what runs pods."""
    return of_kind(objects, *WORKLOADS)


def pod(workload: Object) -> Object:
    """Return the pod's spec."""
    return workload["spec"]["template"]["spec"]


def containers(workload: Object) -> list[Object]:
    """Return all containers, init ones too."""
    spec = pod(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def pod_labels(workload: Object) -> Mapping[str, str]:
    """Return the labels of the pods."""
    return workload["spec"]["template"]["metadata"]["labels"]


def port_names(workload: Object) -> dict[str, int]:
    """Return the container ports by name."""
    ports = [port for c in containers(workload) for port in c.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in ports}


def selects(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector, without `matchExpressions`, selects; an empty one selects all."""
    if selector is None:
        return False
    assert "matchExpressions" not in selector, "teach the tests matchExpressions first"
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def selected(objects: list[Object], selector: Object | None) -> list[Object]:
    """Return the workloads whose pods a selector selects."""
    return [found for found in workloads(objects) if selects(selector, pod_labels(found))]


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """Return the variables of a container; those from Secrets as an empty text."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found = named(objects, "ConfigMap", source["configMapRef"]["name"])
        values |= found["data"] if found else {}
    return values | {e["name"]: e.get("value", "") for e in container.get("env", [])}


def texts(value: Any) -> Iterator[str]:
    """Yield every text inside, however deep."""
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():  # pyright: ignore[reportUnknownVariableType]
                yield from texts(inner)
        case list():
            for inner in value:  # pyright: ignore[reportUnknownVariableType]
                yield from texts(inner)
        case _:
            return
