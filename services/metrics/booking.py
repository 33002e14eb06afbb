"""From an event to its ledger entry: what it cost, what was saved, what it adds to the sums."""

from typing import Final

from mesh.validation import check_bytes, check_count, invalid, require
from plexus.metrics.v1 import metrics_service_pb2 as pb
from services.metrics.ledger import Booking
from services.metrics.price import Price, normalised

MAX_EVENTS: Final = 500
MAX_EVENT_ID_BYTES: Final = 128
MAX_NAME_BYTES: Final = 256
MAX_STAGES: Final = 64
MAX_TOKENS: Final = 1_000_000_000
"""In one event, of one kind: far above any context window, far below what sums cannot hold."""

MAX_DURATION_MS: Final = 7 * 86_400_000.0


def check_events(events: "list[pb.UsageEvent]") -> None:
    """Refuse what cannot be booked, with the field's name."""
    check_count(len(events), "events", low=1, high=MAX_EVENTS)
    for index, event in enumerate(events):
        _check(event, f"events[{index}]")


def _check(event: pb.UsageEvent, at: str) -> None:
    check_bytes(event.event_id, f"{at}.event_id", low=1, high=MAX_EVENT_ID_BYTES)
    for name in ("operation", "provider", "model", "requested_model", "request_id"):
        text: str = getattr(event, name)
        check_bytes(text, f"{at}.{name}", high=MAX_NAME_BYTES)
        require(text.isprintable(), f"{at}.{name}", "must be printable")
    for field, value in event.usage.ListFields():
        if field.name != "estimated":
            require(0 <= value <= MAX_TOKENS, f"{at}.usage.{field.name}", "must be 0 to 1e9")
    check_count(len(event.stages), f"{at}.stages", high=MAX_STAGES)
    for stage in event.stages:
        check_bytes(stage.stage, f"{at}.stages", low=1, high=MAX_NAME_BYTES)
        require(stage.stage.isprintable(), f"{at}.stages", "must be printable")
        _check_duration(stage.duration_ms, f"{at}.stages")
    for name in ("time_to_first_token_ms", "duration_ms", "upstream_ms"):
        _check_duration(getattr(event, name), f"{at}.{name}")


def _check_duration(value_ms: float, field: str) -> None:
    if not 0 <= value_ms <= MAX_DURATION_MS:
        raise invalid(field, "must be milliseconds from 0 to a week")


def booking_of(event: pb.UsageEvent, *, tenant: str, price: Price | None, now_ns: int) -> Booking:
    """Return the event's entry and sums. Pure; the event is copied.

    A cached answer costs nothing, price or no price, and its price is what it saved.
    """
    entry = pb.LedgerEntry(event_id=event.event_id, event=event)
    entry.event.scope.tenant = tenant
    if not entry.event.HasField("event_time"):
        entry.event.event_time.FromNanoseconds(now_ns)
    sums: dict[str, int] = {}
    if event.cached:
        entry.cost.nano_usd = 0
        entry.cost.price_source = "free"
        sums["cached"] = 1
        if price is not None:
            entry.saved.CopyFrom(price.cost(event.usage))
            sums["saved"] = entry.saved.nano_usd
    else:
        sums.update(_usage_sums(event))
        if price is not None:
            entry.cost.CopyFrom(price.cost(event.usage))
            sums["cost"] = entry.cost.nano_usd
        else:
            entry.cost.SetInParent()
            sums["unpriced"] = 1
    return Booking(entry, sums)


def _usage_sums(event: pb.UsageEvent) -> dict[str, int]:
    usage = normalised(event.usage)
    return {
        "input": usage.input_tokens,
        "cached_input": usage.cached_input_tokens,
        "cache_write": usage.cache_write_input_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.reasoning_output_tokens,
        "estimated": int(usage.estimated),
    }
