"""`plexus up` and `plexus serve`: run the mesh, or one component, until a signal."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import orjson

from cli.banner import render_banner
from cli.components import Environment, Maker, check_environment, port_of
from cli.console import output
from cli.embedded import EmbeddedMesh, embedded_mesh, http_edge
from mesh.admin import AdminServer
from mesh.host import Host
from mesh.logs import configure
from mesh.server import port_taken, until_signal
from mesh.settings import MeshSettings, load


def up(*, file: Path | None = None, as_json: bool = False, workers: int = 1) -> None:
    """Run the embedded mesh until Ctrl-C or SIGTERM, then drain it."""
    run(_up(file, as_json, workers))


def serve(component: str, *, file: Path | None = None, as_json: bool = False) -> None:
    """Run one component until Ctrl-C or SIGTERM, then drain it."""
    run(_serve(component, file, as_json))


def run(main: "asyncio.Future[None] | object") -> None:
    """Run on uvloop where there is one: 10 to 20 % more calls a second."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)  # pyright: ignore[reportArgumentType]
    else:
        uvloop.run(main)  # pyright: ignore[reportArgumentType]


async def _up(file: Path | None, as_json: bool, workers: int) -> None:
    started_s = time.perf_counter()
    check_environment(os.environ)
    settings = load(MeshSettings, "mesh", file=file)
    configure(log_level(settings))
    async with _mesh(file, workers) as mesh:
        took_s = time.perf_counter() - started_s
        stopped = until_signal()
        _announce(mesh, took_s, as_json)
        await stopped
        _say("draining: running streams finish, nothing new is taken …", as_json)
    _say("stopped; the data is kept for the next start", as_json)


def _mesh(file: Path | None, workers: int) -> AbstractAsyncContextManager[EmbeddedMesh]:
    if workers == 1:
        return embedded_mesh(file=file)
    from cli.workers import worker_mesh

    return worker_mesh(workers, file=file)


def _announce(mesh: EmbeddedMesh, took_s: float, as_json: bool) -> None:
    if as_json:
        event = {"event": "ready", "addresses": mesh.addresses, "http_url": mesh.http_url}
        _emit({**event, **mesh.more()})
        return
    banner = render_banner(
        mesh.addresses, mesh.http_url, mesh.data_dir, mesh.provider_lines, ready_s=took_s
    )
    output().print(banner, soft_wrap=True)


async def _serve(component: str, file: Path | None, as_json: bool) -> None:
    check_environment(os.environ)
    mesh = load(MeshSettings, "mesh", file=file)
    configure(log_level(mesh))
    environment = Environment(mesh=mesh, file=file, discover_providers=component == "router")
    host = Host(mesh)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(host.drain)
        maker = Maker(environment, host.channel_to)
        host.add(await maker.make(component))
        await host.start()
        addresses = await host.listen({component: port_of(component, environment)})
        extra = await _listen_http(component, host, environment, stack)
        ready = {"event": "ready", "addresses": addresses, **extra}
        stopped = until_signal()
        if as_json:
            _emit(ready)
        else:
            _say(f"{component} is ready: gRPC {addresses[component]}", as_json)
            for name, url in extra.items():
                _say(f"  {name.removesuffix('_url')}: {url}", as_json)
        await stopped
        _say("draining …", as_json)


async def _listen_http(
    component: str, host: Host, environment: Environment, stack: AsyncExitStack
) -> Mapping[str, str]:
    """Serve the gateway's HTTP edge, or another component's admin port."""
    mesh = environment.mesh
    if component == "gateway":
        edge = http_edge(host, environment)
        port = await edge.start()
        host.add_edge(edge)
        return {"http_url": f"{edge.scheme}://{mesh.host}:{port}"}
    admin = AdminServer(host.readiness)
    try:
        port = await admin.listen(mesh.host, mesh.admin_port)
    except OSError as error:
        raise port_taken("admin", mesh.host, mesh.admin_port) from error
    stack.push_async_callback(admin.close)
    return {"admin_url": f"http://{mesh.host}:{port}"}


def log_level(settings: MeshSettings) -> str:
    """Return the level to log at: a person at a terminal is shown what matters only."""
    if settings.log_level != "auto":
        return settings.log_level
    return "warning" if sys.stderr.isatty() else "info"


def _emit(event: Mapping[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
    sys.stdout.flush()


def _say(line: str, as_json: bool) -> None:
    if not as_json:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
