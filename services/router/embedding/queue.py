"""Batches texts of concurrent calls, joins identical ones, and remembers recent vectors.

One batch runs at a time; what arrives meanwhile forms the next one, first come, first served. So
load makes batches large by itself, and only an idle embedder waits a moment for company.
"""

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import Internal, PlexusError, Reason, ResourceExhausted, Unavailable
from plexus.router.v1 import router_service_pb2 as pb

ENTRY_OVERHEAD_BYTES = 300
"""What a remembered vector costs beside its components."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One text's vector. Never changed once made: it is shared by all who ask for the text."""

    vector: pb.Vector
    input_tokens: int


Encode = Callable[[Sequence[str]], Awaitable[Sequence[Encoded]]]
"""Turns one batch of texts into vectors, in order; raises PlexusError."""


@dataclass(kw_only=True)
class QueueStatistics:
    """Counts since the start, but for `queued` and `cached_bytes`."""

    queued: int = 0
    cached_bytes: int = 0
    batches: int = 0
    texts: int = 0
    cache_hits: int = 0
    joined: int = 0
    refused: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The vectors of one call. Tokens of texts that were known already count as cached."""

    vectors: list[pb.Vector]
    input_tokens: int
    cached_input_tokens: int


class EmbeddingQueue:
    """Owns one task. Refuses with OVERLOADED when more than `max_queued` texts would wait."""

    def __init__(
        self,
        encode: Encode,
        *,
        clock: Clock,
        max_batch: int,
        max_wait_s: float,
        max_queued: int,
        cache_bytes: int,
    ) -> None:
        self._encode = encode
        self._clock = clock
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_queued = max_queued
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[bytes, Encoded] = OrderedDict()
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._in_flight: dict[bytes, asyncio.Future[Encoded]] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.statistics = QueueStatistics()

    def start(self) -> None:
        """Begin to work off the queue."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="embedding-queue")

    async def close(self) -> None:
        """Stop. Calls that still wait fail with EMBEDDER_UNAVAILABLE."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._waiting.clear()
        self._fail(list(self._in_flight), _closing())

    async def embed(self, texts: Sequence[str]) -> Answer:
        """Return the texts' vectors. Cancelling leaves the batch to those who share it."""
        keys = [_key(text) for text in texts]
        known = {key: self._cache[key] for key in keys if key in self._cache}
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        joined = [key for key in fresh if key in self._in_flight]
        self._admit({key: text for key, text in fresh.items() if key not in self._in_flight})
        self._count(known, joined)
        awaited = {key: self._in_flight[key] for key in fresh}
        if awaited:
            await asyncio.wait(awaited.values())
        found = {**known, **{key: future.result() for key, future in awaited.items()}}
        return Answer(
            vectors=[found[key].vector for key in keys],
            input_tokens=sum(found[key].input_tokens for key in keys),
            cached_input_tokens=sum(found[key].input_tokens for key in keys if key in known),
        )

    def _admit(self, texts: dict[bytes, str]) -> None:
        if len(self._waiting) + len(texts) > self._max_queued:
            self.statistics.refused += 1
            raise ResourceExhausted("too many texts wait to be embedded", retry_after_s=0.5)
        loop = asyncio.get_running_loop()
        for key, text in texts.items():
            self._in_flight[key] = loop.create_future()
            self._waiting.append((key, text))
        self.statistics.queued = len(self._waiting)
        if texts:
            self._arrived.set()

    def _count(self, known: dict[bytes, Encoded], joined: list[bytes]) -> None:
        for key in known:
            self._cache.move_to_end(key)
        self.statistics.cache_hits += len(known)
        self.statistics.joined += len(joined)

    async def _work(self) -> None:
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                if len(self._waiting) < self._max_batch:
                    await self._clock.sleep(self._max_wait_s)
            await self._run_batch()

    async def _run_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        keys = [key for key, _ in batch]
        self.statistics.queued = len(self._waiting)
        self.statistics.batches += 1
        self.statistics.texts += len(batch)
        try:
            results = await self._encode([text for _, text in batch])
        except PlexusError as error:
            self._fail(keys, error)
        except asyncio.CancelledError:
            self._fail(keys, _closing())
            raise
        except Exception as error:
            # The queue must outlive one bad batch; whoever waits for it learns of it.
            self._fail(keys, Internal(f"embedding failed: {type(error).__name__}"))
        else:
            for key, result in zip(keys, results, strict=True):
                self._in_flight.pop(key).set_result(result)
                self._remember(key, result)

    def _fail(self, keys: Sequence[bytes], error: PlexusError) -> None:
        for key in keys:
            future = self._in_flight.pop(key)
            future.set_exception(error)
            # Whoever waited may be gone; an error nobody reads is not worth a log line.
            future.exception()

    def _remember(self, key: bytes, result: Encoded) -> None:
        size = _size(result)
        if size > self._cache_bytes:
            return
        self._cache[key] = result
        self.statistics.cached_bytes += size
        while self.statistics.cached_bytes > self._cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            self.statistics.cached_bytes -= _size(oldest)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _size(result: Encoded) -> int:
    return 4 * len(result.vector.values) + ENTRY_OVERHEAD_BYTES


def _closing() -> PlexusError:
    return Unavailable("the embedder is closing", reason=Reason.EMBEDDER_UNAVAILABLE)
