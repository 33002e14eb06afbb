"""The whole mesh in one process, with a Redis and a storage engine of its own as children."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cli.components import NAMES, Environment, Maker, port_of
from gateway.edges.http import HttpEdge, HttpEdgeSettings
from gateway.settings import GatewaySettings
from mesh.clock import SYSTEM_CLOCK
from mesh.data_folder import DataFolder
from mesh.host import Host
from mesh.identity import Authenticator
from mesh.redis_server import RedisServer
from mesh.settings import MeshSettings, load
from mesh.spread import Spread


@dataclass(frozen=True, kw_only=True)
class EmbeddedMesh:
    """A running mesh."""

    addresses: Mapping[str, str]
    """Component to host:port of its gRPC server."""
    http_url: str
    """The base of the HTTP edge, without a path."""
    data_dir: Path
    """Where its data is."""
    provider_lines: list[str] = field(default_factory=list[str])
    """What model providers were found, for people."""
    host: Host
    """The components, for tests and tools in the same process."""
    redis: RedisServer
    """Its Redis."""

    def more(self) -> Mapping[str, object]:
        """Return what a program that started the mesh may want to know besides."""
        return {}


@asynccontextmanager
async def embedded_mesh(
    *,
    data_dir: Path | None = None,
    ports: Literal["default", "free"] = "default",
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> AsyncGenerator[EmbeddedMesh]:
    """Run a mesh inside the block; leaving it drains the mesh and stops its children.

    Raises FailedPrecondition with one sentence for what keeps it from starting: settings, ports,
    the data folder. `ports="free"` listens on free ports whatever the settings say.
    """
    environ = os.environ if environ is None else environ
    overrides = {} if data_dir is None else {"data_dir": data_dir}
    mesh = load(MeshSettings, "mesh", file=file, environ=environ, overrides=overrides)
    folder = DataFolder.own(mesh.data_dir)
    redis = RedisServer(mesh.data_dir / "redis")
    try:
        await redis.start()
        host = Host(mesh)
        environment = Environment(
            mesh=mesh,
            file=file,
            environ=environ,
            redis_url=redis.url,
            discover_providers=True,
        )
        maker = Maker(environment, host.channel_to)
        try:
            addresses, http_url = await _serve_all(host, maker, environment, ports)
            yield EmbeddedMesh(
                addresses=addresses,
                http_url=http_url,
                data_dir=mesh.data_dir,
                provider_lines=maker.provider_lines,
                host=host,
                redis=redis,
            )
        finally:
            await host.drain()
    finally:
        await redis.close()
        folder.release()


async def _serve_all(
    host: Host, maker: Maker, environment: Environment, ports: Literal["default", "free"]
) -> tuple[dict[str, str], str]:
    for name in NAMES:
        host.add(await maker.make(name))
    await host.start()
    addresses = await host.listen(ports_of(environment, ports))
    edge = http_edge(host, environment, free_port=ports == "free")
    http_port = await edge.start()
    host.add_edge(edge)
    return addresses, f"{edge.scheme}://{environment.mesh.host}:{http_port}"


def ports_of(environment: Environment, ports: Literal["default", "free"]) -> dict[str, int]:
    """Return the gRPC port of each component by the settings, or 0 for any free one."""
    if ports == "free":
        return dict.fromkeys(NAMES, 0)
    return {name: port_of(name, environment) for name in NAMES}


def http_edge(
    host: Host,
    environment: Environment,
    *,
    free_port: bool = False,
    port: int | None = None,
    spread: Spread | None = None,
) -> HttpEdge:
    """Return the HTTP edge over the gateway that `host` hosts, not started.

    With `spread`, over the gateways of all workers, on a `port` that they share.
    """
    gateway = load(GatewaySettings, "gateway", file=environment.file, environ=environment.environ)
    mesh = environment.mesh
    channel = host.channel_to("gateway")
    return HttpEdge(
        spread.channel("gateway", channel) if spread else channel,
        Authenticator(mesh),
        HttpEdgeSettings(
            host=mesh.host,
            port=port or (0 if free_port else gateway.http_port),
            shared_port=spread is not None,
            timeout_s=gateway.http_timeout_s,
            heartbeat_s=gateway.http_heartbeat_s,
            cors_origins=gateway.http_cors_origins,
        ),
        clock=SYSTEM_CLOCK,
        readiness=host.readiness,
        tls=host.tls,
    )
