"""Money: exact to the nano-dollar, whatever is added up in whatever order."""

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import FailedPrecondition
from plexus.common.v1 import model_pb2
from services.metrics.builtin import find_price
from services.metrics.catalogue import PriceCatalogue
from services.metrics.overrides import parse_overrides, read_overrides
from services.metrics.price import FREE, Price, Rates, Tier, flat, normalised, to_rate

NOW_S = 1_780_000_000
TOKENS = st.integers(0, 10**9)
RATES = st.integers(0, 10**14)


def usage(
    plain: int, cached: int = 0, written: int = 0, answer: int = 0, reasoning: int = 0
) -> model_pb2.Usage:
    """Usage from its parts, none of which is in another."""
    return model_pb2.Usage(
        input_tokens=plain + cached + written,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        output_tokens=answer + reasoning,
        reasoning_output_tokens=reasoning,
    )


def rates(
    input: int = 0, cached_input: int = 0, cache_write: int = 0, output: int = 0, reasoning: int = 0
) -> Rates:
    return Rates(
        input=input,
        cached_input=cached_input,
        cache_write=cache_write,
        output=output,
        reasoning=reasoning,
    )


def price(of: Rates) -> Price:
    return flat(of, source="test", version="1")


@given(st.tuples(*[TOKENS] * 5), st.tuples(*[RATES] * 5))
def test_an_amount_is_the_exact_sum_of_its_parts_rounded_once(
    tokens: tuple[int, ...], each: tuple[int, ...]
) -> None:
    exact = sum((Decimal(t) * r for t, r in zip(tokens, each, strict=True)), Decimal())
    expected = (exact / 1_000_000).quantize(Decimal(1), ROUND_HALF_UP)
    assert price(rates(*each)).amount_nano_usd(usage(*tokens)) == int(expected)


@given(st.tuples(*[TOKENS] * 5), RATES)
def test_parts_at_one_rate_cost_what_the_whole_costs(tokens: tuple[int, ...], rate: int) -> None:
    split = price(rates(*[rate] * 5)).amount_nano_usd(usage(*tokens))
    whole = price(rates(*[rate] * 5)).amount_nano_usd(
        usage(sum(tokens[:3]), answer=sum(tokens[3:]))
    )
    assert split == whole


@given(st.lists(st.tuples(TOKENS, RATES), max_size=50))
def test_sums_do_not_depend_on_the_order(events: list[tuple[int, int]]) -> None:
    amounts = [price(rates(rate)).amount_nano_usd(usage(tokens)) for tokens, rate in events]
    assert sum(amounts) == sum(sorted(amounts)) == sum(reversed(amounts))


@given(*[st.integers(0, 2000)] * 5)
def test_parts_larger_than_the_whole_are_cut_to_it(
    total: int, cached: int, written: int, output: int, reasoning: int
) -> None:
    fitted = normalised(
        model_pb2.Usage(
            input_tokens=total,
            cached_input_tokens=cached,
            cache_write_input_tokens=written,
            output_tokens=output,
            reasoning_output_tokens=reasoning,
        )
    )
    assert fitted.input_tokens == total
    assert fitted.cached_input_tokens + fitted.cache_write_input_tokens <= total
    assert fitted.reasoning_output_tokens <= output
    assert price(rates(cached_input=10, cache_write=10)).amount_nano_usd(fitted) >= 0


def test_half_a_nano_dollar_rounds_up() -> None:
    assert price(rates(500_000)).amount_nano_usd(usage(1)) == 1
    assert price(rates(499_999)).amount_nano_usd(usage(1)) == 0


def test_a_tier_applies_to_all_tokens_of_a_request_above_its_start() -> None:
    tiers = (Tier(-1, rates(1_000_000)), Tier(200, rates(3_000_000)))
    tiered = Price(tiers=tiers, source="test", version="1")
    assert tiered.amount_nano_usd(usage(200)) == 200
    assert tiered.amount_nano_usd(usage(201)) == 603


