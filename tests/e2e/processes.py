"""Real meshes in real processes: embedded, or one process per component, on free loopback ports."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc.aio
import orjson

from mesh.redis_server import RedisServer

START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 30.0
COMPONENTS = ("gateway", "memory", "router", "cache", "metrics")


class NotStarted(Exception):
    """A process ended, or said nothing, before it was ready; holds what it printed."""


@dataclass(slots=True)
class Process:
    """One `plexus` process that has said it is ready."""

    child: asyncio.subprocess.Process
    ready: dict[str, Any]
    log: Path

    @property
    def pid(self) -> int:
        return self.child.pid

    async def stop(self) -> int:
        """SIGTERM, wait, and return the exit code."""
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            return await self._gone()

    async def kill(self) -> None:
        """SIGKILL and wait."""
        if self.child.returncode is None:
            self.child.kill()
        await self._gone()

    async def _gone(self) -> int:
        """Return the exit code once it and what inherited its standard output are gone."""
        await self.child.communicate()
        return self.child.returncode or 0


async def launch(arguments: list[str], environ: Mapping[str, str], log: Path) -> Process:
    """Start `plexus …` and return once it is ready."""
    with log.open("ab") as stderr:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli.main",
            *arguments,
            "--json",
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**clean_environ(), **environ},
        )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await child.stdout.readline()
    except TimeoutError:
        line = b""
    if not line:
        if child.returncode is None:
            child.kill()
        await child.wait()
        raise NotStarted(log.read_text()[-4000:])  # noqa: ASYNC240 -- the test is over
    return Process(child, cast("dict[str, Any]", orjson.loads(line)), log)


def clean_environ() -> dict[str, str]:
    """Return this environment without what would point a mesh at real providers."""
    hidden = ("PLEXUS_", "OPENAI_", "ANTHROPIC_", "OLLAMA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


@dataclass(slots=True)
class Mesh:
    """A running mesh, whatever its topology."""

    data_dir: Path
    environ: dict[str, str]
    processes: dict[str, Process] = field(default_factory=dict[str, Process])
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    http_url: str = ""
    redis: RedisServer | None = None
    _channels: list[grpc.aio.Channel] = field(default_factory=list[grpc.aio.Channel])

    def channel(self, component: str = "gateway") -> grpc.aio.Channel:
        """Return a plain channel, as any client would open; closed with the mesh."""
        channel = grpc.aio.insecure_channel(self.addresses[component])
        self._channels.append(channel)
        return channel

    async def stop(self) -> dict[str, int]:
        """Stop every process gently and return the exit codes."""
        for channel in self._channels:
            await channel.close()
        self._channels.clear()
        names = [name for name in (*COMPONENTS, "up") if name in self.processes]
        codes = {name: await self.processes.pop(name).stop() for name in names}
        if self.redis is not None:
            await self.redis.close()
        return codes

    async def kill(self) -> None:
        """SIGKILL every process at once."""
        for channel in self._channels:
            await channel.close()
        self._channels.clear()
        for process in self.processes.values():
            process.child.kill()
        for process in self.processes.values():
            await process.kill()
        self.processes.clear()
        if self.redis is not None:
            await self.redis.close()


async def start_embedded(data_dir: Path, environ: Mapping[str, str]) -> Mesh:
    """Start `plexus up` on free ports."""
    ports = {f"PLEXUS_{name.upper()}_PORT": "0" for name in COMPONENTS}
    full = {**ports, "PLEXUS_GATEWAY_HTTP_PORT": "0", "PLEXUS_DATA_DIR": str(data_dir), **environ}
    mesh = Mesh(data_dir, full)
    process = await launch(["up"], full, data_dir.with_suffix(".log"))
    mesh.processes["up"] = process
    mesh.addresses = dict(process.ready["addresses"])
    mesh.http_url = process.ready["http_url"]
    return mesh


async def start_distributed(data_dir: Path, environ: Mapping[str, str]) -> Mesh:
    """Start Redis and five `plexus serve` processes on free ports."""
    redis = RedisServer(data_dir / "redis")
    await redis.start()
    full = {
        "PLEXUS_DATA_DIR": str(data_dir),
        "PLEXUS_ADMIN_PORT": "0",
        "PLEXUS_GATEWAY_HTTP_PORT": "0",
        "PLEXUS_CACHE_REDIS_URL": redis.url,
        "PLEXUS_METRICS_REDIS_URL": redis.url,
        "PLEXUS_GATEWAY_REDIS_URL": redis.url,
        **environ,
    }
    mesh = Mesh(data_dir, full, redis=redis)
    try:
        for group in (("router", "cache", "metrics"), ("memory",), ("gateway",)):
            await asyncio.gather(*(start_component(mesh, name) for name in group))
    except BaseException:
        await mesh.kill()
        raise
    mesh.http_url = mesh.processes["gateway"].ready["http_url"]
    return mesh


async def start_component(mesh: Mesh, name: str, *, port: int = 0) -> None:
    """Start one component of a distributed mesh, knowing those that run already."""
    placement = ",".join(f"{other}={address}" for other, address in mesh.addresses.items())
    environ = {
        **mesh.environ,
        "PLEXUS_PLACEMENT": placement,
        f"PLEXUS_{name.upper()}_PORT": str(port),
    }
    log = mesh.data_dir.with_suffix(f".{name}.log")
    process = await launch(["serve", name], environ, log)
    mesh.processes[name] = process
    mesh.addresses.update(process.ready["addresses"])
