"""Rules about settings, and about what comes from ConfigMaps and Secrets."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from cli.components import SECTIONS
from mesh.errors import PlexusError
from mesh.settings import load
from tests.manifests.kustomize import Object
from tests.manifests.objects import containers, name, named, of_kind, texts, workloads
from tests.manifests.pods import mesh_only

SECRETS = {
    "plexus-mesh": {"mesh-token", "keys"},
    "plexus-redis": {"password"},
    "plexus-providers": {"openai", "anthropic"},
}
"""What is made outside of the manifests, as docs/operations.md says."""

PROCESS = {"OMP_NUM_THREADS", "MALLOC_ARENA_MAX"}
OTHERS = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "REDIS_PASSWORD"}
"""Variables that are not settings of ours: providers' keys, and parts of other variables."""


def known_variables() -> set[str]:
    """Return the variable of every setting there is."""
    found: set[str] = set()
    for section, cls in SECTIONS.items():
        prefix = "PLEXUS_" if section == "mesh" else f"PLEXUS_{section.upper()}_"
        fields: Any = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        found |= {prefix + field.name.upper() for field in fields}
    return found


def variables(objects: list[Object]) -> Iterator[str]:
    """Every variable is a setting, its value is one that the setting takes, and none is missing."""
    known = known_variables() | PROCESS | OTHERS
    for workload in of_kind(objects, "Deployment"):
        for container in containers(workload):
            given = set(_names(objects, container))
            for variable in sorted(given - known):
                yield f"{name(workload)}: {variable} is no setting"
            for variable in sorted((PROCESS | {"PLEXUS_MESH_TOKEN"}) - given):
                yield f"{name(workload)}: {variable} is not set"
            yield from _wrong_values(objects, workload, container)


def _names(objects: list[Object], container: Object) -> Iterator[str]:
    for source in container.get("envFrom", []):
        found = named(objects, "ConfigMap", source.get("configMapRef", {}).get("name", ""))
        yield from found["data"] if found else ()
    yield from (entry["name"] for entry in container.get("env", []))


def _wrong_values(objects: list[Object], workload: Object, container: Object) -> Iterator[str]:
    environ = mesh_only(objects, container)
    for section in ("mesh", workload["metadata"]["name"]):
        try:
            load(SECTIONS[section], section, environ=environ)
        except PlexusError as error:
            yield f"{name(workload)}: {error}"


def references(objects: list[Object]) -> Iterator[str]:
    """ConfigMaps are here, Secrets are announced, certificates asked for, and `$(NAME)` is set."""
    for workload in workloads(objects):
        for container in containers(workload):
            yield from _references_of(objects, workload, container)
        for volume in workload["spec"]["template"]["spec"].get("volumes", []):
            secret = volume.get("secret", {}).get("secretName")
            made = [c["spec"]["secretName"] for c in of_kind(objects, "Certificate")]
            if secret and secret not in made:
                yield f"{name(workload)}: nobody makes the Secret {secret}"


def _references_of(objects: list[Object], workload: Object, container: Object) -> Iterator[str]:
    who = name(workload)
    for source in container.get("envFrom", []):
        if named(objects, "ConfigMap", source["configMapRef"]["name"]) is None:
            yield f"{who}: there is no ConfigMap {source['configMapRef']['name']}"
    seen: set[str] = set()
    for entry in container.get("env", []):
        ref = entry.get("valueFrom", {}).get("secretKeyRef")
        if ref and ref["key"] not in SECRETS.get(ref["name"], ()):
            yield f"{who}: {entry['name']} is of a Secret that nobody makes"
        for used in re.findall(r"\$\((\w+)\)", entry.get("value", "")):
            if used not in seen:
                yield f"{who}: {entry['name']} uses {used} before it is set"
        seen.add(entry["name"])
    for argument in container.get("args", []):
        for used in re.findall(r"\$\((\w+)\)", argument):
            if used not in seen:
                yield f"{who}: an argument uses {used}, which is not set"


def secrets(objects: list[Object]) -> Iterator[str]:
    """No Secret is in the manifests; with external secrets, all that are needed are asked for."""
    for found in of_kind(objects, "Secret"):
        yield f"{name(found)} is in the manifests"
    asked = {
        found["spec"]["target"]["name"]: {entry["secretKey"] for entry in found["spec"]["data"]}
        for found in of_kind(objects, "ExternalSecret")
    }
    if asked and asked != SECRETS:
        yield f"external secrets are {asked}"


def queries(objects: list[Object]) -> Iterator[str]:
    """A namespace that a query names is the one it is in."""
    for found in of_kind(objects, "ScaledObject"):
        for text in texts(found["spec"]):
            for namespace in re.findall(r'namespace="([^"]*)"', text):
                if namespace != found["metadata"]["namespace"]:
                    yield f"{name(found)}: looks into {namespace}"