@pytest.mark.parametrize("usd", ["0", "0.1", "2.5", "0.000000001", "100000", "1e-9"])
def test_a_rate_is_held_exactly(usd: str) -> None:
    assert Decimal(to_rate(Decimal(usd))) / 10**9 == Decimal(usd)


@pytest.mark.parametrize("usd", ["-1", "100000.1", "0.0000000001", "NaN", "Infinity"])
def test_a_rate_that_cannot_be_held_is_refused(usd: str) -> None:
    with pytest.raises(ValueError, match="must|not a number"):
        to_rate(Decimal(usd))


def test_built_in_prices_agree_with_their_source() -> None:
    from genai_prices import Usage, calc_price

    cases = [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-pro")]
    for provider, model in cases:
        for size in (100, 300_000):
            parts = usage(size, cached=size // 2, answer=size // 3)
            price_at = find_price(provider, model)
            assert price_at is not None
            ours = price_at(NOW_S)
            assert ours is not None
            theirs = calc_price(
                Usage(
                    input_tokens=parts.input_tokens,
                    cache_read_tokens=parts.cached_input_tokens,
                    output_tokens=parts.output_tokens,
                ),
                model,
                provider_id=provider,
                genai_request_timestamp=None,
            )
            nano = int((theirs.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_UP))
            assert ours.amount_nano_usd(parts) == nano
            assert (ours.source, bool(ours.version)) == ("genai-prices", True)


async def test_unknown_is_not_free_and_offline_is() -> None:
    prices = PriceCatalogue()
    assert await prices.find("vllm", "my-own-model", at_s=NOW_S) is None
    assert await prices.find("openai", "no-such-model-at-all", at_s=NOW_S) is None
    assert await prices.find("offline", "extract", at_s=NOW_S) is FREE
    assert FREE.cost(usage(10)) == model_pb2.Cost(nano_usd=0, price_source="free")


FILE = """
version: "2026-11"
models:
  openai/gpt-4o: {input: "1.00", cached_input: "0.50", cache_write: "1.25", output: "4"}
  vllm/*: {input: "0.10", output: "0.20"}
"""


async def test_the_operators_prices_win(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(FILE)
    prices = PriceCatalogue(read_overrides(file))
    ours = await prices.find("openai", "gpt-4o", at_s=NOW_S)
    assert ours is not None
    cost = ours.cost(usage(1_000_000, cached=1_000_000, written=1_000_000, answer=1_000_000))
    assert cost.nano_usd == 6_750_000_000
    assert (cost.price_source, cost.price_version) == ("override", "2026-11")
    rest = await prices.find("vllm", "anything", at_s=NOW_S)
    assert rest is not None
    assert rest.amount_nano_usd(usage(0, cached=1_000_000)) == 100_000_000, "as input"


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        ([], "the file must be a map"),
        ({"modles": {}}, "unknown entry 'modles'"),
        ({"models": {"gpt-4o": {"input": "1", "output": "1"}}}, "provider/model"),
        ({"models": {"a/b": {"input": "1"}}}, "input and output are required"),
        ({"models": {"a/b": {"input": 1.5, "output": "1"}}}, "in quotes"),
        ({"models": {"a/b": {"input": "x", "output": "1"}}}, "'x' is not a number"),
        ({"models": {"a/b": {"input": "-1", "output": "1"}}}, "must be 0 to"),
        ({"models": {"a/b": {"price": "1"}}}, "unknown field 'price'"),
        ({"models": {"a/b": "1"}}, "a/b must be a map"),
    ],
)
def test_a_wrong_prices_file_says_what_is_wrong(loaded: object, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        parse_overrides(loaded, Path("prices.yaml"))


def test_a_missing_or_broken_prices_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        read_overrides(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("models: [")
    with pytest.raises(FailedPrecondition, match="not YAML"):
        read_overrides(tmp_path / "broken.yaml")
