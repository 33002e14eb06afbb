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
        if limit < 1 or queue_limit < 0:
            raise ValueError("limit must be at least 1, queue_limit at least 0")
        self._clock = clock
        self._limit = limit
        self._queue_limit = queue_limit
        self._running = 0
        self._queued = 0
        self._shed_count = 0
        self._order = itertools.count()
        # Those who left early stay in the heap until they surface, or `_forget` clears it.
        self._queue: list[tuple[int, float, int, asyncio.Future[None]]] = []

    def statistics(self) -> AdmissionStatistics:
        """Return current counts."""
        return AdmissionStatistics(self._running, self._queued, self._shed_count)

    async def acquire(
        self, *, deadline_s: float | None = None, priority: int = DEFAULT_PRIORITY
    ) -> None:
        """Return once admitted; the caller must `release`. Lower `priority` goes first.

        Raises ResourceExhausted(OVERLOADED) when the queue is full, DeadlineExceeded when the
        deadline passes in the queue. A cancelled waiter leaves the queue.
        """
        if self._running < self._limit:
            self._running += 1
            return
        if self._queued >= self._queue_limit:
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
                self._queued -= 1
                admitted.set_result(None)
                return
        self._running -= 1

    async def _wait(self, deadline_s: float, priority: int) -> None:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, deadline_s, next(self._order), admitted))
        self._queued += 1
        try:
            await self._admitted_by(deadline_s, admitted)
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                # Admitted in the same tick: the place is ours, so pass it on.
                self.release()
            else:
                self._forget(admitted)
            raise
        if not admitted.done():
            self._forget(admitted)
            self._shed_count += 1
            raise DeadlineExceeded("the deadline passed while the call was queued")

    async def _admitted_by(self, deadline_s: float, admitted: asyncio.Future[None]) -> None:
        """Return when admitted, or when the deadline has passed."""
        if deadline_s == math.inf:
            await admitted
            return
        left_s = deadline_s - self._clock.monotonic_s()
        expiry = asyncio.ensure_future(self._clock.sleep(left_s))
        try:
            await asyncio.wait((admitted, expiry), return_when=asyncio.FIRST_COMPLETED)
        finally:
            expiry.cancel()

    def _forget(self, admitted: asyncio.Future[None]) -> None:
        """Take one who will not come out of the queue."""
        admitted.cancel()
        self._queued -= 1
        if len(self._queue) > 2 * self._queued + 16:
            self._queue = [entry for entry in self._queue if not entry[3].done()]
            heapq.heapify(self._queue)
