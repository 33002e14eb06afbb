"""Token estimates: cheap, monotonic, and in the right region for each script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.tokens import estimate_tokens, token_eighths, tokens_from_eighths


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("The quick brown fox jumps over the lazy dog.", 9, 12),
        ("Быстрая лиса прыгает через собаку", 12, 22),
        ("今日はとても良い天気ですね", 10, 16),
    ],
)
def test_an_estimate_is_in_the_region_of_common_tokenizers(text: str, low: int, high: int) -> None:
    assert low <= estimate_tokens(text) <= high


@given(st.text(), st.text())
def test_a_longer_text_never_has_fewer_tokens(head: str, tail: str) -> None:
    assert estimate_tokens(head + tail) >= estimate_tokens(head)


@given(st.lists(st.text()))
def test_pieces_sum_to_the_whole(pieces: list[str]) -> None:
    eighths = sum(token_eighths(piece) for piece in pieces)
    assert tokens_from_eighths(eighths) == estimate_tokens("".join(pieces))


def test_a_lone_surrogate_is_counted_and_not_refused() -> None:
    assert estimate_tokens("\ud800") == 1
