"""What a model's name asks the upstream for."""

import pytest

from bench.upstream import Pace, last_token, pace_of


@pytest.mark.parametrize(
    ("model", "pace"),
    [
        ("fast-64", Pace(0.0, 0.0, 64)),
        ("upstream/fast-8", Pace(0.0, 0.0, 8)),
        ("paced-50-100-48", Pace(0.05, 100.0, 48)),
    ],
)
def test_a_name_says_what_the_model_does(model: str, pace: Pace) -> None:
    assert pace_of(model) == pace


@pytest.mark.parametrize("model", ["", "fast", "fast-x", "paced-1-2", "gpt-4"])
def test_other_names_are_refused(model: str) -> None:
    with pytest.raises(ValueError, match=r"unknown model|invalid literal"):
        pace_of(model)


def test_an_answer_is_whole_when_its_last_word_is_there() -> None:
    assert last_token("openai/fast-64") == " token63"
