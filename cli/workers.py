"""`plexus up --workers N`: one mesh over several processes of one host.

This process has what there is once: the data folder, Redis, memory with its engine, metrics. N
workers have the rest (`cli.worker`), on the same ports, and share the calls (`mesh.spread`).
"""

import os
import secrets
import socket
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cli.components import NAMES, Environment, Maker, port_of
from cli.embedded import EmbeddedMesh
from cli.worker import COMPONENTS, Order, board_of
from cli.worker_pool import WorkerPool
from gateway.settings import GatewaySettings
from mesh.data_folder import DataFolder
from mesh.errors import FailedPrecondition, Reason
from mesh.host import Host
from mesh.load_board import MAX_WORKERS, LoadBoard
from mesh.redis_server import RedisServer
from mesh.server import port_taken
from mesh.settings import MeshSettings, Secret, load

HERE: Final = tuple(name for name in NAMES if name not in COMPONENTS)
"""What this process hosts."""


@dataclass(frozen=True, kw_only=True)
class WorkerMesh(EmbeddedMesh):
    """A running mesh with workers. `host` has what there is once."""

    pool: WorkerPool
    """The workers."""

    def more(self) -> Mapping[str, object]:
        """Return the workers, each with its own `/metrics`."""
        workers = [
            {"pid": each.process.pid, "admin_url": each.ready["admin_url"]}
            for each in self.pool.workers
        ]
        return {"workers": workers}


@asynccontextmanager
async def worker_mesh(workers: int, *, file: Path | None = None) -> AsyncGenerator[WorkerMesh]:
    """Run a mesh inside the block; leaving it drains the workers, then what they stand on.

    Raises FailedPrecondition with one sentence for what keeps it from starting.
    """
    if not 1 <= workers <= MAX_WORKERS:
        raise _wrong(f"--workers: from 1 to {MAX_WORKERS}")
    mesh = load(MeshSettings, "mesh", file=file)
    mesh = replace(mesh, mesh_token=mesh.mesh_token or Secret(secrets.token_urlsafe(32)))
    async with AsyncExitStack() as stack:
        data = DataFolder.own(mesh.data_dir)
        stack.callback(data.release)
        redis = RedisServer(mesh.data_dir / "redis")
        stack.push_async_callback(redis.close)
        await redis.start()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plexus-")))
        board = LoadBoard(board_of(folder), workers)
        stack.callback(board.close)
        routers = ",".join(f"{folder}/router-{index}.sock" for index in range(workers))
        mesh = replace(mesh, placement={**mesh.placement, "router": f"unix:{routers}"})
        environment = Environment(mesh=mesh, file=file, redis_url=redis.url)
        host = Host(mesh)
        stack.push_async_callback(host.drain)
        addresses = await _serve_here(host, environment, folder)
        ports = {name: port_of(name, environment) for name in COMPONENTS}
        ports = {name: _reserve(stack, name, mesh.host, port) for name, port in ports.items()}
        gateway = load(GatewaySettings, "gateway", file=file)
        http_port = _reserve(stack, "gateway_http", mesh.host, gateway.http_port)

        def order_of(index: int) -> Order:
            return Order(
                index=index,
                workers=workers,
                folder=str(folder),
                ports=ports,
                http_port=http_port,
                placement={name: f"unix:{folder}/{name}.sock" for name in HERE},
                redis_url=redis.url,
                mesh_token=mesh.mesh_token,
                file=str(file or ""),
            )

        pool = WorkerPool(order_of, board, drain_s=mesh.drain_hold_s + mesh.drain_grace_s)
        stack.push_async_callback(pool.close)
        await pool.start()
        first = pool.workers[0].ready
        shared = {name: f"{mesh.host}:{port}" for name, port in ports.items()}
        yield WorkerMesh(
            addresses={**addresses, **shared},
            http_url=f"{first['scheme']}://{mesh.host}:{http_port}",
            data_dir=mesh.data_dir,
            provider_lines=list(first["provider_lines"]),
            host=host,
            redis=redis,
            pool=pool,
        )


async def _serve_here(host: Host, environment: Environment, folder: Path) -> dict[str, str]:
    maker = Maker(environment, host.channel_to)
    for name in HERE:
        host.add(await maker.make(name))
    await host.start()
    ports = {name: port_of(name, environment) for name in HERE}
    return await host.listen(ports, sockets={name: f"unix:{folder}/{name}.sock" for name in HERE})


def _reserve(stack: AsyncExitStack, name: str, host: str, port: int) -> int:
    """Hold a port for the workers, and return it; 0 picks a free one.

    A socket that is bound and does not listen gets no connections; it keeps others off the port
    while no worker is there. Raises FailedPrecondition when somebody listens already.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise _wrong("--workers needs a system with SO_REUSEPORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = host.strip("[]")
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name == "posix"))
            probe.bind((address, port))
            port = int(probe.getsockname()[1])
        held = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address, port))
    except OSError as error:
        raise port_taken(name, host, port) from error
    return port


def _wrong(why: str) -> FailedPrecondition:
    return FailedPrecondition(why, reason=Reason.INVALID_SETTINGS)
