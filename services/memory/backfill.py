"""Gives stored memories their embeddings, after the fact and in batches.

The store itself is the queue: an item is pending until its vector is attached. Nothing is lost in
a crash, nothing is embedded twice for long, and there is no second list to bound. A vector is
attached to the revision whose text was embedded or to none, so a late one cannot land on newer
text.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import PlexusError
from mesh.logs import Log
from services.memory.embedder import Embedder
from services.memory.store import Embedded, MemoryStore, Pending

LINGER_S = 0.01
"""How long a first write waits for company in its batch."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
MAX_SKIPPED_TENANTS = 64
"""A pass ends when the embedder has refused this many tenants: it is down, not picky."""

log = Log("memory.backfill")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillStatistics:
    """A snapshot; the counts never go down."""

    attached: int
    refused: int
    outdated: int
    failures: int


class Backfill:
    """One background task; `run` is owned and cancelled by the component."""

    def __init__(
        self, store: MemoryStore, embedder: Embedder, *, clock: Clock, batch_size: int
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock
        self._batch_size = batch_size
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        # What a crash left pending is found by the first pass.
        self._wanted.set()
        self._attached = self._refused = self._outdated = self._failures = 0

    def wake(self) -> None:
        """Something was written."""
        self._idle.clear()
        self._wanted.set()

    async def settled(self) -> None:
        """Return once a pass has found nothing left to embed."""
        await self._idle.wait()

    def statistics(self) -> BackfillStatistics:
        """Return the counts since the start."""
        return BackfillStatistics(
            attached=self._attached,
            refused=self._refused,
            outdated=self._outdated,
            failures=self._failures,
        )

    async def run(self) -> None:
        """Embed what is pending whenever something may be; never returns."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            await self._wanted.wait()
            await self._clock.sleep(LINGER_S)
            self._wanted.clear()
            if await self._finished():
                backoff_s = FIRST_BACKOFF_S
                if not self._wanted.is_set():
                    self._idle.set()
            else:
                await self._clock.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                self._wanted.set()

    async def _finished(self) -> bool:
        try:
            return await self._pass()
        except Exception as error:
            # A fault of ours must not end embedding for good without a word.
            log.fault("backfill-fault", error)
            self._failures += 1
            return False

    async def _pass(self) -> bool:
        """Embed until nothing is pending; False when some of it could not be done now."""
        skipped: list[str] = []
        while len(skipped) < MAX_SKIPPED_TENANTS:
            try:
                batch = await self._store.pending(self._batch_size, skip_tenants=skipped)
            except PlexusError as error:
                self._note_failure(error)
                return False
            if not batch:
                break
            for tenant in dict.fromkeys(each.tenant for each in batch):
                mine = [each for each in batch if each.tenant == tenant]
                try:
                    await self._embed(tenant, mine)
                except PlexusError as error:
                    self._note_failure(error)
                    skipped.append(tenant)
        return not skipped

    async def _embed(self, tenant: str, batch: Sequence[Pending]) -> None:
        vectors = await self._embedder.batch(tenant, [each.text for each in batch])
        embedded = [
            Embedded(each.id, each.revision, vector)
            for each, vector in zip(batch, vectors, strict=True)
        ]
        took = await self._store.attach(tenant, embedded, model=self._embedder.model)
        refused = sum(vector is None for vector in vectors)
        self._attached += took
        self._refused += refused
        self._outdated += len(batch) - took

    def _note_failure(self, error: PlexusError) -> None:
        self._failures += 1
        log.warning("embedding-failed", reason=error.reason)
