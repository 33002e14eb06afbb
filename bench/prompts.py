"""Texts for prompts and memories: the same for a seed, and spread over words as language is."""

import itertools
import random
from collections.abc import Callable

SYLLABLES = ("ka", "lo", "mi", "ren", "su", "ta", "vor", "eli", "na", "dro", "pe", "shi")
WORDS = tuple("".join(parts) for parts in itertools.product(SYLLABLES, SYLLABLES, SYLLABLES))
PROMPT_WORDS = 24
DRAWN = 4096
"""Texts that prompts take turns in: questions about the same few words would make every memory
relevant to every question."""


class Texts:
    """Draws texts; common words come as often as in a language (Zipf)."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._weights = list(itertools.accumulate(1 / (rank + 10) for rank in range(len(WORDS))))

    def words(self, count: int) -> str:
        """Return that many words."""
        return " ".join(self._chance.choices(WORDS, cum_weights=self._weights, k=count))


def fresh_prompts(seed: int) -> Callable[[int], str]:
    """Return what makes prompts of which no two are alike."""
    source = Texts(seed)
    texts = [source.words(PROMPT_WORDS) for _ in range(DRAWN)]
    number = itertools.count()

    def prompt(caller: int) -> str:
        at = next(number)
        return f"{at} {caller} {texts[at % DRAWN]}?"

    return prompt


def one_prompt(seed: int) -> Callable[[int], str]:
    """Return what makes the same prompt for ever."""
    text = Texts(seed).words(PROMPT_WORDS)
    return lambda _: text
