"""A distributed mesh of several replicas: real processes on loopback ports over one Redis."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc.aio
import orjson

from mesh.channel import connect
from mesh.redis_server import RedisServer
from mesh.testing.upstream import ScriptedUpstream
from plexus.gateway.v1 import gateway_service_pb2_grpc
from tests.e2e.processes import Process, launch

GROUPS = (("router", "cache", "metrics"), ("memory",), ("gateway",))
"""In the order of their start: each after those it calls."""

CALLS_METRIC = 'rpc_server_call_duration_seconds_count{rpc_method="plexus.'


@dataclass(slots=True)
class Replicas:
    """The running processes by component. Every process knows all replicas that it calls."""

    folder: Path
    environ: Mapping[str, str]
    redis: RedisServer
    processes: dict[str, list[Process]] = field(default_factory=dict[str, list[Process]])
    _channels: list[grpc.aio.Channel] = field(default_factory=list[grpc.aio.Channel])

    def address(self, component: str, index: int) -> str:
        return self.processes[component][index].ready["addresses"][component]

    def addresses(self, component: str) -> str:
        """All replicas, as a placement lists them."""
        return ",".join(self.address(component, at) for at in range(len(self.processes[component])))

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel as the mesh's own: balanced, health-checked, retried."""
        channel = connect(address)
        self._channels.append(channel)
        return channel

    def gateway(self, index: int | None = None) -> gateway_service_pb2_grpc.GatewayServiceStub:
        """The stub of one gateway, or of all of them."""
        address = self.addresses("gateway") if index is None else self.address("gateway", index)
        return gateway_service_pb2_grpc.GatewayServiceStub(self.channel(address))

    async def start(self, component: str, index: int, *, port: int = 0) -> None:
        """Start a replica, or one in the place of another that has stopped."""
        known = ",".join(f"{name}={self.addresses(name)}" for name in self.processes)
        environ = {
            **self.environ,
            "PLEXUS_PLACEMENT": known,
            f"PLEXUS_{component.upper()}_PORT": str(port),
        }
        log = self.folder.with_suffix(f".{component}-{index}.log")
        process = await launch(["serve", component], environ, log)
        replicas = self.processes.setdefault(component, [])
        replicas[index : index + 1] = [process]

    async def restart(self, component: str, index: int) -> int:
        """Stop a replica gently, start one in its place, and return the exit code of the first."""
        port = int(self.address(component, index).rpartition(":")[2])
        code = await self.processes[component][index].stop()
        await self.start(component, index, port=port)
        return code

    async def calls_served(self, component: str, index: int) -> int:
        """How many calls a replica has served since its start, probes aside."""
        ready = self.processes[component][index].ready
        return await calls_counted(ready.get("admin_url") or ready["http_url"])

    async def stop(self) -> None:
        for channel in self._channels:
            await channel.close()
        for replicas in self.processes.values():
            for process in replicas:
                await process.kill()
        await self.redis.close()


async def calls_counted(url: str) -> int:
    """Return the calls of our own services that a process counts in its metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    served = [line for line in lines if line.startswith(CALLS_METRIC)]
    return round(sum(float(line.rpartition(" ")[2]) for line in served))


@asynccontextmanager
async def running_replicas(
    folder: Path,
    upstream: ScriptedUpstream,
    counts: Mapping[str, int],
    environ: Mapping[str, str] | None = None,
) -> AsyncGenerator[Replicas]:
    """Run a mesh with `counts` replicas of each component, one where it does not say."""
    redis = RedisServer(folder / "redis")
    await redis.start()
    providers = {"up": {"kind": "openai", "base_url": upstream.openai_url}}
    full = {
        "PLEXUS_DATA_DIR": str(folder),
        "PLEXUS_ADMIN_PORT": "0",
        "PLEXUS_GATEWAY_HTTP_PORT": "0",
        "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
        "PLEXUS_ROUTER_GROUPS": orjson.dumps({"default": ["up/first", "up/second"]}).decode(),
        **{f"PLEXUS_{name}_REDIS_URL": redis.url for name in ("CACHE", "METRICS", "GATEWAY")},
        # A busy machine must not look like a Redis that is down.
        **{f"PLEXUS_{name}_REDIS_TIMEOUT_MS": "2000" for name in ("CACHE", "METRICS", "GATEWAY")},
        "PLEXUS_GATEWAY_RUN_LEASE_MS": "2000",
        **(environ or {}),
    }
    replicas = Replicas(folder, full, redis)
    try:
        for group in GROUPS:
            for index in range(max(counts.get(name, 1) for name in group)):
                starting = [name for name in group if index < counts.get(name, 1)]
                await asyncio.gather(*(replicas.start(name, index) for name in starting))
        yield replicas
    finally:
        await replicas.stop()
