"""From an event to its entry: what costs, what saves, what is refused."""

import pytest

from mesh.errors import InvalidArgument
from plexus.common.v1 import model_pb2
from plexus.metrics.v1 import metrics_service_pb2 as pb
from services.metrics.booking import MAX_TOKENS, booking_of, check_events
from services.metrics.price import Rates, flat

NOW_NS = 1_700_000_000_000_000_000
PRICE = flat(
    Rates(input=10**9, cached_input=0, cache_write=0, output=10**9, reasoning=10**9),
    source="test",
    version="1",
)


def event(**changes: object) -> pb.UsageEvent:
    values: dict[str, object] = {
        "event_id": "e1",
        "provider": "openai",
        "model": "gpt-4o",
        "usage": model_pb2.Usage(input_tokens=100, output_tokens=10),
    }
    return pb.UsageEvent(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def test_a_priced_answer_costs() -> None:
    booked = booking_of(event(), tenant="acme", price=PRICE, now_ns=NOW_NS)
    assert booked.entry.cost == model_pb2.Cost(
        nano_usd=110_000, price_source="test", price_version="1"
    )
    assert not booked.entry.HasField("saved")
    assert booked.sums["cost"] == 110_000
    assert booked.entry.event.scope.tenant == "acme"
    assert booked.entry.event.event_time.ToNanoseconds() == NOW_NS


def test_an_unknown_price_is_absent_and_not_zero() -> None:
    booked = booking_of(event(), tenant="acme", price=None, now_ns=NOW_NS)
    assert booked.entry.HasField("cost")
    assert not booked.entry.cost.HasField("nano_usd")
    assert booked.sums["unpriced"] == 1
    assert "cost" not in booked.sums
    assert booked.sums["input"] == 100, "tokens count, priced or not"


def test_a_cached_answer_costs_nothing_and_saves_its_price() -> None:
    booked = booking_of(event(cached=True), tenant="acme", price=PRICE, now_ns=NOW_NS)
    assert booked.entry.cost.nano_usd == 0
    assert booked.entry.cost.HasField("nano_usd")
    assert booked.entry.saved.nano_usd == 110_000
    assert booked.sums == {"cached": 1, "saved": 110_000}
    unknown = booking_of(event(cached=True), tenant="acme", price=None, now_ns=NOW_NS)
    assert not unknown.entry.HasField("saved")
    assert "unpriced" not in unknown.sums


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
        ({"model": "x" * 257}, "model"),
        ({"model": "a\x1fb"}, "model"),
        ({"usage": model_pb2.Usage(input_tokens=-1)}, "usage.input_tokens"),
        ({"usage": model_pb2.Usage(output_tokens=MAX_TOKENS + 1)}, "usage.output_tokens"),
        ({"duration_ms": -1.0}, "duration_ms"),
        ({"duration_ms": float("nan")}, "duration_ms"),
        ({"time_to_first_token_ms": float("inf")}, "time_to_first_token_ms"),
        ({"stages": [pb.StageTiming(stage="", duration_ms=1)]}, "stages"),
        ({"stages": [pb.StageTiming(stage="s")] * 65}, "stages"),
    ],
)
def test_what_cannot_be_booked_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_events([event(), event(**changes)])
    assert caught.value.violations[0][0] == f"events[1].{field}"


def test_batches_are_bounded() -> None:
    check_events([event()] * 500)
    for count in (0, 501):
        with pytest.raises(InvalidArgument, match="events"):
            check_events([event()] * count)
