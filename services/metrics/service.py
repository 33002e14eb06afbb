"""The gRPC edge of metrics: decode, call, encode."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc.aio

from mesh.call import resolve_tenant
from mesh.errors import PermissionDenied, Reason, Unavailable
from mesh.pagination import decode_page_token, encode_page_token
from mesh.redis_link import RedisUnavailable
from mesh.validation import page_size, require
from plexus.common.v1 import model_pb2
from plexus.metrics.v1 import metrics_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2_grpc as pb_grpc
from services.metrics.accounts import Accounts, Summary
from services.metrics.booking import check_events
from services.metrics.latency import Series
from services.metrics.sketch import Sketch

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 500
DEFAULT_WINDOW_S: Final = 3600
MIN_WINDOW_S: Final = 60
MAX_WINDOW_S: Final = 86_400
RETRY_AFTER_S: Final = 1.0

_LISTING: Final = "ledger"

Context = grpc.aio.ServicerContext[Any, Any]


class MetricsService(pb_grpc.MetricsServiceServicer):
    """Serves `plexus.metrics.v1.MetricsService`; the contract is in its proto."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def RecordUsage(
        self, request: pb.RecordUsageRequest, context: Context
    ) -> pb.RecordUsageResponse:
        events = list(request.events)
        check_events(events)
        tenants = {resolve_tenant(event.scope) for event in events}
        if len(tenants) != 1:
            raise PermissionDenied("events of several tenants", reason=Reason.TENANT_MISMATCH)
        with _ledger_errors():
            return pb.RecordUsageResponse(
                entries=await self._accounts.record(tenants.pop(), events)
            )

    async def ListLedger(
        self, request: pb.ListLedgerRequest, context: Context
    ) -> pb.ListLedgerResponse:
        tenant = resolve_tenant(request.scope)
        size = page_size(request.page_size, default=DEFAULT_PAGE_SIZE, high=MAX_PAGE_SIZE)
        below = 0
        if request.page_token:
            position = decode_page_token(_LISTING, tenant.encode(), request.page_token)
            found = position.get("below")
            below = found if isinstance(found, int) else 0
        with _ledger_errors():
            page = await self._accounts.page(tenant, below=below, size=size)
        token = ""
        if page.next_below:
            token = encode_page_token(_LISTING, tenant.encode(), {"below": page.next_below})
        return pb.ListLedgerResponse(entries=page.entries, next_page_token=token)

    async def GetSummary(
        self, request: pb.GetSummaryRequest, context: Context
    ) -> pb.GetSummaryResponse:
        tenant = resolve_tenant(request.scope)
        window_s = request.window_s or DEFAULT_WINDOW_S
        require(
            MIN_WINDOW_S <= window_s <= MAX_WINDOW_S,
            "window_s",
            f"must be {MIN_WINDOW_S} to {MAX_WINDOW_S}",
        )
        with _ledger_errors():
            return _response(await self._accounts.summarise(tenant, window_s=window_s))


@contextmanager
def _ledger_errors() -> Generator[None]:
    try:
        yield
    except RedisUnavailable as error:
        raise Unavailable(
            "The ledger cannot be reached; what was not acknowledged may be sent again.",
            reason=Reason.LEDGER_UNAVAILABLE,
            retry_after_s=error.retry_after_s or RETRY_AFTER_S,
        ) from error


def _response(summary: Summary) -> pb.GetSummaryResponse:
    models = [
        pb.ModelTotals(provider=provider, model=model, totals=_totals(sums))
        for (provider, model), sums in summary.sums.models.items()
    ]
    models.sort(key=lambda m: (-m.totals.cost_nano_usd, m.provider, m.model))
    latencies = [_latency(*item) for item in sorted(summary.latencies.items())]
    return pb.GetSummaryResponse(
        totals=_totals(summary.sums.totals), models=models, latencies=latencies
    )


def _totals(sums: Mapping[str, int]) -> pb.Totals:
    return pb.Totals(
        event_count=sums.get("events", 0),
        cached_count=sums.get("cached", 0),
        usage=model_pb2.Usage(
            input_tokens=sums.get("input", 0),
            cached_input_tokens=sums.get("cached_input", 0),
            cache_write_input_tokens=sums.get("cache_write", 0),
            output_tokens=sums.get("output", 0),
            reasoning_output_tokens=sums.get("reasoning", 0),
            estimated=sums.get("estimated", 0) > 0,
        ),
        cost_nano_usd=sums.get("cost", 0),
        saved_nano_usd=sums.get("saved", 0),
        unpriced_count=sums.get("unpriced", 0),
    )


def _latency(series: Series, sketch: Sketch) -> pb.LatencySummary:
    p50, p95, p99 = sketch.quantiles((0.50, 0.95, 0.99))
    return pb.LatencySummary(
        kind=series.kind,
        name=series.name,
        count=sketch.count,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )
