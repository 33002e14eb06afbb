"""Numbers as people read them."""

import pytest

from cli.figures import cost, count, milliseconds, money
from plexus.common.v1 import model_pb2


@pytest.mark.parametrize(
    ("nano_usd", "shown"),
    [
        (0, "$0"),
        (1, "$0.000000001"),
        (123_456, "$0.000123456"),
        (1_500_000, "$0.0015"),
        (10_000_000, "$0.01"),
        (1_234_567_890_000, "$1,234.57"),
    ],
)
def test_money_shows_the_leading_digits(nano_usd: int, shown: str) -> None:
    assert money(nano_usd) == shown


def test_an_unknown_price_is_not_zero() -> None:
    assert cost(model_pb2.Cost()) == "price unknown"
    assert cost(model_pb2.Cost(nano_usd=0)) == "free"
    assert cost(model_pb2.Cost(nano_usd=2_000_000)) == "$0.002"


@pytest.mark.parametrize(
    ("duration_ms", "shown"),
    [(0.04, "0.0 ms"), (9.94, "9.9 ms"), (10, "10 ms"), (9_999, "9999 ms"), (12_345, "12.3 s")],
)
def test_durations_have_as_many_digits_as_matter(duration_ms: float, shown: str) -> None:
    assert milliseconds(duration_ms) == shown


def test_nouns_follow_their_number() -> None:
    assert count(1, "memory") == "1 memory"
    assert count(2, "memory") == "2 memories"
    assert count(1200, "answer") == "1,200 answers"
