"""The scenarios: one system, one way to ask it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from bench.grpc_client import Asking, GrpcChat, Turns
from bench.http_client import HttpChat
from bench.process import Processes
from bench.prompts import fresh_prompts, one_prompt
from bench.schedule import KINDS
from bench.systems import (
    PROVIDER,
    System,
    start_distributed,
    start_embedded,
    start_relay,
)
from bench.target import CalledTarget, Chat, nothing
from bench.upstream import FAST
from bench.window import guarded
from mesh.clock import SYSTEM_CLOCK
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc

DIRECT, RELAY, STATELESS, MEMORY = "direct", "relay", "stateless", "memory"
BUILTIN, HIT, DISTRIBUTED, EDGE = "memory-builtin", "hit", "distributed", "edge"

LABELS: Mapping[str, str] = {
    DIRECT: "upstream alone, no gateway (HTTP)",
    RELAY: "bare grpc.aio relay (the ceiling)",
    STATELESS: "embedded mesh, stateless",
    MEMORY: "embedded mesh, whole pipeline",
    BUILTIN: "the same, with the built-in embedder",
    HIT: "embedded mesh, exact hit",
    DISTRIBUTED: "distributed mesh, whole pipeline",
    EDGE: "embedded mesh, OpenAI HTTP edge, stateless",
}
"""Every scenario of ours, in the order of the tables. The ledger is on in all of the mesh's."""

STATELESS_HEADERS = {"x-plexus-memory": "off", "cache-control": "no-cache, no-store"}
SETTLE_S = 4.0
PRIMING_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Ours:
    """The systems of ours that run, and the scenarios over them."""

    upstream_url: str
    systems: Mapping[str, System]
    targets: Sequence[CalledTarget]


async def start_ours(
    processes: Processes, folder: Path, upstream_url: str, wanted: Sequence[str]
) -> Ours:
    """Start what the wanted scenarios need, and nothing else."""
    systems: dict[str, System] = {}
    if RELAY in wanted:
        systems["relay"] = await start_relay(processes, upstream_url)
    if {STATELESS, HIT, EDGE} & set(wanted):
        systems["embedded"] = await start_embedded(processes, folder, upstream_url)
    if MEMORY in wanted:
        # A mesh of its own: what it still does in the background must not be booked to others.
        systems["memory"] = await start_embedded(processes, folder, upstream_url, name="memory")
    if BUILTIN in wanted:
        systems["builtin"] = await start_embedded(
            processes, folder, upstream_url, name="builtin", builtin_embedder=True
        )
    if DISTRIBUTED in wanted:
        systems["distributed"] = await start_distributed(processes, folder, upstream_url)
    targets = [_target(name, upstream_url, systems) for name in LABELS if name in wanted]
    for target in targets:
        await prime(target)
    return Ours(upstream_url=upstream_url, systems=systems, targets=targets)


async def prime(target: CalledTarget) -> None:
    """Call a few times: a first call opens connections, and fills the cache for hits."""
    for kind in KINDS:
        for _ in range(PRIMING_CALLS):
            await guarded(target.call(kind, FAST), 0)


def _target(name: str, upstream_url: str, systems: Mapping[str, System]) -> CalledTarget:
    if name == DIRECT:
        return CalledTarget(name, (), lambda model: _http(upstream_url, model, {}))
    if name == EDGE:
        system = systems["embedded"]
        url = f"{system.http_url}/v1"
        return CalledTarget(
            name,
            system.pids,
            lambda model: _http(url, f"{PROVIDER}/{model}", STATELESS_HEADERS),
        )
    if name == RELAY:
        return _grpc_target(name, systems["relay"], Asking())
    if name == STATELESS:
        return _grpc_target(name, systems["embedded"], Asking())
    if name == HIT:
        return _grpc_target(name, systems["embedded"], Asking(cache=True, repeated=True))
    system = systems[{MEMORY: "memory", BUILTIN: "builtin", DISTRIBUTED: "distributed"}[name]]
    return _grpc_target(name, system, Asking(memory=True, cache=True))


def _http(url: str, model: str, headers: Mapping[str, str]) -> Chat:
    return HttpChat(url, model, prompt=fresh_prompts(1), headers=headers)


def _grpc_target(name: str, system: System, asking: Asking) -> CalledTarget:
    def connect(model: str) -> Chat:
        prompt = one_prompt(1) if asking.repeated else fresh_prompts(1)
        turns = Turns(f"{PROVIDER}/{model}", asking, prompt=prompt)
        return GrpcChat(system.addresses["gateway"], turns, wants_hit=asking.repeated)

    async def settle() -> None:
        await embedded_all(system, within_s=SETTLE_S)

    return CalledTarget(name, system.pids, connect, settle=settle if asking.memory else nothing)


async def embedded_all(system: System, *, within_s: float) -> int:
    """Wait until every memory has its embedding; return how many do not, at most `within_s`."""
    async with grpc.aio.insecure_channel(system.addresses["memory"]) as channel:
        stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
        pauses = int(within_s / 0.05)
        pending = 0
        for _ in range(pauses):
            stats = await stub.GetMemoryStats(memory_pb.GetMemoryStatsRequest(), timeout=within_s)
            pending = stats.pending_embedding_count
            if not pending:
                break
            await SYSTEM_CLOCK.sleep(0.05)
        return pending
