"""Money arithmetic in whole numbers: no float takes part, so no cent drifts.

Rates are nano-USD per million tokens, amounts are nano-USD. An amount is summed exactly over all
kinds of tokens and rounded once, half up; sums of amounts are exact again.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from plexus.common.v1 import model_pb2

TOKENS_PER_RATE: Final = 1_000_000
NANO_PER_USD: Final = 1_000_000_000
REQUESTS_PER_RATE: Final = 1_000

MAX_USD_PER_RATE: Final = 100_000
"""A dearer price is a mistake; and amounts stay inside 63 bits."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a million tokens of each kind cost, in nano-USD."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    thousand_requests: int = 0
    """What a thousand requests cost beyond their tokens."""


@dataclass(frozen=True)
class Tier:
    """Rates for requests with more than `above_input_tokens` input tokens, for all their tokens."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of one model, from one source. `tiers` ascend and start at -1."""

    tiers: tuple[Tier, ...]
    source: str
    version: str

    def amount_nano_usd(self, usage: model_pb2.Usage) -> int:
        """Return what the usage costs."""
        rates = self.tiers[0].rates
        for tier in self.tiers:
            if usage.input_tokens > tier.above_input_tokens:
                rates = tier.rates
        return _amount(rates, usage)

    def cost(self, usage: model_pb2.Usage) -> model_pb2.Cost:
        """Return the amount with its source."""
        return model_pb2.Cost(
            nano_usd=self.amount_nano_usd(usage),
            price_source=self.source,
            price_version=self.version,
        )


def flat(rates: Rates, *, source: str, version: str) -> Price:
    """Return a price without tiers."""
    return Price(tiers=(Tier(-1, rates),), source=source, version=version)


FREE: Final = flat(
    Rates(input=0, cached_input=0, cache_write=0, output=0, reasoning=0),
    source="free",
    version="",
)
"""The price of what runs inside the mesh."""


def to_rate(usd: Decimal) -> int:
    """Return a rate from USD per million tokens; ValueError when it cannot be held exactly."""
    try:
        nano = usd * NANO_PER_USD
        whole = int(nano)
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise ValueError("is not a number") from error
    if usd < 0 or usd > MAX_USD_PER_RATE:
        raise ValueError(f"must be 0 to {MAX_USD_PER_RATE} USD")
    if whole != nano:
        raise ValueError("must have at most 9 decimals")
    return whole


def normalised(usage: model_pb2.Usage) -> model_pb2.Usage:
    """Return the usage with partitions that fit their totals.

    Providers now and then report parts larger than the whole; the whole is what they bill.
    """
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_input_tokens, usage.input_tokens - cached)
    return model_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        output_tokens=usage.output_tokens,
        reasoning_output_tokens=min(usage.reasoning_output_tokens, usage.output_tokens),
        estimated=usage.estimated,
    )


def _amount(rates: Rates, usage: model_pb2.Usage) -> int:
    """Each token is billed once, at the rate of its part."""
    parts = normalised(usage)
    plain = parts.input_tokens - parts.cached_input_tokens - parts.cache_write_input_tokens
    answer = parts.output_tokens - parts.reasoning_output_tokens
    exact = (
        plain * rates.input
        + parts.cached_input_tokens * rates.cached_input
        + parts.cache_write_input_tokens * rates.cache_write
        + answer * rates.output
        + parts.reasoning_output_tokens * rates.reasoning
        + rates.thousand_requests * (TOKENS_PER_RATE // REQUESTS_PER_RATE)
    )
    return (exact + TOKENS_PER_RATE // 2) // TOKENS_PER_RATE
