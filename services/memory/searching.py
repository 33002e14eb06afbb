"""Search in its three modes, and what happens when embeddings cannot be had."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mesh.errors import PlexusError, Reason, Unavailable
from plexus.memory.v1 import memory_service_pb2 as pb
from services.memory.embedder import Embedder
from services.memory.store import Hit, MemoryStore, Query


@dataclass(frozen=True, slots=True)
class Found:
    """The hits; `degraded_reason` is not empty when the leg by meaning was left out."""

    hits: Sequence[Hit]
    degraded_reason: str = ""


class Searching:
    """Runs searches; without an embedder every search is by words."""

    def __init__(self, store: MemoryStore, embedder: Embedder | None) -> None:
        self._store = store
        self._embedder = embedder

    @property
    def best_mode(self) -> pb.SearchMode:
        """Hybrid, or by words where search by meaning is turned off: that is no degradation."""
        return pb.SEARCH_MODE_HYBRID if self._embedder else pb.SEARCH_MODE_LEXICAL

    async def search(self, tenant: str, query: Query, mode: pb.SearchMode) -> Found:
        """Return the hits of `query`, whose text is always given.

        Hybrid search answers by words alone when the embedder fails or is slow; search by meaning
        raises Unavailable(EMBEDDER_UNAVAILABLE). A hybrid leg of weight 0 is left out.
        """
        if mode not in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_DENSE):
            if query.dense_weight == 0:
                mode = pb.SEARCH_MODE_LEXICAL
            elif query.lexical_weight == 0:
                mode = pb.SEARCH_MODE_DENSE
        if mode == pb.SEARCH_MODE_LEXICAL:
            return Found(await self._store.search(tenant, query))
        try:
            vector = await self._vector(tenant, query.text or "")
        except PlexusError as error:
            if mode == pb.SEARCH_MODE_DENSE:
                raise
            return Found(await self._store.search(tenant, query), error.reason)
        text = None if mode == pb.SEARCH_MODE_DENSE else query.text
        return Found(await self._store.search(tenant, replace(query, text=text, vector=vector)))

    async def _vector(self, tenant: str, text: str) -> bytes:
        if self._embedder is None:
            raise Unavailable(
                "search by meaning is off here; set PLEXUS_MEMORY_EMBEDDING=true to have it",
                reason=Reason.EMBEDDER_UNAVAILABLE,
            )
        return await self._embedder.query(tenant, text)
