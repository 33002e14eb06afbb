"""Answers by quotation: the sentences of the given context that fit a question best.

Lexical and deterministic: words are folded to rough stems, common words do not count, and rare
words of the context weigh more than frequent ones. No language model, no randomness, no clock.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SENTENCES = 3
"""The most sentences in an answer."""

NEAR_BEST = 0.6
"""A further sentence is quoted only when it scores this much of the best one."""

MAX_CONTEXT_SENTENCES = 2_000
"""Sentences that are considered; the newest win."""

_BOUNDARY = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？])")
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_]+(?:['’][^\W_]+)?")
_LEAD = re.compile(
    r"^(?:[\s#>*•\-]+|\d+[.)]\s|\[[^\]]*\]\s*|(?:user|assistant|tool)\s*:\s*)+", re.IGNORECASE
)
"""List marks, headings, bracketed dates and speakers' labels in front of a sentence."""

_COMMON = """
a about after all also am an and any are as at be been before being but by can could did do does
doing for from further get give had has have having he her here him his how i i'd i'll i'm i've if
in into is it it's its just know let like me mine more most my no not now of off on once only or
other our out over own please remember same say she should show so some such tell than that that's
the their them then there these they this those through to told too under until up us user user's
was we were what what's when where where's which while who who's whom whose why will with would
you your yours
"""
STOP_WORDS = frozenset(_COMMON.split())
"""Words too common to tell one sentence from another."""

_PERSONAL = frozenset({"i", "i'm", "i've", "i'll", "i'd", "my", "me", "mine", "we", "our"})
_ENDINGS = (
    "ingly",
    "edly",
    "ings",
    "ing",
    "ied",
    "ies",
    "ers",
    "er",
    "ed",
    "es",
    "ly",
    "s",
    "e",
    "y",
)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text that may be quoted. `weight` scales its sentences' scores."""

    text: str
    weight: float = 1.0


def best_sentences(question: str, passages: Sequence[Passage]) -> list[str]:
    """Return the one to three sentences that answer best, in source order; none when none fits."""
    sentences = _sentences(passages)
    if not sentences:
        return []
    asked = _stems(question)
    bags = [Counter(_stems(sentence)) for sentence, _ in sentences]
    idf = _inverse_frequencies(bags)
    is_personal = _speaks_of_self(question)
    scores = [
        weight * _score(asked, bag, idf) * (1.25 if is_personal and _speaks_of_self(text) else 1.0)
        for (text, weight), bag in zip(sentences, bags, strict=True)
    ]
    # What says the same in the same words is quoted once, in its newest form.
    distinct = {frozenset(bags[at]): sentences[at][0] for at in _chosen(scores)}
    return list(distinct.values())


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, without list marks and labels in front of them."""
    pieces = (_LEAD.sub("", piece).strip() for piece in _BOUNDARY.split(text))
    return [piece for piece in pieces if _WORD.search(piece)]


def is_question(sentence: str) -> bool:
    """Whether a sentence asks."""
    return sentence.rstrip("\"')]} ").endswith(("?", "？"))


def stem(word: str) -> str:
    """Fold a lower-case word to a rough stem, the same for its common inflections."""
    word = word.removesuffix("'s")
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _sentences(passages: Sequence[Passage]) -> list[tuple[str, float]]:
    """Split all passages; questions cannot answer, and of repeated sentences the last remains."""
    found: dict[str, float] = {}
    for passage in passages:
        for sentence in split_sentences(passage.text):
            if not is_question(sentence):
                found.pop(sentence, None)
                found[sentence] = passage.weight
    return list(found.items())[-MAX_CONTEXT_SENTENCES:]


def _stems(text: str) -> list[str]:
    words = (match.group().lower().replace("’", "'") for match in _WORD.finditer(text))
    return [stem(word) for word in words if word not in STOP_WORDS]


def _inverse_frequencies(bags: Sequence[Counter[str]]) -> dict[str, float]:
    counts = Counter(term for bag in bags for term in bag)
    return {term: math.log(1 + len(bags) / count) for term, count in counts.items()}


def _score(asked: Sequence[str], bag: Counter[str], idf: dict[str, float]) -> float:
    """Sum the weight of the question's words found, damped for long sentences."""
    found = sum(idf.get(term, 0.0) for term in dict.fromkeys(asked) if bag[term])
    return found / (1 + 0.03 * sum(bag.values()))


def _chosen(scores: Sequence[float]) -> list[int]:
    """Return the positions to quote. Of equals the later wins: newer facts correct older ones."""
    ranked = sorted(range(len(scores)), key=lambda at: (scores[at], at), reverse=True)
    bar = scores[ranked[0]] * NEAR_BEST
    return sorted(at for at in ranked[:MAX_SENTENCES] if scores[at] > 0 and scores[at] >= bar)


def _speaks_of_self(text: str) -> bool:
    return any(match.group().lower() in _PERSONAL for match in _WORD.finditer(text))
