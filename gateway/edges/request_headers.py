"""What a client says in HTTP headers, for every dialect. Pure."""

import math
import re
from collections.abc import Mapping

from gateway.edges.http_settings import HttpEdgeSettings
from mesh.validation import check_bytes
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.gateway.v1 import gateway_service_pb2 as pb

CONVERSATION_ID = "x-plexus-conversation-id"
AGENT_ID = "x-plexus-agent-id"
MEMORY = "x-plexus-memory"
IDEMPOTENCY_KEY = "idempotency-key"
RETRY_COUNT = "x-stainless-retry-count"

MAX_IDEMPOTENCY_KEY_BYTES = 128
_TOTAL_TIMEOUTS = ("x-request-timeout", "x-stainless-timeout")
_READ_TIMEOUT = "x-stainless-read-timeout"
_MAX_AGE = re.compile(r"max-age=(\d{1,9})\Z")

Headers = Mapping[str, str]


def timeout_s_of(headers: Headers, settings: HttpEdgeSettings, *, streamed: bool) -> float:
    """Return the request's deadline in seconds.

    A whole answer is one read to the client, so a read timeout shortens it; between the
    pieces of a stream heartbeats satisfy a read timeout, so there it says nothing.
    """
    for name in _TOTAL_TIMEOUTS:
        asked_s = _seconds(headers.get(name))
        if asked_s is not None:
            return min(asked_s, settings.max_timeout_s)
    read_s = None if streamed else _seconds(headers.get(_READ_TIMEOUT))
    return settings.timeout_s if read_s is None else min(read_s, settings.timeout_s)


def cache_control_of(headers: Headers) -> cache_pb.CacheControl:
    """Return what `Cache-Control` asks for; directives that mean nothing here are ignored."""
    control = cache_pb.CacheControl()
    for directive in headers.get("cache-control", "").lower().split(","):
        word = directive.strip()
        if word == "no-cache":
            control.no_cache = True
        elif word == "no-store":
            control.no_store = True
        elif age := _MAX_AGE.match(word):
            # No entry is younger than now; 0 would mean any age in the contract.
            seconds = int(age[1])
            control.no_cache = control.no_cache or seconds == 0
            control.max_age_ms = seconds * 1000
    return control


def memory_options_of(headers: Headers) -> pb.MemoryOptions:
    """Return the memory options; `x-plexus-memory: off` recalls and remembers nothing."""
    off = headers.get(MEMORY, "").strip().lower() == "off"
    return pb.MemoryOptions(no_recall=off, no_remember=off)


def idempotency_key_of(headers: Headers) -> str:
    """Return the idempotency key; empty without one."""
    key = headers.get(IDEMPOTENCY_KEY, "").strip()
    check_bytes(key, IDEMPOTENCY_KEY, high=MAX_IDEMPOTENCY_KEY_BYTES)
    return key


def is_client_retry(headers: Headers) -> bool:
    """Whether the client says that it has tried this before."""
    return headers.get(RETRY_COUNT, "0").strip() not in ("", "0")


def _seconds(text: str | None) -> float | None:
    """Return a positive number of seconds; None for what is absent or makes no sense."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None
