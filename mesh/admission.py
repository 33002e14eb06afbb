"""Bounded concurrency with a queue that knows priorities and deadlines.

Callers beyond the limit wait, most urgent first: by priority, then earliest deadline, then
arrival. Beyond the queue, or when a queued call's deadline passes, the call is shed at once,
so that overload costs the shed callers little and the admitted ones nothing.
"""

import asyncio
import heapq
import itertools
import math
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import DeadlineExceeded, Reason, ResourceExhausted

RETRY_AFTER_S = 1.0
"""What shed callers are told to wait; clients add jitter of their own."""
DEFAULT_PRIORITY = 1


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """A snapshot. `running` never exceeds the limit; demand is `running + queued`."""

    running: int
    queued: int
    shed_count: int


class Admission:
    """Admits at most `limit` calls at once and queues at most `queue_limit`."""

    def __init__(self, clock: Clock, *, limit: int, queue_limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._queue_limit = queue_limit
        self._running = 0
        self._shed_count = 0
        self._order = itertools.count()
        self._queue: list[tuple[int, float, int, asyncio.Future[None]]] = []

    def statistics(self) -> AdmissionStatistics:
        """Return current counts."""
        return AdmissionStatistics(self._running, self._queued(), self._shed_count)

    async def acquire(
        self, *, deadline_s: float | None = None, priority: int = DEFAULT_PRIORITY
    ) -> None:
        """Return once admitted; the caller must `release`. Lower `priority` goes first.

        Raises ResourceExhausted(OVERLOADED) when the queue is full, DeadlineExceeded when the
        deadline passes in the queue. A cancelled waiter leaves the queue.
        """
        if self._running < self._limit and not self._queued():
            self._running += 1
            return
        if self._queued() >= self._queue_limit:
            self._shed_count += 1
            raise ResourceExhausted(
                "too many calls in progress; try again shortly",
                reason=Reason.OVERLOADED,
                retry_after_s=RETRY_AFTER_S,
            )
        await self._wait(math.inf if deadline_s is None else deadline_s, priority)

    def release(self) -> None:
        """Give the place to the most urgent waiter, or free it."""
        while self._queue:
            _, _, _, admitted = heapq.heappop(self._queue)
            if not admitted.done():
                admitted.set_result(None)
                return
        self._running -= 1

    async def _wait(self, deadline_s: float, priority: int) -> None:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, deadline_s, next(self._order), admitted))
        left_s = None if deadline_s == math.inf else deadline_s - self._clock.monotonic_s()
        try:
            async with asyncio.timeout(left_s):
                await admitted
        except (TimeoutError, asyncio.CancelledError) as error:
            if admitted.done() and not admitted.cancelled():
                # Admitted in the same tick: the place is ours, so pass it on.
                self.release()
            admitted.cancel()
            if isinstance(error, TimeoutError):
                self._shed_count += 1
                raise DeadlineExceeded("the deadline passed while the call was queued") from error
            raise

    def _queued(self) -> int:
        while self._queue and self._queue[0][3].done():
            heapq.heappop(self._queue)
        return len(self._queue)
