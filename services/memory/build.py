"""Puts the memory component together."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from mesh.clock import Clock
from mesh.errors import PlexusError
from mesh.logs import Log
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.router.v1 import router_service_pb2_grpc
from services.memory.backfill import Backfill, BackfillStatistics
from services.memory.edge_store import EdgeStore
from services.memory.embedder import Embedder, EmbedderStatistics
from services.memory.ids import IdClock
from services.memory.service import MemoryService
from services.memory.settings import MemorySettings
from services.memory.store import MemoryStore, StoreStatistics

log = Log("memory")


DEFAULT_DATA_DIR = Path(".plexus/memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStatistics:
    """A snapshot of the component."""

    store: StoreStatistics
    embedder: EmbedderStatistics | None
    backfill: BackfillStatistics | None


class MemoryComponent:
    """The service, its store and its background work."""

    def __init__(
        self,
        settings: MemorySettings,
        store: MemoryStore,
        *,
        clock: Clock,
        embedder: Embedder | None,
    ) -> None:
        self.store = store
        self.embedder = embedder
        self.backfill = embedder and Backfill(
            store, embedder, clock=clock, batch_size=settings.embed_batch_size
        )
        self.servicer: memory_service_pb2_grpc.MemoryServiceServicer = MemoryService(
            store,
            ids=IdClock(clock),
            embedder=embedder,
            backfill=self.backfill,
            min_cosine=settings.min_cosine,
        )
        self._clock = clock
        self._sweep_interval_s = settings.sweep_interval_s
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the store; fails with one sentence that says what to do."""
        await self.store.open()
        self._tasks.append(asyncio.create_task(self._sweep_forever()))
        if self.backfill is not None:
            self._tasks.append(asyncio.create_task(self.backfill.run()))

    async def close(self) -> None:
        """Stop background work, flush and let go of the store; idempotent, bounded."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.embedder is not None:
            await self.embedder.close()
        await self.store.close()

    def readiness(self) -> bool:
        """Whether the store answers."""
        return self.store.is_ready()

    def statistics(self) -> MemoryStatistics:
        """Return a snapshot of every stateful part."""
        return MemoryStatistics(
            store=self.store.statistics(),
            embedder=self.embedder and self.embedder.statistics(),
            backfill=self.backfill and self.backfill.statistics(),
        )

    async def _sweep_forever(self) -> None:
        while True:
            await self._clock.sleep(self._sweep_interval_s)
            try:
                await self.store.sweep()
            except PlexusError as error:
                log.warning("sweep-failed", reason=error.reason)
            except Exception as error:
                log.fault("sweep-fault", error)


async def build(
    settings: MemorySettings, *, clock: Clock, router: grpc.aio.Channel | None
) -> MemoryComponent:
    """Return the component, not started. `router` None or `embedding: false`: words alone."""
    store = make_store(settings, clock)
    embedder = None
    if router is not None and settings.embedding:
        embedder = Embedder(
            router_service_pb2_grpc.RouterServiceStub(router),
            clock=clock,
            adopt=store.adopt_model,
            model=settings.embedding_model,
            dimensions=settings.dimensions,
            cache_entries=settings.embedding_cache_entries,
            query_timeout_ms=settings.query_embed_timeout_ms,
            batch_timeout_ms=settings.embed_timeout_ms,
        )
    return MemoryComponent(settings, store, clock=clock, embedder=embedder)


def make_store(settings: MemorySettings, clock: Clock) -> MemoryStore:
    """Return the store that the settings ask for, not opened."""
    if settings.store == "server":
        # Imported here: the embedded mesh never pays for Qdrant's messages.
        from services.memory.server_store import ServerStore

        return ServerStore(
            settings.qdrant_url,
            clock=clock,
            api_key=settings.qdrant_api_key,
            collection=settings.collection,
            dimensions=settings.dimensions,
            call_timeout_ms=settings.call_timeout_ms,
            max_in_flight=settings.max_in_flight,
        )
    return EdgeStore(
        settings.data_dir or DEFAULT_DATA_DIR,
        clock=clock,
        dimensions=settings.dimensions,
        call_timeout_ms=settings.call_timeout_ms,
        max_in_flight=settings.max_in_flight,
        flush_interval_ms=settings.flush_interval_ms,
        optimize_idle_s=settings.optimize_idle_s,
    )
