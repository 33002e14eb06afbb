"""Prices from the package `genai-prices`, turned into exact rates.

The package takes a quarter of a second to import and matches names by regular expressions, so
everything here blocks: call it in a thread, and remember what it says.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from services.metrics.price import Price, Rates, Tier, to_rate

SOURCE: Final = "genai-prices"

PriceAt = Callable[[int], Price | None]
"""The price at a moment in Unix seconds: some change on a date, some with the time of day."""


def find_price(provider: str, model: str) -> PriceAt | None:
    """Return the price of a model; None when it is not known. Blocks.

    An empty provider finds the one that the model's name belongs to.
    """
    import genai_prices
    from genai_prices import data_snapshot

    snapshot = data_snapshot.get_snapshot()
    try:
        _, found = snapshot.find_provider_model(model, None, provider or None, None)
    except LookupError:
        return None
    version = genai_prices.__version__

    def price_at(unix_s: int) -> Price | None:
        return _price(found.get_prices(datetime.fromtimestamp(unix_s, UTC)), version)

    return price_at


def _price(prices: Any, version: str) -> Price | None:
    """Rates for each tier; None when tokens are not what the provider counts."""
    if prices.input_mtok is None:
        return None
    starts = {-1}
    for name in ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok"):
        starts.update(tier.start for tier in getattr(getattr(prices, name), "tiers", ()))
    tiers = tuple(Tier(start, _rates(prices, start)) for start in sorted(starts))
    return Price(tiers=tiers, source=SOURCE, version=version)


def _rates(prices: Any, above: int) -> Rates:
    """What has no price of its own costs as much as what it is a part of."""
    plain = _usd(prices.input_mtok, above)
    answer = _usd(prices.output_mtok, above)
    return Rates(
        input=plain,
        cached_input=_usd(prices.cache_read_mtok, above, plain),
        cache_write=_usd(prices.cache_write_mtok, above, plain),
        output=answer,
        reasoning=_usd(prices.output_reasoning_mtok, above, answer),
        thousand_requests=_usd(prices.requests_kcount, above),
    )


def _usd(price: Any, above: int, default: int = 0) -> int:
    """The rate in the tier that starts above `above` input tokens."""
    if price is None:
        return default
    if isinstance(price, Decimal):
        return to_rate(price.quantize(_NANO))
    amount: Decimal = price.base
    for tier in price.tiers:
        if above >= tier.start:
            amount = tier.price
    return to_rate(amount.quantize(_NANO))


_NANO: Final = Decimal("1e-9")
