"""Rules about pods: security, probes, resources, rollout, drain."""

import math
import re
from collections.abc import Iterator

from mesh.server import SETTLE_S
from mesh.settings import MeshSettings, load
from tests.manifests.kustomize import Object
from tests.manifests.objects import (
    containers,
    environment,
    name,
    of_kind,
    pod,
    port_names,
    workloads,
)

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SERVICES = {
    "startupProbe": "liveness",
    "readinessProbe": "readiness",
    "livenessProbe": "liveness",
}
HTTP_ANSWERS = {"admin": ("/metrics", "/healthz", "/livez"), "http": ("/healthz", "/readyz")}
READY_PATHS = {"admin": "/healthz", "http": "/readyz"}


def restricted(objects: list[Object]) -> Iterator[str]:
    """Everything that the `restricted` standard asks for, and a root that cannot be written."""
    for workload in workloads(objects):
        spec, who = pod(workload), name(workload)
        security = spec.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{who}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{who}: no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{who}: is given a token of the cluster"
        if any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{who}: shares a namespace of the host"
        if any("hostPath" in volume for volume in spec.get("volumes", [])):
            yield f"{who}: mounts the host"
        for container in containers(workload):
            own = container.get("securityContext", {})
            wanted = (False, True, ["ALL"], None)
            if wanted != (
                own.get("allowPrivilegeEscalation"),
                own.get("readOnlyRootFilesystem"),
                own.get("capabilities", {}).get("drop"),
                own.get("capabilities", {}).get("add"),
            ):
                yield f"{who}: {container['name']} may do more than it needs"


def namespaces(objects: list[Object]) -> Iterator[str]:
    """One namespace, made here, where the standard is enforced; all else is in it."""
    made = of_kind(objects, "Namespace")
    if len(made) != 1:
        yield f"{len(made)} namespaces"
        return
    labels = made[0]["metadata"].get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce `restricted`"
    for found in objects:
        if (
            found is not made[0]
            and found["metadata"].get("namespace") != made[0]["metadata"]["name"]
        ):
            yield f"{name(found)} is in another namespace"


def probes(objects: list[Object]) -> Iterator[str]:
    """Each asks a port that is there, the right question, and waits long enough for a pause."""
    for workload in workloads(objects):
        ports = port_names(workload)
        for container in containers(workload):
            needed = PROBES if workload["kind"] == "Deployment" else PROBES[:2]
            for kind in needed:
                who = f"{name(workload)}: {kind}"
                probe = container.get(kind)
                if probe is None:
                    yield f"{who} is missing"
                    continue
                if probe.get("timeoutSeconds", 1) not in (2, 3):
                    yield f"{who} waits {probe.get('timeoutSeconds', 1)} s"
                yield from _question(who, kind, probe, ports, workload["kind"])


def _question(
    who: str, kind: str, probe: Object, ports: dict[str, int], workload: str
) -> Iterator[str]:
    if "grpc" in probe:
        if probe["grpc"]["port"] != ports.get("grpc"):
            yield f"{who} asks a port that is not the gRPC one"
        if probe["grpc"].get("service") != SERVICES[kind]:
            yield f"{who} asks for {probe['grpc'].get('service')!r}"
    elif "httpGet" in probe:
        port, path = probe["httpGet"]["port"], probe["httpGet"]["path"]
        if port not in ports:
            yield f"{who} asks a port that is not there"
        if workload == "Deployment" and path not in HTTP_ANSWERS.get(port, ()):
            yield f"{who} asks {path}, which nobody answers"
        if workload == "Deployment" and kind == "readinessProbe" and path != READY_PATHS[port]:
            yield f"{who} does not ask for readiness"
        if kind == "livenessProbe" and path == READY_PATHS.get(port):
            yield f"{who} would restart what is only not ready"
    elif "exec" not in probe:
        yield f"{who} asks nothing"


def resources(objects: list[Object]) -> Iterator[str]:
    """CPU is requested and not limited; memory is both, and the same."""
    for workload in workloads(objects):
        for container in containers(workload):
            who = f"{name(workload)}: {container['name']}"
            requests = container.get("resources", {}).get("requests", {})
            limits = container.get("resources", {}).get("limits", {})
            if "cpu" not in requests:
                yield f"{who} requests no CPU, so no autoscaler can reckon with it"
            if "cpu" in limits:
                yield f"{who} limits CPU, which shows as stuttering streams"
            if "memory" not in requests or requests["memory"] != limits.get("memory"):
                yield f"{who} may be given less memory than it was promised"


def volumes(objects: list[Object]) -> Iterator[str]:
    """What is mounted is there, what is there is mounted, and scratch space has a limit."""
    for workload in workloads(objects):
        given = pod(workload).get("volumes", [])
        claims = [c["metadata"] for c in workload["spec"].get("volumeClaimTemplates", [])]
        there = {volume["name"] for volume in (*given, *claims)}
        mounted = {m["name"] for c in containers(workload) for m in c.get("volumeMounts", [])}
        if there != mounted:
            yield f"{name(workload)}: {sorted(there ^ mounted)} is not both a volume and mounted"
        for volume in given:
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name(workload)}: {volume['name']} has no limit"
        if workload["kind"] == "Deployment":
            paths = {m["mountPath"] for c in containers(workload) for m in c["volumeMounts"]}
            if not {"/tmp", "/var/lib/plexus"} <= paths:
                yield f"{name(workload)}: no place to write"


def rollout(objects: list[Object]) -> Iterator[str]:
    """A new pod is there before an old one goes, and pods are spread over zones and hosts."""
    for workload in of_kind(objects, "Deployment"):
        spec, who = workload["spec"], name(workload)
        if spec.get("strategy", {}).get("rollingUpdate") != {"maxUnavailable": 0, "maxSurge": 1}:
            yield f"{who}: a rollout takes capacity away"
        if spec.get("minReadySeconds", 0) < 5:
            yield f"{who}: a rollout does not wait for what fails at once"
        spread = pod(workload).get("topologySpreadConstraints", [])
        if {c["topologyKey"] for c in spread} != {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }:
            yield f"{who}: is not spread over zones and hosts"
        if pod(workload).get("enableServiceLinks") is not False:
            yield f"{who}: variables of Services could be taken for settings"


def drain(objects: list[Object]) -> Iterator[str]:
    """A pod is not killed before the drain that its own settings describe is over."""
    for workload in of_kind(objects, "Deployment"):
        who = name(workload)
        (container,) = containers(workload)
        settings = load(MeshSettings, "mesh", environ=mesh_only(objects, container))
        slept_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds")
        if not slept_s:
            yield f"{who}: its address is still told while it stops"
            continue
        drain_s = settings.drain_hold_s + settings.drain_grace_s + SETTLE_S
        if pod(workload).get("terminationGracePeriodSeconds", 30) <= math.ceil(slept_s + drain_s):
            yield f"{who}: is killed before its drain of {slept_s + drain_s} s is over"
        if settings.drain_grace_s < settings.default_deadline_s:
            yield f"{who}: the grace is shorter than a call may take"


def mesh_only(objects: list[Object], container: Object) -> dict[str, str]:
    """Return the variables of a container without those that come from Secrets."""
    return {name: value for name, value in environment(objects, container).items() if value}


def images(objects: list[Object]) -> Iterator[str]:
    """Every image has a version; ours is of a target that the Dockerfile has."""
    for workload in workloads(objects):
        for container in containers(workload):
            image, _, tag = container["image"].rpartition(":")
            if not image or not re.match(r"v?\d+\.\d+\.\d+", tag):
                yield f"{name(workload)}: {container['image']} does not say which version"
