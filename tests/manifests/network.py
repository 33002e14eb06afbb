"""Rules about Services, addresses, and who may talk to whom."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.manifests.kustomize import Object
from tests.manifests.objects import (
    containers,
    environment,
    name,
    named,
    of_kind,
    pod_labels,
    port_names,
    selected,
    selects,
    texts,
    workloads,
)


def services(objects: list[Object]) -> Iterator[str]:
    """Each is of one workload and its named ports; each workload has one with no address too."""
    for service in of_kind(objects, "Service"):
        found = selected(objects, {"matchLabels": service["spec"].get("selector", {})})
        if len(found) != 1 or not service["spec"].get("selector"):
            yield f"{name(service)}: selects {len(found)} workloads"
            continue
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in port_names(found[0]):
                yield f"{name(service)}: {port['targetPort']} is no port of {name(found[0])}"
    for workload in workloads(objects):
        own = workload["metadata"]["name"]
        headless = named(objects, "Service", f"{own}-headless")
        if headless is None or headless["spec"].get("clusterIP") != "None":
            yield f"{name(workload)}: has no headless Service"
        if named(objects, "Service", own) is None:
            yield f"{name(workload)}: has no Service"
        if (
            workload["kind"] == "StatefulSet"
            and workload["spec"]["serviceName"] != f"{own}-headless"
        ):
            yield f"{name(workload)}: its pods have no names"
        if not selects(workload["spec"]["selector"], pod_labels(workload)):
            yield f"{name(workload)}: does not select its own pods"
        account = workload["spec"]["template"]["spec"].get("serviceAccountName")
        if named(objects, "ServiceAccount", account) is None:
            yield f"{name(workload)}: runs as the account {account}, which is not made"


def addresses(objects: list[Object]) -> Iterator[str]:
    """Every address in the settings is of a Service and a port that are here."""
    for workload in of_kind(objects, "Deployment"):
        for host, port in called(objects, workload):
            service = named(objects, "Service", host)
            if service is None:
                yield f"{name(workload)}: there is no Service {host}"
            elif port not in [p["port"] for p in service["spec"]["ports"]]:
                yield f"{name(workload)}: {host} has no port {port}"


def called(objects: list[Object], workload: Object) -> set[tuple[str, int]]:
    """Return the addresses that a component's settings make it call."""
    own = workload["metadata"]["name"]
    variables = environment(objects, containers(workload)[0])
    placed = dict(part.split("=") for part in variables.get("PLEXUS_PLACEMENT", "").split(","))
    calls = {"gateway": list(placed), "memory": ["router"]}.get(own, [])
    found = [urlsplit(f"//{placed[component]}") for component in calls]
    prefix = f"PLEXUS_{own.upper()}_"
    found += [urlsplit(v) for k, v in variables.items() if k.startswith(prefix) and "://" in v]
    return {(url.hostname or "", url.port or 0) for url in found}


def policies(objects: list[Object]) -> Iterator[str]:
    """With policies: deny by default, one of each workload's own, and what is called can be."""
    every = of_kind(objects, "NetworkPolicy")
    if not every:
        return
    both = {"Ingress", "Egress"}
    defaults = [p for p in every if not p["spec"]["podSelector"] and p["metadata"]["name"] != "dns"]
    if len(defaults) != 1 or set(defaults[0]["spec"]["policyTypes"]) != both:
        yield "nothing is denied by default"
    elif "ingress" in defaults[0]["spec"] or "egress" in defaults[0]["spec"]:
        yield "the default is not to deny"
    for workload in workloads(objects):
        own = policy_of(every, workload)
        if own is None or set(own["spec"]["policyTypes"]) != both:
            yield f"{name(workload)}: has no policy for both directions"
    for workload in of_kind(objects, "Deployment"):
        for host, port in called(objects, workload):
            yield from _passes(objects, every, workload, host, port)
    yield from _leaks(every, objects)


def policy_of(every: list[Object], workload: Object) -> Object | None:
    """Return the policy that is of this workload alone."""
    return next(
        (
            policy
            for policy in every
            if policy["spec"]["podSelector"]
            and selects(policy["spec"]["podSelector"], pod_labels(workload))
        ),
        None,
    )


def _passes(
    objects: list[Object], every: list[Object], caller: Object, host: str, port: int
) -> Iterator[str]:
    """Complain when a call that the settings ask for is let out or in by no rule."""
    service = named(objects, "Service", host)
    if service is None:
        return
    (callee,) = selected(objects, {"matchLabels": service["spec"]["selector"]})
    (target,) = [p["targetPort"] for p in service["spec"]["ports"] if p["port"] == port]
    number = port_names(callee)[target]
    out, inside = policy_of(every, caller), policy_of(every, callee)
    if not out or not _lets(out["spec"].get("egress", []), "to", callee, number):
        yield f"{name(caller)}: may not call {host}:{number}"
    if not inside or not _lets(inside["spec"].get("ingress", []), "from", caller, number):
        yield f"{name(callee)}: does not let {name(caller)} in on {number}"


def _lets(rules: list[Object], way: str, other: Object, port: int) -> bool:
    for rule in rules:
        peers = [p for p in rule.get(way, []) if "namespaceSelector" not in p]
        to_it = any(selects(p.get("podSelector"), pod_labels(other)) for p in peers)
        if to_it and port in [p["port"] for p in rule.get("ports", [])]:
            return True
    return False


def _leaks(every: list[Object], objects: list[Object]) -> Iterator[str]:
    """Only the router calls out, and only where it is public; no rule is open to all."""
    for policy in every:
        who, spec = name(policy), policy["spec"]
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            if not rule.get("from") and not rule.get("to"):
                yield f"{who}: a rule is open to everybody"
        blocks = [b for r in spec.get("egress", []) for b in r.get("to", []) if "ipBlock" in b]
        of_router = selects(spec["podSelector"], {"app.kubernetes.io/component": "router"})
        if blocks and not (of_router and spec["podSelector"]):
            yield f"{who}: lets its pods call out of the cluster"
        if any("except" not in block["ipBlock"] for block in blocks):
            yield f"{who}: lets its pods call private addresses"


def scraping(objects: list[Object]) -> Iterator[str]:
    """Prometheus finds a port on each component, and its policy lets it in."""
    monitors = of_kind(objects, "PodMonitor")
    if not monitors:
        return
    every = of_kind(objects, "NetworkPolicy")
    for workload in of_kind(objects, "Deployment"):
        ends = [
            end["port"]
            for monitor in monitors
            if selects(monitor["spec"]["selector"], pod_labels(workload))
            for end in monitor["spec"]["podMetricsEndpoints"]
        ]
        ports = [port_names(workload)[end] for end in ends if end in port_names(workload)]
        if len(ports) != 1:
            yield f"{name(workload)}: is scraped {len(ports)} times"
        own = policy_of(every, workload)
        if every and own and not any(_monitored(own, port) for port in ports):
            yield f"{name(workload)}: does not let Prometheus in"


def _monitored(policy: Object, port: int) -> bool:
    return any(
        "monitoring" in texts(rule["from"]) and port in [p["port"] for p in rule["ports"]]
        for rule in policy["spec"]["ingress"]
    )
