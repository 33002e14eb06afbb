"""Gateways as pods: real `plexus serve gateway` processes, started and drained on demand."""

import asyncio
import itertools
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc.aio
from prometheus_client.parser import text_string_to_metric_families

from mesh.channel import connect
from mesh.redis_server import RedisServer
from tests.autoscaler.replicas import CpuSample, Pod
from tests.e2e.calls import eventually
from tests.e2e.processes import Mesh, Process, launch, start_component

BEHIND = (("router", "cache", "metrics"), ("memory",))
"""What the gateways call, in the order in which it starts."""
START_S = 10.0
"""How long, on the control clock, a new pod takes until it is ready: by the next sync it is."""


async def start_behind(data_dir: Path, environ: Mapping[str, str]) -> Mesh:
    """Start Redis and every component but the gateway."""
    redis = RedisServer(data_dir / "redis")
    await redis.start()
    full = {
        "PLEXUS_DATA_DIR": str(data_dir),
        "PLEXUS_ADMIN_PORT": "0",
        "PLEXUS_CACHE_REDIS_URL": redis.url,
        "PLEXUS_METRICS_REDIS_URL": redis.url,
        **environ,
    }
    mesh = Mesh(data_dir, full, redis=redis)
    try:
        for group in BEHIND:
            await asyncio.gather(*(start_component(mesh, name) for name in group))
    except BaseException:
        await mesh.kill()
        raise
    return mesh


@dataclass(slots=True)
class Gateway:
    """One process, and what a kubelet and a scraper know of it. Times are of the control clock."""

    name: str
    process: Process
    channel: grpc.aio.Channel
    created_s: float
    cpu_s: float
    """CPU used when it was last looked at."""

    @property
    def url(self) -> str:
        return str(self.process.ready["http_url"])


@dataclass(slots=True)
class Scrape:
    """The sums of a process's series, by name."""

    sums: Mapping[str, float]

    def __call__(self, series: str) -> float:
        """Return the sum; a series that the process does not export fails the test."""
        assert series in self.sums, f"{series} is not exported"
        return self.sums[series]


@dataclass(slots=True)
class Fleet:
    """The gateways that serve; the newest is the first to go, as a ReplicaSet does it."""

    mesh: Mesh
    environ: Mapping[str, str]
    gateways: list[Gateway] = field(default_factory=list[Gateway])
    _started: list[Gateway] = field(default_factory=list[Gateway])
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def add(self, count: int, now_s: float) -> None:
        """Start processes and return once they are ready."""
        new = await asyncio.gather(*(self._start(now_s) for _ in range(count)))
        self.gateways.extend(sorted(new, key=lambda gateway: gateway.name))

    async def _start(self, now_s: float) -> Gateway:
        name = f"gateway-{next(self._numbers)}"
        others = ",".join(f"{other}={at}" for other, at in self.mesh.addresses.items())
        environ = {
            **self.mesh.environ,
            "PLEXUS_DATA_DIR": str(self.mesh.data_dir / name),
            "PLEXUS_PLACEMENT": others,
            "PLEXUS_GATEWAY_PORT": "0",
            "PLEXUS_GATEWAY_HTTP_PORT": "0",
            **self.environ,
        }
        log = self.mesh.data_dir.with_suffix(f".{name}.log")
        process = await launch(["serve", "gateway"], environ, log)
        channel = connect(process.ready["addresses"]["gateway"])
        gateway = Gateway(name, process, channel, now_s, cpu_used_s(process.pid))
        self._started.append(gateway)
        return gateway

    async def scrape(self, session: aiohttp.ClientSession) -> dict[str, Scrape]:
        """Return what every gateway says on /metrics, by name."""
        said = await asyncio.gather(*(_scrape(session, g.url) for g in self.gateways))
        return {g.name: scrape for g, scrape in zip(self.gateways, said, strict=True)}

    def pods(self, now_s: float, cpu_request_milli: int) -> list[Pod]:
        """Return the gateways as the controller lists them."""
        return [
            Pod(
                name=gateway.name,
                started_s=gateway.created_s,
                readiness_s=min(now_s, gateway.created_s + START_S),
                cpu_request_milli=cpu_request_milli,
            )
            for gateway in self.gateways
        ]

    def cpu(self, now_s: float, since_s: float) -> dict[str, CpuSample]:
        """Return the CPU that each has used since the last look, spread over the time since."""
        return {g.name: _sample(g, now_s, since_s) for g in self.gateways}

    def withdraw(self) -> Gateway:
        """Take the newest out of what clients are told of."""
        return self.gateways.pop()

    async def close(self) -> None:
        """Kill what is left, those that drain included."""
        for gateway in self._started:
            await gateway.channel.close()
            await gateway.process.kill()
        await self.mesh.kill()


async def refuses(session: aiohttp.ClientSession, gateway: Gateway) -> None:
    """Return once a gateway that was told to stop says that it is not ready, or nothing."""

    async def ready() -> bool:
        with suppress(aiohttp.ClientError):
            async with session.get(f"{gateway.url}/readyz") as response:
                return response.status == 200
        return False

    await eventually(ready, lambda is_ready: not is_ready)


async def _scrape(session: aiohttp.ClientSession, url: str) -> Scrape:
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Scrape(sums)


def _sample(gateway: Gateway, now_s: float, since_s: float) -> CpuSample:
    before_s, gateway.cpu_s = gateway.cpu_s, cpu_used_s(gateway.process.pid)
    milli = round((gateway.cpu_s - before_s) * 1000 / (now_s - since_s))
    return CpuSample(milli=milli, taken_s=now_s, window_s=now_s - since_s)


def cpu_used_s(pid: int) -> float:
    """Return the CPU that a process has used so far."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        after_name = stat.read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
    said = subprocess.run(
        ["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    parts = [float(part) for part in said.stdout.strip().replace("-", ":").split(":")]
    return sum(part * 60**at for at, part in enumerate(reversed(parts)))
