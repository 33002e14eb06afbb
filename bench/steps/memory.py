"""MemoryService over gRPC: search in its three modes, and writes, as one tenant's memory grows.

Embeddings come from the scripted upstream. Searches repeat a set of queries whose embeddings the
mesh knows after the warm-up: what is measured is the search, not the model.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import grpc.aio

from bench.plan import Plan
from bench.progress import Shown
from bench.prompts import Texts
from bench.result import FillRow, MemoryRow
from bench.scenarios import embedded_all
from bench.statistics import distribution
from bench.systems import System
from bench.window import Call, Timing, closed_loop
from plexus.memory.v1 import memory_service_pb2 as pb
from plexus.memory.v1 import memory_service_pb2_grpc

BATCH = 250
FILLERS = 4
QUERIES = 200
TEXT_WORDS = 18
QUERY_WORDS = 3
TIMEOUT_S = 20.0
EMBED_S = 90.0
"""How long the background may take to embed one size."""
CONCURRENCIES = (1, 32)
MODES = {
    "search lexical": pb.SEARCH_MODE_LEXICAL,
    "search dense": pb.SEARCH_MODE_DENSE,
    "search hybrid": pb.SEARCH_MODE_HYBRID,
}


class MemoryStep:
    """Fills one tenant's memory and measures it at each size."""

    def __init__(self, system: System, plan: Plan, shown: Shown) -> None:
        self._system = system
        self._plan = plan
        self._shown = shown
        self._texts = Texts(11)
        queries = Texts(12)
        self._queries = [queries.words(QUERY_WORDS) for _ in range(QUERIES)]
        self._written = 0
        self.rows: list[MemoryRow] = []
        self.fills: list[FillRow] = []
        self.notes: list[str] = []

    async def run(self) -> None:
        """Measure every size that can be reached in time."""
        sizes = self._plan.memory_points
        loads = (len(MODES) + 1) * len(CONCURRENCIES)
        self._shown.begin("memory", sizes[-1] / BATCH + len(sizes) * loads)
        spent_s = 0.0
        channel = grpc.aio.insecure_channel(self._system.addresses["memory"])
        async with channel:
            stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
            for points in sizes:
                if spent_s > self._plan.memory_fill_s:
                    self.notes.append(f"memory: no time left to fill {points:,} points")
                    continue
                spent_s += await self._fill(stub, points, self._plan.memory_fill_s - spent_s)
                await self._measure(stub)

    async def _fill(
        self, stub: memory_service_pb2_grpc.MemoryServiceStub, points: int, within_s: float
    ) -> float:
        """Write up to `points`, then wait for their embeddings; return the seconds it took."""
        begun_s = time.perf_counter()
        first = self._written

        async def filler() -> None:
            while self._written < points and time.perf_counter() - begun_s < within_s:
                count = min(BATCH, points - self._written)
                self._written += count
                await stub.WriteMemories(self._batch(count), timeout=TIMEOUT_S)
                self._shown.advance(f"writing, {self._written:,} points")

        async with asyncio.TaskGroup() as group:
            for _ in range(FILLERS):
                group.create_task(filler())
        written_s = time.perf_counter() - begun_s
        self._shown.advance(f"embedding, {self._written:,} points", 0)
        pending = await embedded_all(self._system, within_s=EMBED_S)
        took_s = time.perf_counter() - begun_s
        self.fills.append(
            FillRow(
                points=self._written,
                written_per_s=(self._written - first) / written_s if written_s else 0.0,
                embedding_s=took_s - written_s,
                pending=pending,
            )
        )
        return took_s

    async def _measure(self, stub: memory_service_pb2_grpc.MemoryServiceStub) -> None:
        points = self._written
        calls = {name: self._search(stub, mode) for name, mode in MODES.items()}
        for concurrency in CONCURRENCIES:
            for name, call in {**calls, "write": self._write(stub)}.items():
                self._shown.advance(f"{name} c={concurrency}, {points:,} points")
                window = await closed_loop(
                    call,
                    concurrency=concurrency,
                    warm_up_s=self._plan.memory_window_s / 4,
                    window_s=self._plan.memory_window_s,
                )
                self.rows.append(
                    MemoryRow(
                        points=points,
                        operation=name,
                        concurrency=concurrency,
                        rate_per_s=window.rate_per_s,
                        total_ms=distribution(window.total_s, scale=1000),
                        failures=window.failures,
                    )
                )

    def _search(self, stub: memory_service_pb2_grpc.MemoryServiceStub, mode: pb.SearchMode) -> Call:
        queries = itertools.cycle(self._queries)

        async def ask() -> bool:
            request = pb.SearchMemoriesRequest(query=next(queries), mode=mode, limit=10)
            found = await stub.SearchMemories(request, timeout=TIMEOUT_S)
            return bool(found.hits) and not found.degraded

        return _timed(ask)

    def _write(self, stub: memory_service_pb2_grpc.MemoryServiceStub) -> Call:
        async def ask() -> bool:
            said = await stub.WriteMemories(self._batch(1), timeout=TIMEOUT_S)
            return said.results[0].HasField("written")

        return _timed(ask)

    def _batch(self, count: int) -> pb.WriteMemoriesRequest:
        kind = pb.MEMORY_KIND_NOTE
        writes = [
            pb.MemoryWrite(kind=kind, text=self._texts.words(TEXT_WORDS)) for _ in range(count)
        ]
        return pb.WriteMemoriesRequest(writes=writes)


def _timed(ask: Callable[[], Awaitable[bool]]) -> Call:
    async def call(_: int) -> Timing | None:
        begun_s = time.perf_counter()
        try:
            good = await ask()
        except grpc.aio.AioRpcError:
            return None
        return Timing(time.perf_counter() - begun_s) if good else None

    return call
