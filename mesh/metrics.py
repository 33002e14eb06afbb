"""Every Prometheus metric and its name, in one place, over one registry.

Names follow OpenTelemetry's `rpc.*` and `gen_ai.*` conventions in their Prometheus form; the
prefix `plexus_` is for what no convention covers. Labels are few: never a tenant, user, key or
anything a client can make up without a cap.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

_RPC_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10)
_OPERATION_BUCKETS_S = tuple(0.01 * 2**n for n in range(14))
_TOKEN_BUCKETS = tuple(4**n for n in range(14))

RPC_SERVER_DURATION = Histogram(
    "rpc_server_call_duration_seconds",
    "Duration of calls served, streams to their end.",
    ("rpc_method", "rpc_status_code"),
    buckets=_RPC_BUCKETS_S,
    registry=REGISTRY,
)
HTTP_SERVER_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Duration of HTTP requests served, streams to their end; 499 means the client went away.",
    ("http_route", "http_response_status_code"),
    buckets=_RPC_BUCKETS_S,
    registry=REGISTRY,
)
HTTP_CLIENT_RETRIES = Counter(
    "plexus_http_client_retries_total",
    "HTTP requests whose client says that it tried before.",
    registry=REGISTRY,
)
CALLS_IN_FLIGHT = Gauge(
    "plexus_calls_in_flight",
    "Calls running, by component; with the queued ones this is the demand to scale on.",
    ("component",),
    registry=REGISTRY,
)
CALLS_QUEUED = Gauge(
    "plexus_calls_queued",
    "Calls waiting for admission, by component.",
    ("component",),
    registry=REGISTRY,
)
CALLS_SHED = Counter(
    "plexus_calls_shed_total",
    "Calls refused because of overload, by component.",
    ("component",),
    registry=REGISTRY,
)
STAGE_DURATION = Histogram(
    "plexus_stage_duration_seconds",
    "Duration of pipeline stages.",
    ("stage",),
    buckets=_RPC_BUCKETS_S,
    registry=REGISTRY,
)
TURNS = Counter(
    "plexus_turns_total",
    "Turns ended, by outcome: completed, or the stable reason of the failure. A turn that fails "
    "after it started is a stream that ends with status OK, so calls alone do not show it.",
    ("outcome",),
    registry=REGISTRY,
)
PIPELINE_OVERHEAD = Histogram(
    "plexus_pipeline_overhead_seconds",
    "Duration of a turn minus what was spent waiting for the provider.",
    buckets=_RPC_BUCKETS_S,
    registry=REGISTRY,
)
CACHE_LOOKUPS = Counter(
    "plexus_cache_lookups_total",
    "Cache lookups by verdict.",
    ("verdict",),
    registry=REGISTRY,
)
OUTBOX_PENDING = Gauge(
    "plexus_outbox_pending",
    "Acknowledged writes that wait in the outbox for memory or the ledger.",
    registry=REGISTRY,
)
TOKEN_USAGE = Histogram(
    "gen_ai_client_token_usage",
    "Tokens per operation.",
    ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model", "gen_ai_token_type"),
    buckets=_TOKEN_BUCKETS,
    registry=REGISTRY,
)
OPERATION_DURATION = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "Duration of model operations as callers see them.",
    ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model"),
    buckets=_OPERATION_BUCKETS_S,
    registry=REGISTRY,
)
TIME_TO_FIRST_CHUNK = Histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "Time from the request to the first piece of a streamed answer.",
    ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model"),
    buckets=_TTFT_BUCKETS_S,
    registry=REGISTRY,
)
COST = Counter(
    "plexus_cost_usd_total",
    "US dollars spent on answers with a known price, rounded as floats are; the ledger is exact.",
    ("gen_ai_provider_name", "gen_ai_response_model"),
    registry=REGISTRY,
)
SAVED = Counter(
    "plexus_saved_usd_total",
    "US dollars that cached answers would have cost.",
    ("gen_ai_provider_name", "gen_ai_response_model"),
    registry=REGISTRY,
)

OVERFLOW_LABEL = "other"


class LabelCap:
    """Passes at most `limit` distinct values; later ones become `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return `value`, or `other` once the cap is reached."""
        if value in self._known:
            return value
        if len(self._known) >= self._limit:
            return OVERFLOW_LABEL
        self._known.add(value)
        return value


def exposition() -> bytes:
    """Return the registry in Prometheus' text format."""
    return generate_latest(REGISTRY)
