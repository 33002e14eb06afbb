"""Starts what is measured: the upstream, the relay, and meshes in both topologies."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.process import Process, Processes
from bench.upstream import EMBEDDER, FAST
from mesh.redis_server import RedisServer

COMPONENTS = ("gateway", "memory", "router", "cache", "metrics")
PROVIDER = "upstream"


@dataclass(frozen=True, kw_only=True)
class System:
    """Something that runs and answers."""

    name: str
    pids: Sequence[int]
    """Its processes; what they started is found from them."""
    addresses: Mapping[str, str]
    """Component to host:port; empty for what speaks HTTP only."""
    http_url: str = ""
    """The root of its HTTP edge; empty without one."""
    cold_start_s: float = 0.0
    """From the start of its first process to being ready."""


async def start_upstream(processes: Processes) -> str:
    """Start the model upstream and return the URL that its API begins at."""
    process = await processes.start("upstream", [sys.executable, "-m", "bench.upstream"])
    return str(process.ready["url"])


async def start_relay(processes: Processes, upstream_url: str) -> System:
    """Start the bare relay."""
    argv = [sys.executable, "-m", "bench.relay", upstream_url]
    return _system("relay", [await processes.start("relay", argv)])


async def start_embedded(
    processes: Processes,
    folder: Path,
    upstream_url: str,
    *,
    name: str = "embedded",
    builtin_embedder: bool = False,
) -> System:
    """Start `plexus up` on free ports, with its data in a new folder."""
    environ = {
        **_environ(folder / name, upstream_url, builtin_embedder=builtin_embedder),
        **{f"PLEXUS_{component.upper()}_PORT": "0" for component in COMPONENTS},
    }
    argv = [sys.executable, "-m", "cli.main", "up", "--json"]
    return _system(name, [await processes.start(name, argv, environ=environ)])


async def start_distributed(processes: Processes, folder: Path, upstream_url: str) -> System:
    """Start Redis and one process per component, on free ports.

    The Redis is this process's child; whoever owns `processes` must outlive it.
    """
    data_dir = folder / "distributed"
    redis = RedisServer(data_dir / "redis")
    await redis.start()
    processes.on_stop(redis.close)
    environ = {
        **_environ(data_dir, upstream_url),
        "PLEXUS_ADMIN_PORT": "0",
        "PLEXUS_CACHE_REDIS_URL": redis.url,
        "PLEXUS_METRICS_REDIS_URL": redis.url,
    }
    started: dict[str, Process] = {}
    for component in ("router", "cache", "metrics", "memory", "gateway"):
        addresses = [f"{name}={p.ready['addresses'][name]}" for name, p in started.items()]
        own = {
            "PLEXUS_PLACEMENT": ",".join(addresses),
            f"PLEXUS_{component.upper()}_PORT": "0",
        }
        argv = [sys.executable, "-m", "cli.main", "serve", component, "--json"]
        started[component] = await processes.start(component, argv, environ={**environ, **own})
    system = _system("distributed", list(started.values()))
    assert redis.pid is not None
    return System(
        name=system.name,
        pids=[*system.pids, redis.pid],
        addresses=system.addresses,
        http_url=system.http_url,
        cold_start_s=max(process.cold_start_s for process in started.values()),
    )


def _system(name: str, processes: Sequence[Process]) -> System:
    addresses: dict[str, str] = {}
    http_url = ""
    for process in processes:
        addresses.update(process.ready["addresses"])
        http_url = process.ready.get("http_url", http_url)
    return System(
        name=name,
        pids=[process.pid for process in processes],
        addresses=addresses,
        http_url=http_url,
        cold_start_s=sum(process.cold_start_s for process in processes),
    )


def _environ(
    data_dir: Path, upstream_url: str, *, builtin_embedder: bool = False
) -> dict[str, str]:
    providers = {PROVIDER: {"kind": "openai", "base_url": upstream_url}}
    environ = {
        "PLEXUS_DATA_DIR": str(data_dir),
        "PLEXUS_LOG_LEVEL": "warning",
        "PLEXUS_GATEWAY_HTTP_PORT": "0",
        "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
        "PLEXUS_ROUTER_GROUPS": orjson.dumps({"default": [f"{PROVIDER}/{FAST}"]}).decode(),
    }
    if not builtin_embedder:
        environ["PLEXUS_ROUTER_EMBEDDING_MODEL"] = f"{PROVIDER}/{EMBEDDER}"
    return environ
