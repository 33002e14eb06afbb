"""One worker of `plexus up --workers`: gateway, router and cache, on ports that all workers share.

`python -m cli.worker` with its order on standard input, one line of JSON. It answers with one line
and drains at SIGTERM, or when standard input ends: then its parent is gone.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import orjson

from cli.components import NAMES, Environment, Maker
from cli.embedded import http_edge
from cli.up import log_level, run
from mesh.admin import AdminServer
from mesh.errors import FailedPrecondition, PlexusError
from mesh.host import Host
from mesh.load_board import LoadBoard
from mesh.logs import configure
from mesh.server import until_signal
from mesh.settings import MeshSettings, Secret, load
from mesh.spread import Spread

COMPONENTS = tuple(name for name in NAMES if name in ("router", "cache", "gateway"))
"""What each worker hosts; the parent has the rest."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the parent tells a worker."""

    index: int
    """Which worker it is, from 0."""
    workers: int
    """How many there are."""
    folder: str
    """Where the workers' sockets and the load board are."""
    ports: dict[str, int]
    """The gRPC ports by component."""
    http_port: int
    """The port of the HTTP edge."""
    placement: dict[str, str]
    """Where the parent's components are."""
    redis_url: str
    """The mesh's Redis."""
    mesh_token: str
    """What the processes of the mesh know each other by."""
    file: str = ""
    """The settings file, if one was named."""

    def encode(self) -> bytes:
        """Return the order as a line."""
        return orjson.dumps(asdict(self)) + b"\n"


def board_of(folder: Path) -> Path:
    """Return where the load board is."""
    return folder / "load"


async def _main() -> None:
    stdin = await _standard_input()
    order = Order(**cast("dict[str, Any]", orjson.loads(await stdin.readline())))
    try:
        async with AsyncExitStack() as stack:
            ready = await _serve(order, stack)
            _say({"event": "ready", **ready})
            await _until_told(stdin)
    except FailedPrecondition as error:
        _say({"event": "failed", "message": error.message, "reason": error.reason})
    except PlexusError as error:
        _say({"event": "failed", "message": error.message, "reason": ""})


async def _serve(order: Order, stack: AsyncExitStack) -> dict[str, object]:
    file = Path(order.file) if order.file else None
    mesh = load(MeshSettings, "mesh", file=file)
    mesh = replace(
        mesh,
        placement={**mesh.placement, **order.placement},
        mesh_token=Secret(order.mesh_token),
    )
    configure(log_level(mesh))
    environment = Environment(
        mesh=mesh, file=file, redis_url=order.redis_url, discover_providers=True
    )
    host = Host(mesh)
    board = LoadBoard(board_of(Path(order.folder)), order.workers)
    spread = Spread(
        board,
        order.index,
        Path(order.folder),
        max_message_bytes=mesh.max_message_bytes,
        mesh_token=mesh.mesh_token,
    )
    stack.push_async_callback(spread.close)
    stack.push_async_callback(host.drain)
    stack.callback(board.set_open, order.index, False)
    maker = Maker(environment, host.channel_to)
    for name in COMPONENTS:
        host.add(await maker.make(name))
    await host.start()
    sockets = {name: spread.socket(name) for name in COMPONENTS}
    await host.listen(order.ports, sockets=sockets, spread=spread)
    edge = http_edge(host, environment, port=order.http_port, spread=spread)
    await edge.start()
    host.add_edge(edge)
    admin = AdminServer(host.readiness)
    admin_port = await admin.listen("127.0.0.1", 0)
    stack.push_async_callback(admin.close)
    board.set_open(order.index, True)
    return {
        "admin_url": f"http://127.0.0.1:{admin_port}",
        "provider_lines": maker.provider_lines,
        "scheme": edge.scheme,
    }


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    return reader


async def _until_told(stdin: asyncio.StreamReader) -> None:
    """Return at a signal, or when the parent is gone."""
    waits = [asyncio.ensure_future(until_signal()), asyncio.ensure_future(stdin.read())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _say(event: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(_main())
