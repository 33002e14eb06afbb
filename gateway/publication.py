"""Publishes one run's events to Redis, beside the run and never in its way.

Events that come while a round trip is on its way leave together in the next one. While Redis does
not take them the run goes on; its reader is told once, and what was missed is sent when Redis is
back, so that the run can be resumed elsewhere again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

from gateway.runs import Run
from gateway.shared_log import EVENTS_PER_CALL, Appended, SharedLog
from mesh.clock import Clock
from mesh.errors import Reason
from mesh.redis_link import RedisUnavailable
from plexus.gateway.v1 import gateway_service_pb2 as pb

RETRY_S = 0.25
"""Between two attempts while Redis does not answer."""


class Publication:
    """One run as other gateways see it. Owned by `SharedRuns`, which runs and renews it."""

    def __init__(
        self,
        run: Run,
        log: SharedLog,
        clock: Clock,
        *,
        patience_s: float,
        on_read: Callable[[Run, bool], None],
        doubtful: bool,
    ) -> None:
        """After the run's end Redis has `patience_s` to take the rest. `on_read` is told when a
        reader on another gateway comes, and when there is none any more. `doubtful`: Redis did
        not answer when the run's key was claimed.
        """
        self._run = run
        self._log = log
        self._clock = clock
        self._patience_s = patience_s
        self._on_read = on_read
        self._doubtful = doubtful
        self._sent = 0
        self._is_read = False
        self._warned = False
        self.task: asyncio.Task[None] | None = None

    async def publish(self) -> None:
        """Send events until the terminal one is in Redis, or cannot be brought there."""
        give_up_s: float | None = None
        while not (self._run.ended and self._sent >= self._run.sequence):
            events = await self._next()
            if self._doubtful:
                self.warn()
            first = self._sent + 1
            try:
                self._heed(await self._append(first, events, ended=self._is_end(first, events)))
                give_up_s = None
            except RedisUnavailable:
                self.warn()
                now_s = self._clock.monotonic_s()
                give_up_s = now_s + self._patience_s if give_up_s is None else give_up_s
                if self._run.ended and now_s >= give_up_s:
                    return
                await self._clock.sleep(RETRY_S)
        await self._settle_key()

    async def renew(self) -> None:
        """Renew the lease, and learn whether somebody elsewhere reads or cancels the run."""
        if self._run.ended or not self._sent:
            return
        try:
            if self._run.key is not None:
                await self._log.keep_key(*self._run.key, execution=self._run.booking_id)
            appended = await self._append(self._sent + 1, (), ended=False)
        except RedisUnavailable:
            return
        if not self._run.ended:
            self._heed(appended, renewed=True)

    def stop(self) -> None:
        """Count a reader elsewhere out: nothing more will be heard of it."""
        self._see(False)

    def warn(self) -> None:
        """Tell the reader, once, that nobody else knows this run."""
        if self._warned or self._run.ended:
            return
        self._warned = True
        warning = pb.Warning(
            reason=Reason.RESUME_UNAVAILABLE,
            component="gateway",
            message="Redis does not answer: only this gateway can resume this turn",
        )
        self._run.append(pb.ChatResponse(warning=warning))

    async def _next(self) -> list[bytes]:
        """Return what is to be sent; waits until there is anything."""
        events: list[bytes] = []
        async with aclosing(self._run.follow(self._sent)) as following:
            async for event in following:
                events.append(event.SerializeToString())
                if event.sequence >= self._run.sequence or len(events) >= EVENTS_PER_CALL:
                    break
        return events

    def _is_end(self, first: int, events: list[bytes]) -> bool:
        return self._run.ended and first + len(events) > self._run.sequence

    async def _append(self, first: int, events: Sequence[bytes], *, ended: bool) -> Appended:
        return await self._log.append(
            self._run.booking_id,
            tenant=self._run.tenant,
            token=self._run.resume_token,
            first=first,
            events=events,
            ended=ended,
        )

    def _heed(self, appended: Appended, *, renewed: bool = False) -> None:
        if not renewed:
            # Less than was sent when Redis has lost something: the next round sends it again.
            self._sent = appended.last
        if appended.cancelled:
            self._run.cancel()
        self._see(appended.is_read)

    def _see(self, is_read: bool) -> None:
        if is_read != self._is_read:
            self._is_read = is_read
            self._on_read(self._run, is_read)

    async def _settle_key(self) -> None:
        if self._run.key is None:
            return
        try:
            await self._log.settle_key(
                *self._run.key, execution=self._run.booking_id, keep=not self._run.is_lost
            )
        except RedisUnavailable:
            return  # it ends by itself, with its lease
