"""Doctor's checks of ports and of a running mesh: health, reflection, providers, one answer."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cli.answer import user_turn
from cli.checks import Finding, failed, ok, skipped
from cli.client import (
    PROBE_TIMEOUT_S,
    MeshClient,
    addresses,
    explain,
    http_url,
    open_channel,
)
from cli.figures import milliseconds
from mesh.health import READINESS
from mesh.settings import load
from plexus.gateway.v1 import gateway_service_pb2 as pb
from services.router.discovery import discover
from services.router.settings import RouterSettings

GENERATION_TIMEOUT_S: Final = 60.0

READY: Final = "ready"
NOT_READY: Final = "not ready"
FOREIGN: Final = "foreign"
FREE: Final = "free"

PROBE_TEXT: Final = "My name is Ada. What is my name?"


async def running_findings(file: Path | None, *, key: str, probe: bool) -> list[Finding]:
    """Return the findings; without a running mesh they are few and none of them is a failure."""
    where = addresses(file=file)
    states = dict(zip(where, await asyncio.gather(*map(state_of, where.values())), strict=True))
    runs = READY in states.values()
    checks = (component(name, where[name], states[name], mesh_runs=runs) for name in where)
    findings = [*await asyncio.gather(*checks)]
    gateway_serves = states["gateway"] == READY
    findings.append(await http_edge(http_url(file=file), gateway_serves=gateway_serves))
    if not runs:
        findings.append(skipped("mesh", "none is running; start one with `make run`"))
        findings.append(await _providers_here(file))
    if gateway_serves:
        async with MeshClient(where, key=key) as client:
            findings.append(await _models(client))
            if probe:
                findings.append(await _generation(client))
    return findings


async def state_of(address: str) -> str:
    """Return what is at an address: a ready component, one that is not, something else, nothing."""
    host, _, port = address.rpartition(":")
    if not await _accepts(host, int(port)):
        return FREE
    request = health_pb2.HealthCheckRequest(service=READINESS)
    async with open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            said = await stub.Check(request, timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return FOREIGN
    return READY if said.status == health_pb2.HealthCheckResponse.SERVING else NOT_READY


async def component(name: str, address: str, state: str, *, mesh_runs: bool) -> Finding:
    """Say what a state means for a component; one that serves must also describe itself."""
    if state == READY:
        return await _reflection(name, address)
    if state == NOT_READY:
        remedy = "it is starting or stopping: wait a moment; its log says what it waits for"
        return failed(name, f"at {address} and not ready", remedy)
    if state == FOREIGN:
        remedy = f"stop what listens there, or set PLEXUS_{name.upper()}_PORT"
        return failed(name, f"{address} is taken by something else", remedy)
    if mesh_runs:
        remedy = f"start it with `plexus serve {name}`, or say where it is in PLEXUS_PLACEMENT"
        return failed(name, f"nothing serves at {address}, while others run", remedy)
    return ok(name, f"{address} is free")


async def http_edge(url: str, *, gateway_serves: bool) -> Finding:
    """See that the HTTP edge listens when its gateway serves, and that its port is free if not."""
    host, _, port = url.partition("://")[2].rpartition(":")
    listens = await _accepts(host, int(port))
    if listens and gateway_serves:
        return ok("http", f"serving at {url}")
    if listens:
        remedy = "stop what listens there, or set PLEXUS_GATEWAY_HTTP_PORT"
        return failed("http", f"{host}:{port} is taken by something else", remedy)
    if gateway_serves:
        return failed("http", f"nothing serves at {url}", "see the gateway's log for its address")
    return ok("http", f"{host}:{port} is free")


async def _accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _reflection(name: str, address: str) -> Finding:
    """See that the component lists its service, as grpcurl would ask for it."""
    wanted = f"plexus.{name}.v1.{name.capitalize()}Service"

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with open_channel(address) as channel:
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        stub: Any = make_stub(channel)
        try:
            listed = [
                service.name
                async for answer in stub.ServerReflectionInfo(ask(), timeout=PROBE_TIMEOUT_S)
                for service in answer.list_services_response.service
            ]
        except grpc.aio.AioRpcError as error:
            return failed(name, f"reflection: {error.code().name}", "see the component's log")
    if wanted in listed:
        return ok(name, f"serving at {address}, with reflection")
    remedy = f"something else than Plexus' {name} listens at {address}: see `plexus config`"
    return failed(name, f"reflection does not list {wanted}", remedy)


async def _models(client: MeshClient) -> Finding:
    """Name the deployments that the running mesh routes to."""
    try:
        listed = await client.gateway.ListModels(
            pb.ListModelsRequest(), timeout=PROBE_TIMEOUT_S, metadata=client.metadata
        )
    except grpc.aio.AioRpcError as error:
        why = explain(error, client.addresses["gateway"])
        return failed("models", "the mesh does not list them", str(why))
    groups = [
        f"{model.name}: {', '.join(model.deployments)}"
        for model in listed.models
        if model.operation == "chat" and model.name not in model.deployments
    ]
    return ok("models", "; ".join(groups) or "none")


async def _providers_here(file: Path | None) -> Finding:
    """Name the providers that a mesh would have, without their keys."""
    configured = load(RouterSettings, "router", file=file)
    defaults = RouterSettings()
    if (configured.providers, configured.groups) != (defaults.providers, defaults.groups):
        missing = [
            provider.api_key_env
            for provider in configured.providers.values()
            if provider.api_key_env and not os.environ.get(provider.api_key_env)
        ]
        names = ", ".join(configured.providers)
        if missing:
            return failed("providers", f"configured: {names}", f"set {', '.join(missing)}")
        return ok("providers", f"configured: {names}")
    environ: Mapping[str, str] = os.environ
    return ok("providers", "; ".join((await discover(environ)).lines))


async def _generation(client: MeshClient) -> Finding:
    """Have the mesh answer once, leaving no trace in memory and cache."""
    turn = user_turn(PROBE_TEXT, recall=False, remember=False, use_cache=False)
    try:
        said = await client.gateway.Complete(
            pb.CompleteRequest(turn=turn), timeout=GENERATION_TIMEOUT_S, metadata=client.metadata
        )
    except grpc.aio.AioRpcError as error:
        why = explain(error, client.addresses["gateway"])
        return failed("generation", "the mesh did not answer", str(why))
    took = milliseconds(said.completed.duration_ms)
    return ok("generation", f"{said.response.provider}/{said.response.model} answered in {took}")
