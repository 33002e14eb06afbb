"""Embeddings from the router: cached by content, one call at a time for the same text.

The cache's key holds the tenant: what one tenant has written must not show in another's timing.
When the router answers with another model than before, the cache is emptied and `adopt` is
awaited before any vector of that model is used, because vectors of two models do not compare.
"""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from mesh.breaker import Breaker
from mesh.call import Identity, outgoing_call, remaining_s
from mesh.clock import Clock
from mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    PlexusError,
    Reason,
    Unavailable,
    from_rpc_error,
)
from plexus.router.v1 import router_service_pb2, router_service_pb2_grpc
from services.memory.ids import fingerprint

PRINCIPAL = "memory"
MAX_FLIGHTS = 256
"""Different queries being embedded at one time before more are refused."""
DEADLINE_SHARE = 0.5
"""The most of a caller's remaining time that waiting for an embedding may take."""

Adopt = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderStatistics:
    """A snapshot; the counts never go down."""

    model: str
    calls: int
    failures: int
    cache_hits: int
    cache_entries: int


class Embedder:
    """Belongs to one event loop."""

    def __init__(
        self,
        router: router_service_pb2_grpc.RouterServiceStub,
        *,
        clock: Clock,
        adopt: Adopt,
        model: str,
        dimensions: int,
        cache_entries: int,
        query_timeout_ms: int,
        batch_timeout_ms: int,
    ) -> None:
        self._router = router
        self._adopt = adopt
        self._wanted_model = model
        self._dimensions = dimensions
        self._cache_entries = cache_entries
        self._query_timeout_s = query_timeout_ms / 1000
        self._batch_timeout_s = batch_timeout_ms / 1000
        self._breaker = Breaker(clock, failure_threshold=3, open_s=2.0)
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._flights: dict[str, asyncio.Task[bytes]] = {}
        self._adopting = asyncio.Lock()
        self._model = ""
        self._calls = self._failures = self._cache_hits = 0

    @property
    def model(self) -> str:
        """The model that made the vectors in use; empty before the first."""
        return self._model

    def statistics(self) -> EmbedderStatistics:
        """Return the counts since the start."""
        return EmbedderStatistics(
            model=self._model,
            calls=self._calls,
            failures=self._failures,
            cache_hits=self._cache_hits,
            cache_entries=len(self._cache),
        )

    async def query(self, tenant: str, text: str) -> bytes:
        """Return the vector of a search, within a share of the caller's time.

        Raises Unavailable(EMBEDDER_UNAVAILABLE), also when it takes too long, and
        FailedPrecondition(DIMENSION_MISMATCH).
        """
        key = fingerprint(tenant, text)
        if (known := self._cached(key)) is not None:
            return known
        flight = self._flights.get(key) or self._take_off(key, tenant, text)
        patience_s = min(
            self._query_timeout_s, DEADLINE_SHARE * remaining_s(self._query_timeout_s * 2)
        )
        # The flight goes on for whoever asks next; it is bounded by a timeout of its own.
        done, _ = await asyncio.wait({flight}, timeout=patience_s)
        if not done:
            raise _unavailable("the embedding did not come in time")
        return flight.result()

    async def batch(self, tenant: str, texts: Sequence[str]) -> list[bytes | None]:
        """Return the vectors of texts; None for one that the embedder calls invalid."""
        try:
            return list(await self._embed(tenant, texts, self._batch_timeout_s))
        except InvalidArgument:
            if len(texts) == 1:
                return [None]
        # One text spoils a batch; find it.
        return [vector for text in texts for vector in await self.batch(tenant, [text])]

    async def close(self) -> None:
        """Cancel what is in flight."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _take_off(self, key: str, tenant: str, text: str) -> asyncio.Task[bytes]:
        if len(self._flights) >= MAX_FLIGHTS:
            raise _unavailable("too many queries wait for their embedding")
        flight = asyncio.create_task(self._fly(tenant, text))
        self._flights[key] = flight
        flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    def _land(self, key: str, flight: asyncio.Task[bytes]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            # Nobody may be waiting any more; an error that nobody reads is no event.
            flight.exception()

    async def _fly(self, tenant: str, text: str) -> bytes:
        if not self._breaker.allow():
            raise _unavailable("the embedder has been failing; it is left alone for a moment")
        try:
            (vector,) = await self._embed(tenant, [text], 4 * self._query_timeout_s)
        except Unavailable:
            self._breaker.record_failure()
            raise
        except BaseException:
            self._breaker.abandon()
            raise
        self._breaker.record_success()
        return vector

    async def _embed(self, tenant: str, texts: Sequence[str], timeout_s: float) -> list[bytes]:
        keys = [fingerprint(tenant, text) for text in texts]
        known = {key: self._cached(key) for key in keys}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        if missing:
            vectors = await self._ask(tenant, list(missing.values()), timeout_s)
            for key, vector in zip(missing, vectors, strict=True):
                known[key] = vector
                self._keep(key, vector)
        return [vector for key in keys if (vector := known[key]) is not None]

    async def _ask(self, tenant: str, texts: list[str], timeout_s: float) -> list[bytes]:
        request = router_service_pb2.EmbedRequest(model=self._wanted_model, texts=texts)
        self._calls += 1
        try:
            with outgoing_call(Identity(tenant, PRINCIPAL), timeout_s=timeout_s):
                response = await self._router.Embed(request, timeout=timeout_s)
                vectors = self._checked(response, len(texts))
                await self._use_model(response.model)
        except grpc.aio.AioRpcError as error:
            self._failures += 1
            raise _meaning(from_rpc_error(error)) from error
        return vectors

    def _checked(self, response: router_service_pb2.EmbedResponse, count: int) -> list[bytes]:
        vectors = [array("f", vector.values) for vector in response.vectors]
        if len(vectors) == count and all(len(v) == self._dimensions for v in vectors):
            return [vector.tobytes() for vector in vectors]
        self._failures += 1
        raise FailedPrecondition(
            f"the model {response.model} gives embeddings of {response.dimensions} numbers, "
            f"and the index holds {self._dimensions}: set PLEXUS_MEMORY_EMBEDDING_MODEL to a "
            "model that fits",
            reason=Reason.DIMENSION_MISMATCH,
        )

    async def _use_model(self, model: str) -> None:
        async with self._adopting:
            if model != self._model:
                await self._adopt(model)
                self._cache.clear()
                self._model = model

    def _cached(self, key: str) -> bytes | None:
        vector = self._cache.get(key)
        if vector is not None:
            self._cache_hits += 1
            self._cache.move_to_end(key)
        return vector

    def _keep(self, key: str, vector: bytes) -> None:
        self._cache[key] = vector
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)


def _meaning(error: PlexusError) -> PlexusError:
    """A text that the embedder refuses is the text's fault; everything else is its own."""
    if isinstance(error, InvalidArgument):
        return error
    return _unavailable(f"the embedder answered {error.code.name}")


def _unavailable(why: str) -> Unavailable:
    return Unavailable(why, reason=Reason.EMBEDDER_UNAVAILABLE)
