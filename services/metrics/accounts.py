"""Metrics itself: prices events, books them, and sums up."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mesh.clock import Clock
from mesh.metrics import LabelCap
from mesh.redis_link import RedisUnavailable
from plexus.metrics.v1 import metrics_service_pb2 as pb
from services.metrics.booking import booking_of
from services.metrics.catalogue import PriceCatalogue
from services.metrics.exposition import Exposition
from services.metrics.latency import Latencies, LatencyStatistics, Series
from services.metrics.ledger import Ledger, Page, Sums
from services.metrics.price import Price
from services.metrics.settings import MetricsSettings
from services.metrics.sketch import Sketch

OLDEST_LATENCY_S: Final = 86_400
"""Latencies of events older than this are not observed: no window would show them."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A tenant's sums, and the latencies of all tenants together."""

    sums: Sums
    latencies: dict[Series, Sketch]


@dataclass(frozen=True, kw_only=True)
class AccountStatistics:
    """A snapshot; counts never go down."""

    booked: int
    duplicates: int
    unpriced: int
    failed_flushes: int
    latencies: LatencyStatistics


class Accounts:
    """The ledger with its prices, latencies and Prometheus metrics. `start`, use, `close`.

    `record`, `page` and `summarise` raise RedisUnavailable within a bounded time. `record` may be
    cancelled or fail at any point and repeated with the same events: they are booked once.
    """

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        ledger: Ledger,
        latencies: Latencies,
        prices: PriceCatalogue,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._latencies = latencies
        self._prices = prices
        self._clock = clock
        self._exposition = Exposition(max_models=settings.max_models)
        self._stage = LabelCap(settings.max_stages)
        self._model = LabelCap(settings.max_models)
        self._flusher: asyncio.Task[None] | None = None
        self._booked = 0
        self._duplicates = 0
        self._unpriced = 0
        self._failed_flushes = 0

    async def start(self) -> None:
        """Begin to flush latencies."""
        self._flusher = asyncio.create_task(self._flush_often(), name="metrics-flush")

    async def close(self) -> None:
        """Stop flushing after one last try."""
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
            self._flusher = None
        with contextlib.suppress(RedisUnavailable):
            await self._latencies.flush()

    async def record(self, tenant: str, events: Sequence[pb.UsageEvent]) -> list[pb.LedgerEntry]:
        """Book the events and return their entries, in the order of the events."""
        now_ns = self._clock.time_ns()
        bookings = [
            booking_of(
                event,
                tenant=tenant,
                price=await self._price(event, now_ns // 1_000_000_000),
                now_ns=now_ns,
            )
            for event in events
        ]
        entries = await self._ledger.book(tenant, bookings)
        for entry in entries:
            self._count(entry)
        return entries

    async def page(self, tenant: str, *, below: int, size: int) -> Page:
        """Read one page of the ledger; see `Ledger.page`."""
        return await self._ledger.page(tenant, below=below, size=size)

    async def summarise(self, tenant: str, *, window_s: int) -> Summary:
        """Read the tenant's sums and the percentiles of the last `window_s` seconds."""
        until_s = self._clock.time_ns() // 1_000_000_000
        sums, latencies = await asyncio.gather(
            self._ledger.sums(tenant), self._latencies.read(until_s=until_s, window_s=window_s)
        )
        return Summary(sums, latencies)

    def statistics(self) -> AccountStatistics:
        """A snapshot."""
        return AccountStatistics(
            booked=self._booked,
            duplicates=self._duplicates,
            unpriced=self._unpriced,
            failed_flushes=self._failed_flushes,
            latencies=self._latencies.statistics(),
        )

    async def _price(self, event: pb.UsageEvent, now_s: int) -> Price | None:
        """Unknown without a provider, unless the answer was cached: then the model tells."""
        if not event.model or not (event.provider or event.cached):
            return None
        at_s = event.event_time.seconds if event.HasField("event_time") else now_s
        return await self._prices.find(event.provider, event.model, at_s=at_s)

    def _count(self, entry: pb.LedgerEntry) -> None:
        if entry.duplicate:
            self._duplicates += 1
            return
        self._booked += 1
        self._unpriced += not entry.cost.HasField("nano_usd")
        self._exposition.count(entry)
        self._observe(entry.event)

    def _observe(self, event: pb.UsageEvent) -> None:
        """A cached answer says nothing about its model; its stages count like any other's."""
        now_s = self._clock.time_ns() // 1_000_000_000
        at_s = min(event.event_time.seconds, now_s)
        if at_s < now_s - OLDEST_LATENCY_S:
            return
        for stage in event.stages:
            series = Series("stage", self._stage(stage.stage))
            self._latencies.observe(series, stage.duration_ms, at_s=at_s)
        if event.cached or event.outcome not in (pb.OUTCOME_UNSPECIFIED, pb.OUTCOME_COMPLETED):
            return
        model = self._model(event.model)
        self._latencies.observe(Series("duration", model), event.duration_ms, at_s=at_s)
        if event.time_to_first_token_ms > 0:
            series = Series("time_to_first_token", model)
            self._latencies.observe(series, event.time_to_first_token_ms, at_s=at_s)

    async def _flush_often(self) -> None:
        while True:
            await self._clock.sleep(self._settings.flush_interval_ms / 1000)
            try:
                await self._latencies.flush()
            except RedisUnavailable:
                self._failed_flushes += 1  # the link has logged that Redis is away
